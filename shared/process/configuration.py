"""The settings that all services have in common; each service's `config.py` adds its own.

They are read once, from the environment, and a wrong one stops the process with a line that names the variable.
"""

import re
import socket
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

Part = Literal["api", "relay", "consumer", "worker"]
PARTS: tuple[Part, ...] = ("api", "relay", "consumer", "worker")


class Settings(BaseSettings):
    """What a service process needs to know; field `database_url` is the variable `DATABASE_URL`, and so on."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    only: Annotated[list[Part], Field(min_length=1)] = list(PARTS)
    """Which parts of the service this process runs: `--only api,relay`."""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)]
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")]
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    instance_id: str = ""
    """A name that no other running process of this service has: makes restarts cheap (static group membership)."""
    event_source: Annotated[str, Field(pattern="^/")] = "/quickbite"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    event_loop: Literal["uvloop", "asyncio"] = "uvloop"
    auth_jwks_url: Annotated[str, Field(pattern="^https?://")] = "http://127.0.0.1:8083/auth/jwks.json"
    """Where the keys are published that access tokens are verified with."""
    pool_size: Annotated[int, Field(ge=2, le=100)] = 8
    door_workers: Annotated[int, Field(ge=1, le=16)] = 2
    """Connections that write grouped requests."""
    relay_pace_seconds: Annotated[float, Field(ge=0, le=1)] = 0.005
    relay_lease_seconds: Annotated[float, Field(ge=1, le=60)] = 3.0
    consumer_pace_seconds: Annotated[float, Field(ge=0, le=1)] = 0.002
    consumer_batch: Annotated[int, Field(ge=1, le=2000)] = 500

    @property
    def owner(self) -> str:
        """A name for this process in leases and logs."""
        return self.instance_id or socket.gethostname()


def complaint(error: ValidationError) -> str:
    """One line per wrong variable, to be printed before the process ends."""
    return "wrong setting: " + "; ".join(_sentence(e) for e in error.errors())


def _sentence(error: Any) -> str:
    name = ".".join(map(str, error["loc"])).upper()
    if error["type"] == "missing":
        return f"{name} must be set: it has no default, because whoever can guess it can do everything"
    if "PASSWORD" in name:
        return f"{name}: {error['msg']}"
    return f"{name}: {error['msg']} (is {_shown(error['input'])})"


def _shown(value: object) -> str:
    return re.sub(r"//.*@", "//...@", repr(value))  # an address has a password in it
