"""How a client reaches Kafka, and how it proves who it is."""

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...process.configuration import KafkaSettings, file_of

_LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:")


class Rotated(str):
    """Stands for the password in a file, which may change. `clients.py` reads it at each connection."""

    __slots__ = ("path",)
    path: Path

    def __new__(cls, path: Path) -> "Rotated":
        made = super().__new__(cls, f"the password in {path}")
        made.path = path
        return made


@dataclass(frozen=True, slots=True)
class Brokers:
    """The addresses of brokers (`host:port`, separated by commas), and the client's credentials."""

    servers: str
    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    username: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    """A file with the password, which is read at each new connection."""
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @classmethod
    def of(cls, settings: KafkaSettings) -> "Brokers":
        """Those that the settings name."""
        return cls(
            settings.kafka_bootstrap_servers,
            settings.kafka_security_protocol,
            settings.kafka_sasl_mechanism,
            settings.kafka_username,
            settings.kafka_password.get_secret_value(),
            file_of("kafka_password", settings.kafka_password),
            settings.kafka_ca_file,
            settings.kafka_certificate_file,
            settings.kafka_key_file,
        )

    def options(self) -> dict[str, Any]:
        """The arguments with which every client of aiokafka is created. Raises OSError if a file cannot be read."""
        chosen: dict[str, Any] = {"bootstrap_servers": self.servers, "security_protocol": self.protocol}
        if self.protocol.startswith("SASL"):
            if all(one.strip().startswith(_LOOPBACK) for one in self.servers.split(",")):
                logging.getLogger("aiokafka.conn").addFilter(_is_no_warning_of_loopback)  # one filter, however often
            chosen |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": Rotated(self.password_file) if self.password_file else self.password,
            }
        if self.protocol.endswith("SSL"):
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file:
                context.load_cert_chain(self.certificate_file, self.key_file)
            chosen["ssl_context"] = context
        return chosen


def _is_no_warning_of_loopback(record: logging.LogRecord) -> bool:
    """False for a warning of passwords without TLS: on loopback nobody listens, and a healthy start has no warning."""
    return "in the clear" not in record.getMessage()


def options(brokers: Brokers | str) -> dict[str, Any]:
    """The same for brokers that may be only addresses: these accept everybody."""
    return Brokers(brokers).options() if isinstance(brokers, str) else brokers.options()
