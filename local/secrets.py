"""The secrets of a stack. They are made at its first start, and kept in a file that only its owner can read."""

import json
import os
import secrets as random
from pathlib import Path


class Secrets:
    """Secrets by name. `save` writes them to the JSON file at `path`, which has mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def __call__(self, name: str) -> str:
        """The secret of this name. A new one is 32 random bytes, written in characters that are safe everywhere."""
        return self._known.setdefault(name, random.token_urlsafe(32))

    def save(self) -> None:
        """Keep them for later starts."""
        fresh = self._path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(self._known, file, indent=2)
        fresh.rename(self._path)
