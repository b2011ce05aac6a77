"""Secrets as files: a folder per service, a file per secret, whose name is that of a setting. Made at the first start.

    python -m shared.process.secret /secrets orders/database_password    # what is missing, in a volume of containers

What must stay true: a secret that exists is never replaced, and a file with half a secret is never seen.
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


if __name__ == "__main__":
    # Everybody may read these files, because each container sees only its own folder of the volume.
    for wanted in sys.argv[2:]:
        secret(Path(sys.argv[1]), wanted, mode=0o444)
