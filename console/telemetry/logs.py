"""Follows all log files of a folder and adds their lines to the store.

What must stay true: reading has a limit per second, whatever is written, so that a process that logs without end costs
a part of a core, not all of it. The files are the queue: lines that the store has no room for are read later.
"""

import asyncio
import time
from functools import partial
from pathlib import Path

import structlog

from console.telemetry.following import LINE_BYTES, Followed
from console.telemetry.formats import parse
from console.telemetry.records import Line, Position
from console.telemetry.store import Telemetry
from shared.process.loop import Beat, repeat

log = structlog.get_logger()

PAUSE_SECONDS, BUSY_SECONDS = 0.25, 0.1
LINES, LINES_OF_FILE, BYTES = 2000, 1000, 1_000_000
"""So much is read in one turn, and so many lines of one file."""
FILES = 200
LOOK_SECONDS = 1.0
"""So often the folder is searched for new files."""


class Tail:
    """Follows `*.log` in `folder`. The name of the process is the file's name without its ending."""

    def __init__(self, folder: Path, telemetry: Telemetry) -> None:
        self._folder, self._telemetry = folder, telemetry
        self._followed: dict[str, Followed] = {}
        self._before: dict[str, Line] = {}
        self._saved: dict[str, Position] | None = None
        self._looked_at, self._first = float("-inf"), True
        self._unreadable: set[str] = set()

    async def run(self, stop: asyncio.Event, beat: Beat) -> None:
        try:
            await repeat("reading log files", self._turn, stop, beat, trouble=(OSError,))
        finally:
            for followed in self._followed.values():
                followed.close()

    async def _turn(self) -> float:
        if self._saved is None:
            self._saved = self._telemetry.positions()
        if self._saved is None or not self._telemetry.has_room_for_lines(LINES, 8 * BYTES):
            return PAUSE_SECONDS
        lines, positions, lost = await asyncio.to_thread(partial(self._read, self._saved))
        self._telemetry.add_lines(lines, positions)
        self._telemetry.count_dropped("lines", lost)
        return BUSY_SECONDS if len(lines) >= LINES_OF_FILE else PAUSE_SECONDS

    def _read(self, saved: dict[str, Position]) -> tuple[list[Line], list[Position], int]:
        """Lines with the position behind each, and how many were left out."""
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._look(saved)
        lines: list[Line] = []
        positions: list[Position] = []
        lost, size = 0, 0
        for name in list(self._followed):
            if len(lines) >= LINES or size >= BYTES:
                break
            followed = self._followed[name] = self._followed.pop(name)  # the next turn begins with another file
            try:
                found = followed.read(min(LINES_OF_FILE, LINES - len(lines)))
            except OSError as error:
                self._complain(name, error)
                continue
            lost += found.lost
            for raw, position in found.lines:
                lines.append(self._line(name, raw))
                positions.append(position)
                size += len(raw)
        return lines, positions, lost

    def _look(self, saved: dict[str, Position]) -> None:
        """Begin to follow new files, and forget deleted ones. A file of the first look is read from near its end."""
        self._looked_at = time.monotonic()
        for name in [name for name, followed in self._followed.items() if followed.is_over()]:
            self._followed.pop(name).close()
        from_end = self._first and not saved
        for path in sorted(self._folder.glob("*.log")):
            if path.name not in self._followed and len(self._followed) < FILES and path.is_file():
                self._followed[path.name] = Followed(path, saved.pop(path.name, None), from_end=from_end)
        self._first = False

    def _complain(self, name: str, error: OSError) -> None:
        """Once for each file: the line is tailed too."""
        if name not in self._unreadable:
            self._unreadable.add(name)
            log.warning("a log file cannot be read", file=name, error=repr(error))

    def _line(self, name: str, raw: bytes) -> Line:
        line = parse(raw[:LINE_BYTES], name.removesuffix(".log"), time.time_ns(), self._before.get(name))
        self._before[name] = line
        return line
