"""The settings of the embedded stack, read once from the environment."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from local.problem import Problem

Port = Annotated[int, Field(ge=1, le=65534)]  # One less than the highest port: Kafka's controller uses the next one.


class Settings(BaseSettings):
    """Each field is an environment variable with the same name in capitals."""

    model_config = SettingsConfigDict(frozen=True)

    stack_name: Annotated[str, Field(pattern="^[a-z0-9-]{1,30}$")] = "dev"
    orders_port: Port = 8080
    inventory_port: Port = 8081
    payments_port: Port = 8082
    auth_port: Port = 8083
    users_port: Port = 8084
    products_port: Port = 8085
    console_port: Port = 8086
    storefront_port: Port = 8087
    see: Literal["", "aspire"] = ""
    """One more viewer of traces: the Aspire dashboard, which the first use downloads from npm."""
    aspire_port: Annotated[int, Field(ge=1, le=65533)] = 18888
    """The port of its page. The next two are for traces."""
    gateway_port: Port | None = None
    admin_password: str = "password"
    """The password of `admin`. The gateway is open to the network: change the password if others can reach it."""
    requests_per_second: Annotated[int, Field(ge=1)] = 1000
    """Requests per second that the gateway accepts from one address. A burst may have as many more."""
    logins_per_second: Annotated[int, Field(ge=1)] = 5
    console_logins_per_minute: Annotated[int, Field(ge=1)] = 10
    connections: Annotated[int, Field(ge=1)] = 512
    postgres_port: Port = 5433
    kafka_port: Port = 9092
    kafka_heap: Annotated[str, Field(pattern="^[0-9]+[mg]$")] = "256m"

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
