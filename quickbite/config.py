"""Where the services are, and who asks."""

from typing import Annotated, Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(gt=0, le=65535)]
SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")


def _port(default: int) -> Any:
    """A port that `port_base` moves as the stack does it: to that number plus the last two digits of the default."""
    return Field(default_factory=lambda read: read["port_base"] + default % 100 if read.get("port_base") else default)


class Settings(BaseSettings):
    """Read from the environment. The defaults fit the stack of `make up`."""

    model_config = SettingsConfigDict(env_ignore_empty=True)

    quickbite_host: str = "127.0.0.1"
    port_base: Annotated[int, Field(gt=0, le=65_400)] | None = None
    orders_port: Port = _port(8080)
    inventory_port: Port = _port(8081)
    payments_port: Port = _port(8082)
    auth_port: Port = _port(8083)
    users_port: Port = _port(8084)
    products_port: Port = _port(8085)
    admin_password: str = "password"  # noqa: S105 - of the stack on one's own machine
    quickbite_token: str = ""
    """An administrator's access token, instead of the password."""

    def address(self, service: str) -> str:
        return f"http://{self.quickbite_host}:{getattr(self, f'{service}_port')}"
