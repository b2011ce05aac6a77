"""Reads the file `.env`, as Docker Compose does. It uses only the standard library: `local/bootstrap.py` needs it."""

import os
from pathlib import Path


def load(path: Path) -> None:
    """Set the variables of the file that the environment does not have. Each line is `NAME=value` or a comment."""
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        name, sign, value = line.partition("=")
        if sign and not line.startswith("#") and not os.environ.get(name.strip()):
            os.environ[name.strip()] = value.strip().strip("\"'")
