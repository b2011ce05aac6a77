"""QuickBite's own processes, and the environment variables of each."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from contracts.access import ADMIN, READER, USERS
from local import ports
from local.postgres import SUPERUSER
from local.process import Program
from shared.process import configuration

PROJECT = Path(__file__).parent.parent
TOPICS = {"TOPIC_PARTITIONS": "4", "KAFKA_ACLS": "true"}
SECRETS = (
    SUPERUSER,
    "orders/database_password",
    "inventory/database_password",
    "payments/database_password",
    "payments/provider_database_password",
    "auth/database_password",
    "users/database_password",
    "products/database_password",
    *(f"{user}/kafka_password" for user in (ADMIN, *USERS)),
)
"""All secrets: a folder per service or user, a file per setting."""
ADMIN_PASSWORDS = ("auth/admin_password", "console/console_admin_password")
"""The files with the administrator's password: auth sets it, and the console logs in with it."""
NOT_TAKEN = {
    *("ONLY", "INSTANCE_ID", "DATABASE_PASSWORD", "PROVIDER_DATABASE_PASSWORD", "LOOPBACK_SECRET"),
    *("ADMIN_PASSWORD", "CONSOLE_ADMIN_PASSWORD", "LOOPBACK_SECRET_FILE"),
    *("AUTH_CA_FILE", "HTTPS_FILE", "HTTPS_PORT"),
    *("KAFKA_PASSWORD", "KAFKA_SASL_MECHANISM", "KAFKA_CA_FILE", "KAFKA_CERTIFICATE_FILE", "KAFKA_KEY_FILE"),
}
"""Settings of one process of several, secrets, which are in files, and how Kafka is reached: no settings of a stack."""
STOREFRONT_ASKS = ("orders", "products", "auth")


@dataclass(frozen=True)
class Job:
    """A module that runs once, and ends before the services start."""

    name: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    def program(self) -> Program:
        return python(self.name, self.arguments, self.environment)


class Service:
    """`python -m <name>`, ready when GET /readyz answers 200."""

    host = ports.LOOPBACK

    def __init__(self, name: str, port: int, environment: Mapping[str, str]) -> None:
        self.name, self.ports, self._environment = name, (port,), environment

    def prepare(self) -> None:
        """Write nothing: a service keeps its state in Postgres."""

    def program(self) -> Program:
        return python(self.name, [self.name], self._environment, taken(self.name))

    def is_ready(self) -> bool:
        return ports.is_ok(self.ports[0], "/readyz")


def jobs(postgres: int, kafka: int, secrets: Path) -> tuple[Job, Job]:
    """The jobs that bring the schemas and the topics up to date. `secrets` is the folder of all secrets."""
    database = {"ADMIN_DATABASE_URL": database_url("postgres", postgres), "SECRETS_FOLDER": str(secrets)}
    return (
        Job("migrate", ("migrations", "up", "--seed"), database),
        Job("topics", ("contracts.topics",), {**kafka_client(kafka, ADMIN, secrets), **TOPICS}),
    )


def services(
    chosen: Mapping[str, int],
    *,
    postgres: int,
    kafka: int,
    auth: int,
    secrets: Path,
    console: int | None = None,
) -> tuple[Service, ...]:
    """A service for every name and port. All check tokens with the keys that auth publishes on the port `auth`.

    Each finds its secrets in its own folder below `secrets`. They send traces to the console on the port `console`. If
    that is None, there is no console, and they trace nothing.
    """
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{ports.LOOPBACK}:{console}/otlp"} if console else {}
    extra = {
        "auth": {"VISITORS": "true"},
        "orders": {"REQUIRE_TOKEN": "false", **({"CANARY_SECONDS": "60"} if console else {})},
        "payments": {"PROVIDER_DATABASE_URL": database_url("provider_user", postgres)},
    }
    return tuple(
        Service(
            name,
            port,
            {
                "HOST": ports.LOOPBACK,
                "PORT": str(port),
                "INSTANCE_ID": f"{name}-1",
                "FAILURE_FLAGS": "true",  # for drills; only here, never where customers are
                "DATABASE_URL": database_url(f"{name}_user", postgres),
                "AUTH_JWKS_URL": f"http://{ports.LOOPBACK}:{auth}/auth/jwks.json",
                **kafka_client(kafka, name, secrets),
                **traced,
                **extra.get(name, {}),
            },
        )
        for name, port in chosen.items()
    )


def storefront(port: int, chosen: Mapping[str, int], kafka: int, secrets: Path, supervisor: Path) -> Service:
    """The page for visitors on `port`. It finds the services on the `chosen` ports, and supervisord at its socket."""
    urls = {f"STOREFRONT_{name.upper()}_URL": f"http://{ports.LOOPBACK}:{chosen[name]}" for name in STOREFRONT_ASKS}
    own = {
        "STOREFRONT_HOST": ports.LOOPBACK,
        "STOREFRONT_PORT": str(port),
        "STOREFRONT_SUPERVISOR_SOCKET": str(supervisor),
    }
    return Service("storefront", port, {**own, **urls, **kafka_client(kafka, READER, secrets)})


def wrong_settings(program: Program, admin_password: str) -> list[str]:
    """A sentence for each variable that a service or the console would refuse at its start.

    It reads the settings as the program does: from its own environment, and from the one of this process. Before the
    first start, the file with `admin_password` is not there yet.
    """
    settings, environment = _settings_of(program.name), program.environment
    own = {field: environment[name] for field, name in _variables(settings).items() if name in environment}
    folder = Path(environment.get("SECRETS_FOLDER", ""), "")
    if "admin_password" in settings.model_fields:
        own["admin_password"] = admin_password
    try:
        settings(_secrets_dir=folder if folder.is_dir() else None, **own)
    except ValidationError as error:
        return configuration.sentences(error, settings.model_config.get("env_prefix", ""))
    return []


def taken(name: str) -> list[str]:
    """The variables that a service, the console or the storefront may take from the command that starts it."""
    return [variable for variable in _variables(_settings_of(name)).values() if variable not in NOT_TAKEN]


def _settings_of(name: str) -> type[Any]:
    """The settings of a service, the console or the storefront, a subclass of `BaseSettings`."""
    found: type[BaseSettings] = import_module(f"{name}.config").Settings
    return found


def _variables(settings: type[BaseSettings]) -> dict[str, str]:
    """The variable of each field."""
    prefix = settings.model_config.get("env_prefix", "")
    return {field: f"{prefix}{field}".upper() for field in settings.model_fields}


def python(
    name: str, arguments: Sequence[str], environment: Mapping[str, str], settings: Collection[str] = ()
) -> Program:
    """The program `python -m <arguments>`, in the folder of the project.

    It takes those of its `settings` that are not in `environment` from the command that starts it.
    """
    # Unbuffered. Otherwise the last output of a process before it is killed never reaches the log.
    fixed = {"PYTHONUNBUFFERED": "1", **environment}
    wanted = [variable for variable in settings if variable not in fixed]
    return Program(name, [sys.executable, "-m", *arguments], fixed, PROJECT, stop_seconds=10, settings=wanted)


def database_url(role: str, port: int) -> str:
    """The address of the database for a role, without its password."""
    return f"postgresql://{role}@{ports.LOOPBACK}:{port}/quickbite"


def kafka_client(port: int, user: str, secrets: Path) -> dict[str, str]:
    """The settings with which a process reaches Kafka as `user`. Its password is a file in the folder of the user."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": f"{ports.LOOPBACK}:{port}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",  # loopback needs no TLS
        "KAFKA_USERNAME": user,
        "SECRETS_FOLDER": str(secrets / user),
    }
