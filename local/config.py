"""The settings of the embedded stack, read once from the environment."""

from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from local import entry
from local.problem import Problem

Port = Annotated[int, Field(ge=1, le=65534)]  # One less than the highest port: Kafka's controller uses the next one.


def _networks(text: str) -> str:
    _ = entry.Entry(proxies=text).values
    return text


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
    see: Literal["", "aspire"] = ""
    """One more viewer of traces: the Aspire dashboard, which the first use downloads from npm."""
    aspire_port: Annotated[int, Field(ge=1, le=65533)] = 18888
    """The port of its page. The next two are for traces."""
    gateway_port: Port | None = None
    """The port of plain HTTP, which is on loopback only. Without it, 80, or the first free port from 8000."""
    gateway_tls_port: Port | None = None
    """The port of TLS. Without it, 443, or the first free port from 8443."""
    gateway_host: IPv4Address = IPv4Address("127.0.0.1")
    """The address of the port of TLS. 0.0.0.0: all addresses of this machine. It needs an ADMIN_PASSWORD."""
    tls_certificate: str = ""
    """A PEM file: the gateway's own certificate. Without it, the gateway makes one."""
    tls_key: str = ""
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = ""
    """Networks, separated by commas, whose X-Forwarded-For the gateway believes."""
    admin_password: str = entry.DEFAULT_PASSWORD
    """The password of `admin`."""
    requests_per_second: Annotated[int, Field(ge=1)] = 1000
    """Requests per second that the gateway accepts from one address. A burst may have as many more."""
    logins_per_second: Annotated[int, Field(ge=1)] = 5
    console_logins_per_minute: Annotated[int, Field(ge=1)] = 10
    requests_at_once: Annotated[int, Field(ge=1)] = 128
    """Requests of one address that the gateway answers at the same time. One more gets 429."""
    connections: Annotated[int, Field(ge=1)] = 256
    """Connections of one address. One more is closed."""
    postgres_port: Port = 5433
    kafka_port: Port = 9092
    kafka_heap: Annotated[str, Field(pattern="^[0-9]+[mg]$")] = "256m"

    @property
    def entry(self) -> entry.Entry:
        return entry.Entry(
            str(self.gateway_host), self.tls_certificate, self.tls_key, self.trusted_proxies, self.limits
        )

    @property
    def limits(self) -> dict[str, str]:
        """The limits, by the names that the gateway's template uses."""
        return {
            "REQUESTS_PER_SECOND": str(self.requests_per_second),
            "LOGINS_PER_SECOND": str(self.logins_per_second),
            "CONSOLE_LOGINS_PER_MINUTE": str(self.console_logins_per_minute),
            "REQUESTS_AT_ONCE": str(self.requests_at_once),
            "CONNECTIONS": str(self.connections),
        }


def load() -> Settings:
    """Read the settings. Raises `Problem` with one line that names the wrong variable."""
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        raise Problem(f"{str(wrong['loc'][0]).upper()}={wrong['input']}: {wrong['msg']}") from error
    if found := entry.complaint(str(settings.gateway_host), settings.admin_password):
        raise Problem(found)
    return settings
