"""The settings of the embedded stack, read once from the environment.

What must stay true: it uses only the standard library, because `make up` checks the settings before `.venv` exists.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from ipaddress import IPv4Address
from typing import Any

from local import ports
from local.entry import DEFAULT_PASSWORD, Entry, complaint, networks
from local.problem import Problem

PORTS_IN_A_ROW = {"kafka": 2, "aspire": 3}
"""Kafka's controller uses the port after Kafka's own. The two ports after Aspire's page are for traces."""


def _text(default: str, pattern: str, wanted: str) -> Any:
    def read(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(wanted)
        return value

    return field(default=default, metadata={"read": read})


def _number(default: int | None, least: int, most: int) -> Any:
    def read(value: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise ValueError(f"a number from {least} to {most}")
        return int(value)

    return field(default=default, metadata={"read": read})


def _checked(default: str, check: Callable[[str], object], wanted: str) -> Any:
    def read(value: str) -> str:
        try:
            check(value)
        except ValueError:
            raise ValueError(wanted) from None
        return value

    return field(default=default, metadata={"read": read})


def _port(default: int | None) -> Any:
    return _number(default, 1, 65_533)  # Aspire and Kafka use the next ports too.


@dataclass(frozen=True)
class Settings:
    """Each field is an environment variable with the same name in capitals."""

    stack_name: str = _text("dev", "[a-z0-9-]{1,30}", "1 to 30 of the characters a-z, 0-9 and -")
    """The name of the stack: its files are in `.local/<name>`. Each of several stacks needs its own."""
    port_base: int | None = _number(None, 1, 65_400)
    """Moves every port that has no variable of its own: to this number plus the last two digits of its default."""
    orders_port: int = _port(8080)
    """The port of orders."""
    inventory_port: int = _port(8081)
    """The port of inventory."""
    payments_port: int = _port(8082)
    """The port of payments."""
    auth_port: int = _port(8083)
    """The port of auth."""
    users_port: int = _port(8084)
    """The port of users."""
    products_port: int = _port(8085)
    """The port of products."""
    console_port: int = _port(8086)
    """The port of the console."""
    storefront_port: int = _port(8087)
    """The port of the storefront, the page at `/`."""
    format: str = _text("", "json", "json or empty")
    """`json`: `make logs` prints all lines as they are, also on a terminal."""
    see: str = _text("", "aspire", "aspire or empty")
    """One more viewer of traces: the Aspire dashboard, which the first use downloads from npm."""
    aspire_port: int = _port(18888)
    """The port of the page of the Aspire dashboard. The next two are for traces."""
    gateway_port: int | None = _port(None)
    """The port of the gateway, for plain HTTP. Without it: the first free of 80, 8000 and so on, or `PORT_BASE`."""
    gateway_tls_port: int | None = _port(None)
    """The port of the gateway, for TLS. Without it: the first free of 443, 8443 and so on."""
    gateway_host: str = _checked("127.0.0.1", IPv4Address, "an IPv4 address of this machine, or 0.0.0.0 for all")
    """The address of the port of TLS. Plain HTTP is always on loopback. Any other needs a good `ADMIN_PASSWORD`."""
    tls_certificate: str = _checked("", str, "a PEM file")
    """The certificate of the gateway, a PEM file. Without it, the gateway makes one."""
    tls_key: str = _checked("", str, "a PEM file")
    """The key of `TLS_CERTIFICATE`, a PEM file."""
    trusted_proxies: str = _checked("", networks, "networks such as 10.0.0.0/8,192.0.2.1/32")
    """Networks, separated by commas, whose `X-Forwarded-For` the gateway believes."""
    admin_password: str = _text(
        DEFAULT_PASSWORD,
        r"""(?!'|.*\s[;#])[^"\r\n]{8,}(?<!')""",  # supervisord cannot pass on any other
        "at least 8 characters, without quotes, and without a space before ; or #",
    )
    """The password of `admin`."""
    log_level: str = _text("INFO", "(?i:debug|info|warning|error)", "DEBUG, INFO, WARNING or ERROR")
    """The lowest level that is logged. The services read it; `make up` only checks it."""
    requests_per_second: int = _number(1000, 1, 1_000_000)
    """Requests per second that the gateway accepts from one address. A burst may have as many more."""
    logins_per_second: int = _number(5, 1, 1_000_000)
    """Logins, registrations and refreshes per second that the gateway accepts from one address."""
    console_logins_per_minute: int = _number(10, 1, 1_000_000)
    """Logins to the console per minute that the gateway accepts from one address."""
    requests_at_once: int = _number(128, 1, 1_000_000)
    """Requests of one address that the gateway answers at the same time. One more gets 429."""
    connections: int = _number(256, 1, 1_000_000)
    """Connections of one address. One more is closed."""
    postgres_port: int = _port(5433)
    """The port of Postgres."""
    kafka_port: int = _port(9092)
    """The port of Kafka. Its controller uses the next one."""
    kafka_heap: str = _text("256m", "[0-9]+[mg]", "a size such as 256m or 1g")
    """The most memory of Kafka's heap."""
    kafka_users: str = _text("", "[a-z0-9-]{1,30}(,[a-z0-9-]{1,30})*", "names separated by commas, of a-z, 0-9 and -")
    """Users of Kafka for services that are not of this stack. Each gets a password, no right, and stays until reset."""

    @property
    def further_kafka_users(self) -> tuple[str, ...]:
        return tuple(name for name in self.kafka_users.split(",") if name)

    @property
    def entry(self) -> Entry:
        return Entry(self.gateway_host, self.tls_certificate, self.tls_key, self.trusted_proxies, self.limits)

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

    @property
    def ports(self) -> dict[str, tuple[int, ...]]:
        """All ports of each program that this stack has. The gateway is left out if it takes a free port."""
        first = {name.removesuffix("_port"): port for name, port in asdict(self).items() if name.endswith("_port")}
        unused = set() if self.see == "aspire" else {"aspire"}
        return {
            name: tuple(range(port, port + PORTS_IN_A_ROW.get(name, 1)))
            for name, port in first.items()
            if port and name not in unused
        }


def read(environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Return the settings, and a sentence for each wrong variable. It gets its default. An empty one is not set."""
    values: dict[str, Any] = {}
    wrong = []
    for one in fields(Settings):
        name = one.name.upper()
        if given := environment.get(name):
            try:
                values[one.name] = one.metadata["read"](given)
            except ValueError as error:
                wrong.append(f"{name} must be {error}{'' if 'PASSWORD' in name else f', and is {given!r}'}.")
    settings = Settings(**_moved(values.get("port_base")) | values)
    easy = complaint(settings.gateway_host, settings.admin_password)
    return settings, wrong + _clashes(settings) + ([easy] if easy else [])


def load() -> Settings:
    """Read the settings. Raises `Problem` with a line for each wrong variable."""
    settings, wrong = read(os.environ)
    if wrong:
        raise Problem("\n".join(wrong))
    return settings


def taken(settings: Settings) -> list[str]:
    """A sentence for each port where another program listens. Only for a stack that is not running."""
    hosts = {"gateway_tls": settings.gateway_host}
    return [
        sentence
        for name, wanted in settings.ports.items()
        for sentence in ports.complaints(name, hosts.get(name, ports.LOOPBACK), wanted)
    ]


def _moved(base: int | None) -> dict[str, int]:
    """The ports that `base` moves, by their fields."""
    if base is None:
        return {}
    defaults = asdict(Settings()) | {"gateway_tls_port": 443}
    return {name: base + (port or 0) % 100 for name, port in defaults.items() if name.endswith("_port")}


def _clashes(settings: Settings) -> list[str]:
    owners: dict[int, str] = {}
    found = []
    for name, wanted in settings.ports.items():
        for port in wanted:
            owner = owners.setdefault(port, name)
            if owner != name:
                found.append(f"{owner} and {name} need port {port}: set {owner.upper()}_PORT or {name.upper()}_PORT.")
    return found
