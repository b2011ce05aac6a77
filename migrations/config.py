"""What migrations read from the environment: the address of the database, and the passwords of its roles.

`ADMIN_DATABASE_URL` is the address of a superuser, and `ORDERS_DB_PASSWORD` the password of `orders_user`, and so on.
`SECRETS_FOLDER` has the files that are read for passwords that are not given.
"""

import os
import sys
from pathlib import Path

from shared.process.configuration import with_password

DEFAULT_URL = "postgresql://postgres@127.0.0.1:5433/quickbite"
SUPERUSER = "postgres/postgres_password"
SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")
FILES = {name: f"{name}/database_password" for name in SERVICES} | {"provider": "payments/provider_database_password"}
"""The file of each role's password. payments simulates the provider, with a schema of its own."""


def admin_url() -> str:
    """The address of the superuser, with its password."""
    return with_password(os.environ.get("ADMIN_DATABASE_URL") or DEFAULT_URL, _content(SUPERUSER))


def passwords() -> dict[str, str]:
    """The password of each section's role. If one is missing or odd, the process ends with one line."""
    found = {section: os.environ.get(variable(section)) or _content(file) for section, file in FILES.items()}
    for section, password in found.items():
        if not password:
            sys.exit(f"{variable(section)} must be set, or SECRETS_FOLDER have the file {FILES[section]}")
        if not (password.isascii() and password.isprintable()):  # others have more than one spelling (RFC 4013)
            sys.exit(f"{variable(section)}: only printable ASCII characters, please")
    return found


def variable(section: str) -> str:
    return f"{section.upper()}_DB_PASSWORD"


def _content(name: str) -> str:
    folder = os.environ.get("SECRETS_FOLDER")
    return (Path(folder) / name).read_text().strip() if folder and (Path(folder) / name).is_file() else ""
