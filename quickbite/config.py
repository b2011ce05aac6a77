"""Where the services are, and who asks."""

from typing import Annotated, Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(gt=0, le=65535)]
SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")


def _port(default: int, digits: int | None = None) -> Any:
    """A port that `port_base` moves as the stack does it: to that number plus the last two digits of the default."""
    more = default % 100 if digits is None else digits
    return Field(
        default_factory=lambda read: read["port_base"] + more if read.get("port_base") else default,
        json_schema_extra={"default": default},
    )


class Settings(BaseSettings):
    """Read from the environment. The defaults fit the stack of `make up`."""

    model_config = SettingsConfigDict(env_ignore_empty=True, use_attribute_docstrings=True)

    quickbite_host: str = "127.0.0.1"
    """The machine of the services. `{service}` in it is the name of the service."""
    port_base: Annotated[int, Field(gt=0, le=65_400)] | None = None
    """Moves every port that has no variable of its own: to this number plus the last two digits of its default."""
    orders_port: Port = _port(8080)
    """The port of orders."""
    inventory_port: Port = _port(8081)
    """The port of inventory."""
    payments_port: Port = _port(8082)
    """The port of payments."""
    auth_port: Port = _port(8083)
    """The port of auth."""
    users_port: Port = _port(8084)
    """The port of users."""
    products_port: Port = _port(8085)
    """The port of products."""
    gateway_port: Port = _port(80, 0)
    """The port of the gateway."""
    kafka_port: Port = _port(9092)
    """The port of Kafka."""
    admin_password: str = "password"  # noqa: S105 - of the stack on one's own machine
    """The password of `admin`."""
    quickbite_token: str = ""
    """An administrator's access token, instead of the password."""

    def address(self, service: str) -> str:
        return f"http://{self.place(service)}"

    def place(self, program: str) -> str:
        """Host and port of a service, of the gateway or of Kafka."""
        host = self.quickbite_host.replace("{service}", program)
        return f"{host}:{getattr(self, f'{program}_port')}"
