"""The settings that all services share. Each service's `config.py` adds its own.

Settings are read once, from the environment and the command line. A wrong value stops the process with one line that
names the variable.
"""

import re
import socket
import sys
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Part = Literal["api", "relay", "consumer", "worker"]
PARTS: tuple[Part, ...] = ("api", "relay", "consumer", "worker")


class KafkaSettings(BaseSettings):
    """Where Kafka is, and how this process proves there who it is."""

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    """Brokers as `host:port`, separated by commas."""
    kafka_security_protocol: Literal["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    kafka_username: str = ""
    kafka_password: SecretStr = SecretStr("")
    kafka_ca_file: FilePath | None = None
    """The certificates (PEM) that sign those of the brokers. Without it, the system's own are used."""
    kafka_certificate_file: FilePath | None = None
    """This process's certificate (PEM), if the brokers ask for one."""
    kafka_key_file: FilePath | None = None

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not self.kafka_username:
            raise ValueError(f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs KAFKA_USERNAME")
        return self


class Settings(KafkaSettings):
    """The settings of one process. The field `database_url` is the variable `DATABASE_URL`, and so on."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    only: Annotated[list[Part], Field(min_length=1)] = list(PARTS)
    """The parts of the service that this process runs: `--only api,relay`."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)]
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")]
    instance_id: str = ""
    """A name that no other running process of this service has. It makes restarts cheap (static group membership)."""
    event_source: Annotated[str, Field(pattern="^/")] = "/quickbite"
    release: str = "0.1.0"
    """The release that this process runs, for `build_info`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    failure_flags: bool = False
    """True: administrators may make parts of this process fail for a while. Never set it in production."""
    otel_exporter_otlp_endpoint: Annotated[str, Field(pattern="^(https?://.*)?$")] = ""
    """Where spans are sent (OTLP/HTTP), without `/v1/traces`. If it is empty, none are made."""
    traces_per_second: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    """So many traces begin here each second; the others are not sampled."""
    event_loop: Literal["uvloop", "asyncio"] = "uvloop"
    auth_jwks_url: Annotated[str, Field(pattern="^https?://")] = "http://127.0.0.1:8083/auth/jwks.json"
    """The address of the public keys that verify access tokens."""
    pool_size: Annotated[int, Field(ge=2, le=100)] = 8
    group_commit_workers: Annotated[int, Field(ge=1, le=16)] = 2
    """Connections that write grouped requests."""
    relay_pace_seconds: Annotated[float, Field(ge=0, le=1)] = 0.005
    relay_lease_seconds: Annotated[float, Field(ge=1, le=60)] = 3.0
    consumer_pace_seconds: Annotated[float, Field(ge=0, le=1)] = 0.002
    consumer_batch: Annotated[int, Field(ge=1, le=2000)] = 500

    @property
    def owner(self) -> str:
        """The name of this process in leases and logs."""
        return self.instance_id or socket.gethostname()


S = TypeVar("S", bound=Settings)


def read(settings_type: type[S], service: str, arguments: list[str]) -> S:
    """Read the settings from the environment and the command line. A wrong value ends the process with one line."""
    try:
        return settings_type(_cli_parse_args=arguments, _cli_prog_name=f"python -m {service}")
    except ValidationError as error:
        sys.exit(complaint(error))


def complaint(error: ValidationError) -> str:
    """One line that names every wrong variable."""
    return "wrong setting: " + "; ".join(_sentence(e) for e in error.errors())


def _sentence(error: Any) -> str:
    name = ".".join(map(str, error["loc"])).upper()
    if not name:
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{name} must be set: it has no default, because a guessed value would open the whole shop"
    if "PASSWORD" in name:
        return f"{name}: {error['msg']}"
    return f"{name}: {error['msg']} (is {_without_password(error['input'])})"


def _without_password(value: object) -> str:
    return re.sub(r"//.*@", "//...@", repr(value))
