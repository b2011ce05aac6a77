"""The settings of the console, read once from the environment: `CONSOLE_PORT`, `CONSOLE_SERVICES`, and so on."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.process import configuration

PREFIX = "CONSOLE_"

Url = Annotated[str, Field(pattern=r"^https?://[^\s,=/]+$")]
Listed = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*=https?://[^\s,=/]+(,[a-z][a-z0-9_-]*=https?://[^\s,=/]+)*$")]

_SERVICES = (
    "orders=http://127.0.0.1:8080,inventory=http://127.0.0.1:8081,payments=http://127.0.0.1:8082,"
    "auth=http://127.0.0.1:8083,users=http://127.0.0.1:8084,products=http://127.0.0.1:8085"
)


class Settings(BaseSettings):
    """The defaults fit the stack of `make up`."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix=PREFIX, env_ignore_empty=True, use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """The address on which the console listens."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8086
    """The port on which the console listens."""
    data_folder: Path = Path(".local/console")
    """The folder of the SQLite files."""
    auth_url: Url = "http://127.0.0.1:8083"
    """The address of auth, at which operators log in."""
    services: Listed = _SERVICES
    """`name=address` of each service, separated by commas."""
    log_folder: str = ""
    """A folder whose `*.log` files are read. Empty: none."""
    alerts_file: Path = Path("deploy/alerts.yaml")
    """The file with the alert rules."""
    alert_webhook_url: str = ""
    """Alerts that begin or end are posted to this address. Empty: none."""
    forward_otlp_endpoint: str = ""
    """Spans are forwarded to this address (OTLP/HTTP), without `/v1/traces`. Empty: none."""
    supervisor_socket: str = ""
    """The socket of supervisord, only in the embedded stack. Empty: processes cannot be killed from the console."""
    admin_password: SecretStr = SecretStr("")
    """The password with which the console itself logs in as `admin`, to compare the books. Empty: it does not."""
    log_level: configuration.LogLevel = "INFO"
    """The lowest level that is logged."""

    def newest_admin_password(self) -> str:
        """The password of `admin` now: if it came from a file of `SECRETS_FOLDER`, from there again."""
        path = configuration.path_of(f"{PREFIX}admin_password".lower())
        return path.read_text().strip() if path else self.admin_password.get_secret_value()

    @property
    def targets(self) -> dict[str, str]:
        """The address of each service, by its name."""
        return dict(one.split("=", 1) for one in self.services.split(","))


def read() -> Settings:
    """Read the settings. A wrong value ends the process with one line that names the variable."""
    return configuration.load(Settings)
