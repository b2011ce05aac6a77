"""The folder of SQLite files.

What must stay true: all files together stay below the limit, whatever happened to them. A file that cannot be read is
set aside under the ending `.broken`, and counts too.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

PREFIX, ENDING, BROKEN = "telemetry-", ".sqlite", ".broken"
SIDES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Limits:
    file_bytes: int
    total_bytes: int
    max_age_seconds: float


class Files:
    """Names sort by the time when a file was begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Path]:
        """The files that can be searched, oldest first."""
        return sorted(self.folder.glob(f"{PREFIX}*{ENDING}"))

    def new(self) -> Path:
        """The path of a file that sorts behind all others, also if the clock was set back."""
        known = [int(path.name.removeprefix(PREFIX).split(".")[0]) for path in self._with_broken()]
        number = max([time.time_ns() // 1_000_000, *(n + 1 for n in known)])
        return self.folder / f"{PREFIX}{number:015d}{ENDING}"

    def size(self) -> int:
        return sum(bytes_of(path) for path in self.folder.glob(f"{PREFIX}*"))

    def set_aside(self, path: Path) -> None:
        """Rename a broken file. Only the newest broken file is kept. Does nothing if that was done already."""
        if not path.exists():
            return
        for old in self.folder.glob(f"{PREFIX}*{BROKEN}"):
            _remove(old)
        for side in SIDES:
            path.with_name(path.name + side).unlink(missing_ok=True)
        path.replace(path.with_name(path.name + BROKEN))

    def drop_old(self, current: Path | None, limits: Limits) -> None:
        """Delete files, oldest first, until one more full file fits. Delete files that were last written too long ago.

        The current file always stays.
        """
        self._drop_orphans()
        others = [path for path in self._with_broken() if path != current]
        used = sum(size_of(path) for path in others)
        oldest_second = time.time() - limits.max_age_seconds
        for path in others:
            size = size_of(path)
            if not size or used + limits.file_bytes > limits.total_bytes or _changed_at(path) <= oldest_second:
                used -= size
                _remove(path)

    def drop_oldest(self, current: Path | None) -> bool:
        """Make room on a full disk. Returns whether there was a file to delete."""
        for path in self._with_broken():
            if path != current:
                _remove(path)
                return True
        return False

    def _with_broken(self) -> list[Path]:
        return sorted([*self.all(), *self.folder.glob(f"{PREFIX}*{BROKEN}")])

    def _drop_orphans(self) -> None:
        """Delete what a crash between two deletions left."""
        for side in SIDES:
            for path in self.folder.glob(f"{PREFIX}*{side}"):
                if not path.with_name(path.name.removesuffix(side)).exists():
                    path.unlink(missing_ok=True)


def began_at(path: Path) -> float:
    return int(path.name.removeprefix(PREFIX).split(".")[0]) / 1000


def size_of(path: Path) -> int:
    """The size of a file with its write-ahead log."""
    return sum(bytes_of(path.with_name(path.name + side)) for side in ("", *SIDES))


def stat(path: Path) -> os.stat_result | None:
    """The size and times of a file. None if there is no such file."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def bytes_of(path: Path) -> int:
    """The size of a file. 0 if there is no such file."""
    found = stat(path)
    return found.st_size if found else 0


def _changed_at(path: Path) -> float:
    found = stat(path)
    return found.st_mtime if found else 0.0


def _remove(path: Path) -> None:
    for side in (*SIDES, ""):
        path.with_name(path.name + side).unlink(missing_ok=True)
