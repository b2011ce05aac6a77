"""The settings of the storefront, read once from the environment: `STOREFRONT_PORT`, and so on."""

import sys
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.process import configuration

PREFIX = "STOREFRONT_"

Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+$")]


class Settings(BaseSettings):
    """The defaults fit the stack of `make up`."""

    model_config = SettingsConfigDict(frozen=True, env_prefix=PREFIX, env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8087
    orders_url: Url = "http://127.0.0.1:8080"
    products_url: Url = "http://127.0.0.1:8085"
    auth_url: Url = "http://127.0.0.1:8083"
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    supervisor_socket: str = ""
    """The socket of supervisord, only in the embedded stack. Empty: payments cannot be stopped from the page."""
    log_level: configuration.LogLevel = "INFO"


def read() -> Settings:
    """Read the settings. A wrong value ends the process with one line that names the variable."""
    try:
        return Settings()
    except ValidationError as error:
        sys.exit(configuration.complaint(error, PREFIX))
