"""Reads the file `.env`, as Docker Compose does. It uses only the standard library: `local/bootstrap.py` needs it."""

import os
from pathlib import Path


def remember(stack: Path) -> None:
    """Set ADMIN_PASSWORD to the one that the stack has, if the environment has none."""
    file = stack / "secrets" / "auth" / "admin_password"
    if file.exists() and not os.environ.get("ADMIN_PASSWORD"):
        os.environ["ADMIN_PASSWORD"] = file.read_text()


def load(path: Path) -> None:
    """Set the variables of the file that the environment does not have. Each line is `NAME=value` or a comment."""
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        name, sign, value = line.partition("=")
        if sign and not line.startswith("#") and not os.environ.get(name.strip()):
            os.environ[name.strip()] = value.strip().strip("\"'")
