"""One log file, followed through rotation, truncation and restarts.

What must stay true: each line that a writer completed is returned once, in order, with the position behind it. Only a
file that is too far ahead is left out in part, and then the lines are counted.
"""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from console.telemetry.files import bytes_of, stat
from console.telemetry.records import Position

LINE_BYTES = 64 * 1024
READ_BYTES = 512 * 1024
FIRST_BYTES = 1_000_000
"""So much is read of a file that is there when the store is new."""
BEHIND_BYTES = 16_000_000
"""A tail that is further behind leaves out all but the last `FIRST_BYTES`."""
HEAD_BYTES = 256
QUIET_TURNS = 3
"""So many turns without a new line end the reading of a file that was renamed: its writer may not know yet."""
COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}


@dataclass
class Found:
    lines: list[tuple[bytes, Position]] = field(default_factory=list)
    lost: int = 0


class Followed:
    """`position` is where to continue. Without it the file is read from its start, or `from_end`."""

    def __init__(self, path: Path, position: Position | None = None, *, from_end: bool = False) -> None:
        self.path = path
        self._saved, self._from_end = position, from_end
        self._file: FileIO | None = None
        self._at = Position(path.name, "", 0, b"")
        self._seen = -1
        self._quiet = 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, lines: int) -> Found:
        """The next lines, at most so many. Raises `OSError`."""
        if self._file is None:
            self._open_first()
        found = Found(lost=self._skip_if_behind())
        self._restart_if_other()
        found.lines = list(self._lines(lines))
        self._quiet = 0 if found.lines else self._quiet + 1
        if self._quiet >= QUIET_TURNS and self._is_replaced():
            found.lines = list(self._rest())
            self._open_next()
        return found

    def is_over(self) -> bool:
        """True if the file was deleted, and nothing new was written to it for some turns."""
        return (self._file is None or self._quiet >= QUIET_TURNS) and not self.path.exists()

    def _open_first(self) -> None:
        saved = self._saved
        path = self.path if saved is None else self._path_of(saved) or self.path
        self._open(path)
        if saved is not None and saved.inode == self._at.inode:
            self._at = saved
        elif self._from_end and saved is None:
            self._to_end()
        self._saved = None

    def _open(self, path: Path) -> None:
        file = path.open("rb", buffering=0)
        self.close()
        self._file, self._seen, self._quiet = file, -1, 0
        self._at = Position(self.path.name, str(os.fstat(file.fileno()).st_ino), 0, b"")

    def _to_end(self) -> None:
        start = max(0, self._size() - FIRST_BYTES)
        self._move(start, skipping=start > 0)

    def _open_next(self) -> None:
        """The file that was begun after this one: with several rotations in a row it has been renamed too."""
        newer = self._newer()
        self._open(newer[0] if newer else self.path)

    def _lines(self, most: int) -> Iterator[tuple[bytes, Position]]:
        size = self._size()
        if size == self._seen:
            return
        data = os.pread(self._fd(), READ_BYTES, self._at.offset)
        base, start, given = self._at.offset, 0, 0
        while given < most and (end := data.find(b"\n", start)) >= 0:
            raw, skipped, start = data[start:end], self._at.skipping, end + 1
            self._move(base + start, skipping=False)
            if not skipped and not raw.isspace() and raw:
                given += 1
                yield raw[:LINE_BYTES], self._at
        if given < most:
            if len(data) - start >= LINE_BYTES:
                skipped = self._at.skipping
                self._move(base + len(data), skipping=True)
                if not skipped:
                    yield data[start : start + LINE_BYTES], self._at
            self._seen = base + len(data)

    def _rest(self) -> Iterator[tuple[bytes, Position]]:
        """The last line of a file that is over, if it has no end."""
        data = os.pread(self._fd(), LINE_BYTES, self._at.offset)
        skipped = self._at.skipping
        self._move(self._at.offset + len(data), skipping=False)
        if data.strip() and not skipped:
            yield data, self._at

    def _move(self, offset: int, *, skipping: bool) -> None:
        head = self._at.head
        if len(head) < HEAD_BYTES and offset > len(head):
            head = os.pread(self._fd(), min(HEAD_BYTES, offset), 0)
        self._at = Position(self._at.file, self._at.inode, offset, head, skipping)

    def _restart_if_other(self) -> None:
        """Begin again if the file was truncated, or if it is another file with the same inode."""
        size = self._size()
        if size == self._seen:
            return
        if size < self._at.offset or os.pread(self._fd(), len(self._at.head), 0) != self._at.head:
            self._at = Position(self._at.file, self._at.inode, 0, b"")

    def _skip_if_behind(self) -> int:
        """Returns how many lines were left out."""
        size = self._size()
        if size == self._seen and self._quiet:
            return 0
        newer = self._newer() if self._is_replaced() else []
        waiting = max(0, size - self._at.offset) + sum(bytes_of(path) for path in newer)
        if waiting <= BEHIND_BYTES:
            return 0
        lost = _count(self._fd(), self._at.offset) + sum(_count_in(path) for path in newer)
        if newer:
            self._open(newer[-1])
        self._to_end()
        return lost - _count(self._fd(), self._at.offset) + self._at.skipping

    def _newer(self) -> list[Path]:
        """The files that were begun after the open one, oldest first."""
        changed = os.fstat(self._fd()).st_mtime_ns
        others = [(_changed(path), path) for path in self._siblings()]
        newer = sorted(pair for pair in others if pair[0] > changed and pair[1] != self.path)
        return [*(path for _, path in newer), self.path]

    def _siblings(self) -> list[Path]:
        pattern = glob.escape(self.path.name) + "[.-]*"
        return [path for path in self.path.parent.glob(pattern) if path.suffix not in COMPRESSED and path.is_file()]

    def _path_of(self, position: Position) -> Path | None:
        """The path that the file of a position has now."""
        for path in (self.path, *self._siblings()):
            if _inode(path) == position.inode:
                with path.open("rb") as file:
                    if file.read(len(position.head)) == position.head:
                        return path
        return None

    def _is_replaced(self) -> bool:
        inode = _inode(self.path)
        return inode is not None and inode != self._at.inode

    def _size(self) -> int:
        return os.fstat(self._fd()).st_size

    def _fd(self) -> int:
        assert self._file is not None  # noqa: S101 - `read` opened it
        return self._file.fileno()


def _inode(path: Path) -> str | None:
    found = stat(path)
    return str(found.st_ino) if found else None


def _changed(path: Path) -> int:
    found = stat(path)
    return found.st_mtime_ns if found else 0


def _count_in(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return _count(file.fileno(), 0)
    except FileNotFoundError:
        return 0


def _count(fd: int, offset: int) -> int:
    """The lines from `offset` to the end."""
    number = 0
    while data := os.pread(fd, 1 << 20, offset):
        number, offset = number + data.count(b"\n"), offset + len(data)
    return number
