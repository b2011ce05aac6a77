"""The settings that all services share. Each service's `config.py` adds its own.

Settings are read once, from the environment, the command line, and the files of `SECRETS_FOLDER`. A wrong value stops
the process with one line that names the variable.
"""

import os
import re
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PASSWORD_FILE = "password_file"  # noqa: S105 - the name of a parameter
"""The parameter of a database's address that names the file with its password. Only `shared/postgres` knows it."""

Part = Literal["api", "relay", "consumer", "worker"]
PARTS: tuple[Part, ...] = ("api", "relay", "consumer", "worker")

LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    BeforeValidator(lambda given: given.upper() if isinstance(given, str) else given),
]


class KafkaSettings(BaseSettings):
    """Where Kafka is, and how this process proves there who it is."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, use_attribute_docstrings=True)

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    """Addresses of Kafka brokers, separated by commas."""
    kafka_security_protocol: Literal["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"] = "PLAINTEXT"
    """How clients reach the brokers: SSL stands for TLS, SASL for a user and a password."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How the password is proved, with SASL."""
    kafka_username: str = ""
    """The user, with SASL."""
    kafka_password: SecretStr = SecretStr("")
    """The password of the user, with SASL."""
    kafka_ca_file: FilePath | None = None
    """The certificates (PEM) that sign those of the brokers. Without it, the system's own are used."""
    kafka_certificate_file: FilePath | None = None
    """This process's certificate (PEM), if the brokers ask for one."""
    kafka_key_file: FilePath | None = None
    """The key (PEM) of this certificate."""

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        if self.kafka_security_protocol.startswith("SASL") and not self.kafka_username:
            raise ValueError(f"KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs KAFKA_USERNAME")
        return self


class Settings(KafkaSettings):
    """The settings of one process. The field `database_url` is the variable `DATABASE_URL`, and so on.

    The docstring of a field is its line in `--help` and in docs/settings.md.
    """

    only: Annotated[list[Part], Field(min_length=1)] = list(PARTS)
    """The parts of the service that this process runs: `--only api,relay`."""
    host: str = "127.0.0.1"
    """The address on which the service listens."""
    port: Annotated[int, Field(ge=0, le=65535)]
    """The port on which the service listens."""
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")]
    """The database, with the service's own role."""
    database_password: SecretStr = SecretStr("")
    """The password of the role in `DATABASE_URL`, if that has none. It may have any character."""
    secrets_folder: str = ""
    """A folder whose files are settings too: `database_password` has the value of `DATABASE_PASSWORD`."""
    instance_id: str = ""
    """A name that no other running process of this service has. It makes restarts cheap (static group membership)."""
    event_source: Annotated[str, Field(pattern="^/")] = "/quickbite"
    """The first part of `ce_source` in the headers of events; the name of the service follows."""
    release: str = "0.1.0"
    """The release that this process runs, for `build_info`."""
    log_level: LogLevel = "INFO"
    """The lowest level that is logged."""
    failure_flags: bool = False
    """True: administrators may make parts of this process fail for a while. Never set it in production."""
    otel_exporter_otlp_endpoint: Annotated[str, Field(pattern="^(https?://.*)?$")] = ""
    """Where spans are sent (OTLP/HTTP), without `/v1/traces`. If it is empty, none are made."""
    traces_per_second: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    """So many traces begin here each second; the others are not sampled."""
    event_loop: Literal["uvloop", "asyncio"] = "uvloop"
    """The event loop of the process."""
    auth_jwks_url: Annotated[str, Field(pattern="^https?://")] = "http://127.0.0.1:8083/auth/jwks.json"
    """The address of the public keys that verify access tokens."""
    auth_ca_file: FilePath | None = None
    """The certificates (PEM) that sign the one of `AUTH_JWKS_URL`, if that is an address with TLS."""
    https_file: FilePath | None = None
    """The key and the certificate (PEM, in one file) of a second port, with TLS. A new file is used within seconds."""
    https_port: Annotated[int, Field(ge=0, le=65535)] = 8443
    """The port with TLS, if there is an `HTTPS_FILE`."""
    pool_size: Annotated[int, Field(ge=2, le=100)] = 8
    """The most connections of the pool. Relay and group commit have their own."""
    group_commit_workers: Annotated[int, Field(ge=1, le=16)] = 2
    """Connections that write grouped requests."""
    relay_pace_seconds: Annotated[float, Field(ge=0, le=1)] = 0.005
    """The least time between the starts of two turns of the relay. A longer time makes larger batches."""
    relay_lease_seconds: Annotated[float, Field(ge=1, le=60)] = 3.0
    """How long the lanes of a dead relay wait for another one."""
    consumer_pace_seconds: Annotated[float, Field(ge=0, le=1)] = 0.002
    """The least time between the starts of two batches of the consumer."""
    consumer_batch: Annotated[int, Field(ge=1, le=2000)] = 500
    """The most events of one batch, which are handled in one transaction."""

    @property
    def database(self) -> str:
        """`DATABASE_URL` with its password, or with the file of `SECRETS_FOLDER` that has the password."""
        return with_secret(self.database_url, "database_password", self.database_password)

    @property
    def owner(self) -> str:
        """The name of this process in leases and logs."""
        return self.instance_id or socket.gethostname()


S = TypeVar("S", bound=Settings)


def read(settings_type: type[S], service: str, arguments: list[str]) -> S:
    """Read the settings from everywhere. A wrong value ends the process with one line."""
    return load(settings_type, _cli_parse_args=arguments, _cli_prog_name=f"python -m {service}")


E = TypeVar("E", bound=BaseSettings)


def load(settings_type: type[E], **sources: Any) -> E:
    """Read settings from the environment, the files of `SECRETS_FOLDER`, and further `sources` of pydantic.

    A wrong value ends the process with one line.
    """
    folder = os.environ.get("SECRETS_FOLDER") or None
    if folder and not Path(folder).is_dir():
        sys.exit(f"wrong setting: SECRETS_FOLDER: there is no folder {folder}")
    try:
        return settings_type(_secrets_dir=folder, **sources)
    except ValidationError as error:
        sys.exit(complaint(error, settings_type.model_config.get("env_prefix", "")))
    except OSError as error:
        sys.exit(f"wrong setting: SECRETS_FOLDER: {error}")


def file_of(name: str, secret: SecretStr) -> Path | None:
    """The file of `SECRETS_FOLDER` from which the setting `name` was read, or None if it came from elsewhere.

    Who reads the file again at each use needs no restart when the secret is rotated.
    """
    path = path_of(name)
    return path if path and path.read_text().strip() == secret.get_secret_value() else None


def path_of(name: str) -> Path | None:
    """The file of `SECRETS_FOLDER` for a setting. None if there is no file, or if a variable comes before it."""
    path = Path(os.environ.get("SECRETS_FOLDER") or "/nowhere", name)
    return path if path.is_file() and not os.environ.get(name.upper()) else None


def with_secret(url: str, name: str, secret: SecretStr) -> str:
    """The address of a database with the setting `name` as its password, or with the file that has it."""
    found = file_of(name, secret)
    if found is None or urlsplit(url).password is not None:
        return with_password(url, secret.get_secret_value())
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({PASSWORD_FILE: str(found)}))))
    return parts._replace(query=query).geturl()


def with_password(url: str, password: str) -> str:
    """The address of a database with a password in it, unless it has one already. Any character is possible."""
    if not password or (parts := urlsplit(url)).password is not None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def complaint(error: ValidationError, prefix: str = "") -> str:
    """One line that names every wrong variable."""
    return "wrong setting: " + "; ".join(sentences(error, prefix))


def sentences(error: ValidationError, prefix: str = "") -> list[str]:
    """A sentence for each wrong variable. The names of all variables begin with `prefix`."""
    return [_sentence(e, prefix) for e in error.errors()]


def _sentence(error: Any, prefix: str) -> str:
    name = f"{prefix}{'.'.join(map(str, error['loc'])).upper()}"
    if not error["loc"]:
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{name} must be set: it has no default, because a guessed value would open the whole shop"
    if "PASSWORD" in name:
        return f"{name}: {error['msg']}"
    return f"{name}: {error['msg']} (is {_without_password(error['input'])})"


def _without_password(value: object) -> str:
    return re.sub(r"//.*@", "//...@", repr(value))
