"""The store of spans and log lines: queues in memory, a thread that writes, a thread that searches.

What must stay true: memory and disk are bounded, and everything that is lost is counted. Adding never waits and never
raises. No error of the disk ends `run`.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from random import randrange
from typing import TypeVar

import structlog
from prometheus_client import Counter

from console.telemetry import rows
from console.telemetry.files import Limits
from console.telemetry.pending import Pending
from console.telemetry.reader import TRACES, Reader, select_traces, select_traces_of_event
from console.telemetry.records import Line, Lines, Position, Span, TraceSummary, Wanted
from console.telemetry.rows import LineRow, SpanRow
from console.telemetry.schema import STEP_NS
from console.telemetry.writer import Batch, Writer
from shared.errors import Unavailable
from shared.process.loop import Beat, repeat

log = structlog.get_logger()
T = TypeVar("T")

QUEUE_ROWS, QUEUE_BYTES = 20_000, 16_000_000
BATCH_ROWS, BATCH_BYTES = 2_000, 2_000_000
PAUSE_SECONDS = 0.25
IDLE_SECONDS = 10.0
"""So often an idle store looks for files that are too old."""
ATTEMPTS = 10
"""A batch that cannot be stored is given up after so many attempts: about 15 seconds."""
DROPS_LOGGED_SECONDS = 10.0
"""Drops are logged once in so long: this line is tailed and stored too, and may be dropped itself."""
SEARCHES = 16
"""So many searches may wait."""
_TRACES_OF_EVENT = 5

DROPPED = Counter("console_telemetry_dropped_total", "Spans, lines and other telemetry that was lost", ["what"])


class Telemetry:
    """`dropped` counts what was lost since the start, by kind."""

    def __init__(
        self,
        folder: Path,
        *,
        file_bytes: int = 50_000_000,
        total_bytes: int = 500_000_000,
        max_age_seconds: float = 86_400,
    ) -> None:
        self.dropped = {"spans": 0, "lines": 0}
        self._logged = dict(self.dropped)
        self._log_at = 0.0
        self._spans: Pending[SpanRow] = Pending(QUEUE_ROWS, QUEUE_BYTES)
        self._lines: Pending[LineRow] = Pending(QUEUE_ROWS, QUEUE_BYTES)
        self._writer = Writer(folder, Limits(file_bytes, total_bytes, max_age_seconds))
        self._reader = Reader(self._writer.files, self._writer.suspects.add)
        self._writing = ThreadPoolExecutor(1, "telemetry-writer")
        self._reading = ThreadPoolExecutor(1, "telemetry-reader")
        self._searches = 0
        self._opened = asyncio.Event()
        self._batch: Batch | None = None
        self._batch_bytes = min(BATCH_BYTES, file_bytes // 8)
        self._attempts, self._written_at = 0, 0.0
        self._numbers = count(randrange(STEP_NS))

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Store what is added, until `stop` is set; then store the rest. Only one process can use the folder."""
        try:
            await repeat("storing telemetry", self._turn, stop, beat, trouble=(sqlite3.Error, OSError))
            await self._store_rest()
        finally:
            await self._in_writer(self._writer.close)
            self._opened.clear()

    def add_spans(self, spans: Sequence[Span]) -> int:
        """Queue spans. Returns how many were accepted: a span without valid ids is not, nor one without room."""
        accepted = sum(row is not None and self._spans.add(row) for row in map(rows.of_span, spans))
        self.count_dropped("spans", len(spans) - accepted)
        return accepted

    def add_lines(self, lines: Sequence[Line], positions: Sequence[Position] = ()) -> int:
        """Queue lines. Returns how many were accepted.

        `positions` has one for each line, or is empty. It is committed together with the line.
        """
        accepted = 0
        for number, line in enumerate(lines):
            row = rows.of_line(self._numbered(line), positions[number] if positions else None)
            accepted += self._lines.add(row)
        self.count_dropped("lines", len(lines) - accepted)
        return accepted

    def has_room_for_spans(self) -> bool:
        return self._spans.has_room(QUEUE_ROWS // 4, QUEUE_BYTES // 4)

    def has_room_for_lines(self, number: int, size: int) -> bool:
        return self._lines.has_room(number, size)

    def count_dropped(self, what: str, number: int) -> None:
        if number:
            self.dropped[what] = self.dropped.get(what, 0) + number
            DROPPED.labels(what).inc(number)

    def positions(self) -> dict[str, Position] | None:
        """How far each log file was read, by the file's name. None until the store is open."""
        return dict(self._writer.positions) if self._opened.is_set() else None

    async def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, at most 5,000, sorted by start."""
        return await self._in_reader(partial(self._reader.trace, trace_id))

    async def traces(
        self,
        *,
        service: str = "",
        key: str = "",
        min_ms: float = 0.0,
        errors_only: bool = False,
        before_ns: int | None = None,
        limit: int = 100,
    ) -> list[TraceSummary]:
        """Traces, latest start first. `service` is any service that has a span in the trace, and `key` any span's."""
        limit = max(0, min(limit, TRACES))
        select = select_traces(service, key, min_ms, errors_only, before_ns, limit)
        return await self._in_reader(partial(self._reader.traces, select, limit))

    async def traces_of_event(self, event_id: str) -> list[TraceSummary]:
        """Traces with a span that has this event's id, a UUIDv7."""
        select = select_traces_of_event(event_id, _TRACES_OF_EVENT)
        return await self._in_reader(partial(self._reader.traces, select, _TRACES_OF_EVENT))

    async def lines(self, wanted: Wanted) -> Lines:
        """Lines, newest first. See `Lines.complete`. Raises `Unavailable` if too many searches wait."""
        return await self._in_reader(partial(self._reader.lines, wanted))

    def _numbered(self, line: Line) -> Line:
        """The line with an id in the order of time. Lines of the same millisecond stay in the order of arrival."""
        at_ns = min(max(line.at_ns, 0), rows.LAST_NS)
        id_ = at_ns - at_ns % STEP_NS + next(self._numbers) % STEP_NS
        return Line(
            id_,
            at_ns,
            line.service,
            line.level,
            line.text,
            line.fields,
            line.trace_id,
            line.key,
            line.event_id,
            line.span_id,
        )

    async def _turn(self) -> float:
        await self._open()
        if self._batch is None:
            self._batch = self._take()
        more = len(self._spans) + len(self._lines) > 0
        if self._batch.spans or self._batch.lines or time.monotonic() - self._written_at > IDLE_SECONDS:
            await self._store(self._batch)
        self._batch = None
        self._log_drops()
        return 0.0 if more else PAUSE_SECONDS

    async def _open(self) -> None:
        if not self._opened.is_set():
            await self._in_writer(self._writer.open)
            self._opened.set()

    def _take(self) -> Batch:
        return Batch(
            self._spans.take(BATCH_ROWS, self._batch_bytes // 2), self._lines.take(BATCH_ROWS, self._batch_bytes // 2)
        )

    async def _store(self, batch: Batch) -> None:
        """Raises `sqlite3.Error` or `OSError` if the batch must be tried again."""
        self._written_at = time.monotonic()
        try:
            lost = await self._in_writer(partial(self._writer.write, batch))
        except (sqlite3.Error, OSError):
            self._attempts += 1
            if self._attempts < ATTEMPTS:
                raise
            self.count_dropped("spans", len(batch.spans))
            lost = len(batch.lines)
        self.count_dropped("lines", lost)
        self._attempts = 0

    async def _store_rest(self) -> None:
        """One attempt per batch."""
        with suppress(sqlite3.Error, OSError):
            await self._open()
        self._attempts = ATTEMPTS
        while self._opened.is_set() and (batch := self._batch or self._take()) != Batch():
            self._batch = None
            await self._store(batch)
            self._attempts = ATTEMPTS

    def _log_drops(self) -> None:
        now = time.monotonic()
        if self.dropped == self._logged or now - self._log_at < DROPS_LOGGED_SECONDS:
            return
        lost = {what: number - self._logged.get(what, 0) for what, number in self.dropped.items()}
        self._logged, self._log_at = dict(self.dropped), now
        log.warning("telemetry was lost", **{what: number for what, number in lost.items() if number})

    async def _in_writer(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writing, call)

    async def _in_reader(self, call: Callable[[], T]) -> T:
        if self._searches >= SEARCHES:
            raise Unavailable("too many searches")
        self._searches += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, call)
        finally:
            self._searches -= 1
