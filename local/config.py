"""The settings of the embedded stack, read once from the environment."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from local.problem import Problem

Port = Annotated[int, Field(ge=1, le=65534)]  # One less than the highest port: Kafka's controller uses the next one.


class Settings(BaseSettings):
    """Each field is an environment variable with the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True, use_attribute_docstrings=True)

    stack_name: Annotated[str, Field(pattern="^[a-z0-9-]{1,30}$")] = "dev"
    """The name of the stack: its files are in `.local/<name>`. Each of several stacks needs its own."""
    orders_port: Port = 8080
    """The port of orders."""
    inventory_port: Port = 8081
    """The port of inventory."""
    payments_port: Port = 8082
    """The port of payments."""
    auth_port: Port = 8083
    """The port of auth."""
    users_port: Port = 8084
    """The port of users."""
    products_port: Port = 8085
    """The port of products."""
    console_port: Port = 8086
    """The port of the console."""
    format: Literal["", "json"] = ""
    """`json`: `make logs` prints all lines as they are, also on a terminal."""
    see: Literal["", "aspire"] = ""
    """One more viewer of traces: the Aspire dashboard, which the first use downloads from npm."""
    aspire_port: Annotated[int, Field(ge=1, le=65533)] = 18888
    """The port of the page of the Aspire dashboard. The next two are for traces."""
    gateway_port: Port | None = None
    """The port of the gateway. Without it, 80, or the first free port from 8000."""
    admin_password: str = "password"
    """The password of `admin`. The gateway is open to the network: change the password if others can reach it."""
    requests_per_second: Annotated[int, Field(ge=1)] = 1000
    """Requests per second that the gateway accepts from one address. A burst may have as many more."""
    logins_per_second: Annotated[int, Field(ge=1)] = 5
    """Logins, registrations and refreshes per second that the gateway accepts from one address."""
    console_logins_per_minute: Annotated[int, Field(ge=1)] = 10
    """Logins to the console per minute that the gateway accepts from one address."""
    connections: Annotated[int, Field(ge=1)] = 512
    """The most connections of one address to the gateway."""
    postgres_port: Port = 5433
    """The port of Postgres."""
    kafka_port: Port = 9092
    """The port of Kafka. Its controller uses the next one."""
    kafka_heap: Annotated[str, Field(pattern="^[0-9]+[mg]$")] = "256m"
    """The most memory of Kafka's heap."""

    @property
    def limits(self) -> dict[str, str]:
        """The limits, by the names that the gateway's template uses."""
        return {
            "REQUESTS_PER_SECOND": str(self.requests_per_second),
            "LOGINS_PER_SECOND": str(self.logins_per_second),
            "CONSOLE_LOGINS_PER_MINUTE": str(self.console_logins_per_minute),
            "CONNECTIONS": str(self.connections),
        }


def load() -> Settings:
    """Read the settings. Raises `Problem` with one line that names the wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        raise Problem(f"{str(wrong['loc'][0]).upper()}={wrong['input']}: {wrong['msg']}") from error
