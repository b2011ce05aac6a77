"""The settings of the storefront, read once from the environment: `STOREFRONT_PORT`, and so on.

Those of Kafka have no prefix: they are the same for every process.
"""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.process import configuration
from shared.process.configuration import KafkaSettings

PREFIX = "STOREFRONT_"

Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+$")]


class Settings(BaseSettings):
    """The defaults fit the stack of `make up`."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix=PREFIX, env_ignore_empty=True, use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """The address on which the page is served."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8087
    """The port of the page."""
    orders_url: Url = "http://127.0.0.1:8080"
    """The address of orders."""
    products_url: Url = "http://127.0.0.1:8085"
    """The address of products."""
    auth_url: Url = "http://127.0.0.1:8083"
    """The address of auth, which gives visitors their tokens."""
    supervisor_socket: str = ""
    """The socket of supervisord, only in the embedded stack. Empty: payments cannot be stopped from the page."""
    log_level: configuration.LogLevel = "INFO"
    """The lowest level that is logged."""


def read() -> tuple[Settings, KafkaSettings]:
    """Read the settings. A wrong value ends the process with one line that names the variable."""
    return configuration.load(Settings), configuration.load(KafkaSettings)
