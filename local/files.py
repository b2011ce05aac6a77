"""Folders that exist only when they are complete, and locks, so that one process at a time creates them."""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`. The kernel releases the lock when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """Yield a folder to fill. The folder is renamed to `target` only if the block ends without an error."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(target)


def digest(*parts: str | Path) -> str:
    """A short name for something that depends on all `parts`."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]
