"""Secrets as files: a folder per service, a file per secret, whose name is that of a setting. Made at the first start.

    python -m shared.process.secret /secrets orders/database_password    # what is missing, in a volume of containers
    python -m shared.process.secret renew /secrets orders/kafka_password

What must stay true: `secret` never replaces one that exists. A file with half a secret is never seen.
"""

import os
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

_READ_SECONDS = 0.5


def secret(folder: Path, name: str, mode: int = 0o600) -> str:
    """Return the secret `name`, such as `orders/database_password`. A missing one is made: 256 random bits."""
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent) as made:
            made.write(secrets.token_urlsafe(32))
            made.flush()
            os.fchmod(made.fileno(), mode)
            os.fsync(made.fileno())
            with suppress(FileExistsError):  # another process was faster
                path.hardlink_to(made.name)
    return path.read_text().strip()


def renew(path: Path) -> None:
    """Replace a secret with a new one."""
    rewrite(path, secrets.token_urlsafe(32))


def rewrite(path: Path, content: str) -> None:
    """Replace a secret. Its file keeps its mode."""
    replace(path, content.encode(), mode=path.stat().st_mode & 0o777)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file with exactly this mode, in the place of an older one. A reader sees the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
    fresh.rename(path)


def overlap(path: Path) -> None:
    """Put a new secret before the one that a file has: for servers that accept both, see `Words`."""
    former = path.read_text().split()[0]
    rewrite(path, f"{secrets.token_urlsafe(32)} {former}")


def settle(path: Path) -> None:
    """Delete all but the newest secret of a file."""
    rewrite(path, path.read_text().split()[0])


class Words:
    """The secrets in a file, separated by spaces. The file is read again when it is called half a second later."""

    def __init__(self, path: Path) -> None:
        self._path, self._read_at, self._words = path, 0.0, frozenset[str]()

    def __call__(self) -> frozenset[str]:
        if (now := time.monotonic()) - self._read_at > _READ_SECONDS or not self._words:
            self._words, self._read_at = frozenset(self._path.read_text().split()), now
        return self._words


_CHANGES = {"renew": renew, "overlap": overlap, "settle": settle}


def main(arguments: list[str]) -> None:
    """Make missing secrets, or, with the name of a change first, change secrets."""
    change = _CHANGES.get(arguments[0])
    folder, *names = arguments[1:] if change else arguments
    for name in names:
        if change:
            change(Path(folder, name))
        else:  # Everybody may read the file, because each container sees only its own folder of the volume.
            secret(Path(folder), name, mode=0o444)


if __name__ == "__main__":
    main(sys.argv[1:])
