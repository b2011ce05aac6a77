"""The settings of the migrations, read from the environment, and from files for passwords that are not given."""

import sys
from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.process.configuration import with_password

SUPERUSER = "postgres/postgres_password"
SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")
FILES = {name: f"{name}/database_password" for name in SERVICES} | {"provider": "payments/provider_database_password"}
"""The file of each role's password. payments simulates the provider, with a schema of its own."""

ROLES = {file: f"{section}_user" for section, file in FILES.items()} | {SUPERUSER: "postgres"}
"""The role of each file."""


class Settings(BaseSettings):
    """The database, and the passwords of the roles."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, use_attribute_docstrings=True)

    admin_database_url: str = "postgresql://postgres@127.0.0.1:5433/quickbite"
    """The database, with the role of a superuser, and its password unless `SECRETS_FOLDER` has it."""
    secrets_folder: str = ""
    """A folder with a file for each password that is not given, such as `orders/database_password`."""
    orders_db_password: SecretStr = SecretStr("")
    """The password of the role `orders_user`, set at every start. Default: the file in `SECRETS_FOLDER`."""
    inventory_db_password: SecretStr = SecretStr("")
    """The password of the role `inventory_user`, set at every start. Default: the file in `SECRETS_FOLDER`."""
    payments_db_password: SecretStr = SecretStr("")
    """The password of the role `payments_user`, set at every start. Default: the file in `SECRETS_FOLDER`."""
    provider_db_password: SecretStr = SecretStr("")
    """The password of the role `provider_user`, set at every start. Default: the file in `SECRETS_FOLDER`."""
    auth_db_password: SecretStr = SecretStr("")
    """The password of the role `auth_user`, set at every start. Default: the file in `SECRETS_FOLDER`."""
    users_db_password: SecretStr = SecretStr("")
    """The password of the role `users_user`, set at every start. Default: the file in `SECRETS_FOLDER`."""
    products_db_password: SecretStr = SecretStr("")
    """The password of the role `products_user`, set at every start. Default: the file in `SECRETS_FOLDER`."""

    @property
    def admin_url(self) -> str:
        """The address of the superuser, with its password."""
        return with_password(self.admin_database_url, self._content(SUPERUSER))

    def passwords(self) -> dict[str, str]:
        """The password of each section's role. If one is missing or odd, the process ends with one line."""
        found = {section: self._given(section) or self._content(file) for section, file in FILES.items()}
        for section, password in found.items():
            if not password:
                sys.exit(f"{variable(section)} must be set, or SECRETS_FOLDER have the file {FILES[section]}")
            if not (password.isascii() and password.isprintable()):  # others have more than one spelling (RFC 4013)
                sys.exit(f"{variable(section)}: only printable ASCII characters, please")
        return found

    def _given(self, section: str) -> str:
        given: SecretStr = getattr(self, variable(section).lower())
        return given.get_secret_value()

    def _content(self, name: str) -> str:
        path = Path(self.secrets_folder) / name
        return path.read_text().strip() if self.secrets_folder and path.is_file() else ""


def variable(section: str) -> str:
    return f"{section.upper()}_DB_PASSWORD"
