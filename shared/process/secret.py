"""Secrets as files: a folder per service, a file per secret, whose name is that of a setting. Made at the first start.

    python -m shared.process.secret /secrets orders/database_password    # what is missing, in a volume of containers

What must stay true: only `renew` and `rewrite` replace a secret that exists. A file with half a secret is never seen.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile


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


if __name__ == "__main__":
    # Everybody may read these files, because each container sees only its own folder of the volume.
    for wanted in sys.argv[2:]:
        secret(Path(sys.argv[1]), wanted, mode=0o444)
