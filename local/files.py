"""Folders that exist only when they are complete, and that one process at a time makes."""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel gives it back when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill that takes `target`'s name only when the block ends well."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(target)


def digest(*parts: str | Path) -> str:
    """Make a short name for what depends on all these."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]
