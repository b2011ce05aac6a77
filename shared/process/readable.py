"""`python -m shared.process.readable` prints logs for people: time, level, service, text and fields of each line.

It reads what `tail -v` or `docker compose logs` writes, with the names of the programs. Lines that arrive together are
sorted by time. What must stay true: no line can move the cursor of a terminal, and memory has a bound.
"""

import os
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import TextIO

from .lines import Line, parse

TOGETHER_SECONDS = 0.3
BYTES = 1_000_000
"""So much is sorted at once, and a line is cut here."""
LENGTH = 500
"""So many characters of a text or a value are shown."""
NOISE = {
    *("instance", "logger", "pid", "session_id", "line_num", "session_start", "txid", "vxid", "backend_type"),
    *("query_id", "state_code", "ps", "remote_port", "request_id"),
}
"""Fields that say little to people."""
COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}

_HEAD = re.compile(rb"==> (?:.*/)?([^/]+)\.log <==")
_PREFIX = re.compile(rb"([a-z][a-z0-9_.-]*?)(?:-\d+)? +\| ?(.*)", re.DOTALL)


class Reader:
    """Understands the lines of several programs, one after the other."""

    def __init__(self) -> None:
        self._program = ""
        self._before: dict[str, tuple[int, str]] = {}

    def read(self, raw: bytes) -> tuple[str, Line] | None:
        """The program and what its line has. None for an empty line, and for a heading of `tail`."""
        if head := _HEAD.fullmatch(raw):
            self._program = head[1].decode("utf-8", "replace")
            return None
        program, rest = self._program, raw
        if not program and (found := _PREFIX.fullmatch(raw)):
            program, rest = found[1].decode(), found[2]
        if not rest.strip():
            return None
        line = parse(rest, program, time.time_ns(), self._before.get(program))
        self._before[program] = line.at_ns, line.level
        return program, line


def batches(source: int) -> Iterator[list[bytes]]:
    """The lines of a file descriptor until its end, in lists of lines that arrived together."""
    lines: list[bytes] = []
    rest, size, until = b"", 0, 0.0
    while True:
        left = max(0.0, until - time.monotonic()) if lines else None
        if select.select([source], [], [], left)[0]:
            data = os.read(source, 65_536)
            *more, rest = (rest + data).split(b"\n")
            until, size = until if lines else time.monotonic() + TOGETHER_SECONDS, size + len(data)
            if not data or len(rest) > BYTES:
                more, rest = [*more, rest], b""
            lines += more
            if not data:
                yield lines
                return
        if lines and (size > BYTES or time.monotonic() >= until):
            yield lines
            lines, size = [], 0


def text(program: str, line: Line, *, colour: bool) -> str:
    """A line for people, and the lines of its traceback. A field whose value is a word of the text is left out."""
    at = datetime.fromtimestamp(line.at_ns / 1e9).astimezone().strftime("%H:%M:%S.%f")[:-3]
    fields = dict(line.fields)
    traceback = str(fields.pop("exception", "")).splitlines()
    words = line.text.split()
    pairs = [
        f"{_clean(name)}={_clean(value)}"
        for name, value in fields.items()
        if name not in NOISE and value not in ("", None) and str(value) not in words
    ]
    level, rest = f"{line.level:8}", " ".join(pairs)
    if colour:
        at, rest = f"\033[2m{at}\033[0m", f"\033[2m{rest}\033[0m" if rest else ""
        level = f"\033[{COLOURS[line.level]}m{level}\033[0m" if line.level in COLOURS else level
    first = f"{at} {level} {_clean(program):9} {_clean(line.text)}  {rest}".rstrip()
    return "\n".join([first, *(f"    {_clean(one)}" for one in traceback)]) + "\n"


def _clean(value: object) -> str:
    found = str(value).expandtabs(4)
    cut = found if len(found) <= LENGTH else f"{found[:LENGTH]}..."
    return "".join(char if char.isprintable() else "?" for char in cut)


def show(source: int, out: TextIO, *, colour: bool) -> None:
    """Print the lines of a file descriptor until its end, or until Ctrl-C."""
    reader = Reader()
    with suppress(KeyboardInterrupt, BrokenPipeError):
        for batch in batches(source):
            found = [one for raw in batch if (one := reader.read(raw))]
            out.writelines(
                text(program, line, colour=colour) for program, line in sorted(found, key=lambda one: one[1].at_ns)
            )
            out.flush()


if __name__ == "__main__":
    show(sys.stdin.fileno(), sys.stdout, colour=sys.stdout.isatty() or "--colour" in sys.argv)
