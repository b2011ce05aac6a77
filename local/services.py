"""QuickBite's own processes, and the environment variables of each."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.access import ADMIN, USERS
from local import ports
from local.process import Program
from shared.delivery.kafka import Brokers

PROJECT = Path(__file__).parent.parent
PARTITIONS = "4"


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
        return python(self.name, [self.name], self._environment)

    def is_ready(self) -> bool:
        return ports.is_ok(self.ports[0], "/readyz")


def kafka_passwords(secret: Callable[[str], str]) -> dict[str, str]:
    """The passwords of all users of Kafka, the super user first."""
    return {user: secret(kafka_secret(user)) for user in (ADMIN, *USERS)}


def kafka_secret(user: str) -> str:
    """The name of the secret with which this user logs in at Kafka."""
    return f"kafka {user}"


def jobs(postgres: int, kafka: Brokers) -> tuple[Job, Job]:
    """The jobs that bring the schemas, the topics and the rules of Kafka up to date. `kafka` is for the super user."""
    database = _database("postgres", "postgres", postgres)
    return (
        Job("migrate", ("migrations", "up", "--seed"), {"ADMIN_DATABASE_URL": database}),
        Job("topics", ("contracts.topics",), _kafka(kafka) | {"KAFKA_ACLS": "true"}),
    )


def services(
    chosen: Mapping[str, int],
    *,
    postgres: int,
    kafka: Callable[[str], Brokers],
    auth: int,
    console: int | None = None,
    admin_password: str = "password",
) -> tuple[Service, ...]:
    """A service for every name and port. All check tokens with the keys that auth publishes on the port `auth`.

    They send traces to the console on the port `console`. None: there is no console, and they trace nothing.
    """
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{ports.LOOPBACK}:{console}/otlp"} if console else {}
    extra = {
        "auth": {"ADMIN_PASSWORD": admin_password},
        "orders": {"REQUIRE_TOKEN": "false", **({"CANARY_SECONDS": "60"} if console else {})},
        "payments": {"PROVIDER_DATABASE_URL": _database("provider_user", "provider", postgres)},
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
                "DATABASE_URL": _database(f"{name}_user", name, postgres),
                "AUTH_JWKS_URL": f"http://{ports.LOOPBACK}:{auth}/auth/jwks.json",
                **_kafka(kafka(name)),
                **traced,
                **extra.get(name, {}),
            },
        )
        for name, port in chosen.items()
    )


def python(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Program:
    """The program `python -m <arguments>`, in the folder of the project."""
    # Unbuffered. Otherwise the last output of a process before it is killed never reaches the log.
    return Program(
        name, [sys.executable, "-m", *arguments], {"PYTHONUNBUFFERED": "1", **environment}, PROJECT, stop_seconds=10
    )


def _database(role: str, password: str, port: int) -> str:
    return f"postgresql://{role}:{password}@{ports.LOOPBACK}:{port}/quickbite"


def _kafka(brokers: Brokers) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": brokers.servers,
        "KAFKA_SECURITY_PROTOCOL": brokers.protocol,
        "KAFKA_USERNAME": brokers.username,
        "KAFKA_PASSWORD": brokers.password,
        "TOPIC_PARTITIONS": PARTITIONS,
    }
