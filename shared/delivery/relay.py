"""The relay: publishes outbox rows to Kafka, in the order of each key, and retries without limit.

What must stay true: the cursor of a lane moves only past rows that Kafka has acknowledged. So a crash at any point
repeats rows and skips none. Work that failed is halved before the next attempt, down to a row of each lane. Any number
of relays may run. The pattern is the polling publisher (Richardson, 2018).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from uuid import uuid4

import structlog

from .. import metrics, postgres
from ..postgres import Plain
from ..process.backoff import Backoff, wait
from ..process.loop import Beat, repeat
from . import events, kafka, lanes, spans
from .hint import channel
from .kafka import Brokers
from .lanes import Lanes, Limit, Positions, RestoredElsewhere, Row
from .sender import BEHIND, Refusal, Sender, Stopped

log = structlog.get_logger()

ROWS_PER_LANE, BYTES_PER_LANE = 2000, 2_000_000
_IDLE_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_AFTER_ROWS = 3
GIVE_WAY_SECONDS = 5.0
"""A relay gives way to other work for this time at most. Then it takes a turn."""
_GIVE_WAY_LOOK_SECONDS = 0.05
HELD_BACK_SECONDS = 5.0
_WATCH_EVERY_SECONDS = 2.5
_RETRY_FIRST_SECONDS, _RETRY_CAP_SECONDS = 10.0, 600.0
_RETRY_SECONDS = 2.0
_SINCE_SECONDS = 3600.0
_ADVANCE_EVERY_SECONDS = 0.05  # the most that a crash repeats; without it a turn of few rows costs twice as much

TROUBLE = (*postgres.ERRORS, kafka.Unavailable, RestoredElsewhere)

# Rows are read in the order of the index. With sort, Postgres would sort all rows of a partition without statistics.
# Commits of cursors need no fsync, because a lost one only repeats rows.
_SETTINGS = {"plan_cache_mode": "force_generic_plan", "enable_sort": "off", "synchronous_commit": "off"}

# A refused row stops its key, not its lane: later rows of the key wait behind it in the same table, in order.
_REFUSE = """
insert into outbox_refused (lane, xid, id, topic, key, reason) values ($1, $2, $3, $4, $5, $6) on conflict do nothing
"""
_STOPPED = "select distinct topic, key from outbox_refused where resolved_at is null"

# The first row of some keys of these lanes that were set aside: its topic may exist now, or allow larger records.
_SET_ASIDE = """
select o.topic, o.hash, o.key, o.value, o.type, o.head, o.lane, o.xid, o.id
  from (select distinct on (topic, key) lane, xid, id from outbox_refused
         where resolved_at is null and lane = any($1::smallint[]) order by topic, key, xid, id) r
  join outbox o using (lane, xid, id)
 order by random() limit 10
"""
_RESOLVE = """
update outbox_refused set resolved_at = now() where (lane, xid, id) = ($1, $2, $3)
"""


class Relay:
    """A relay over the outbox of one service, with its own connection and its own producer.

    `source` and `service` form the source of the events (CloudEvents' `ce_source`: `source/service`). `owner` is the
    name of the relay in leases and logs. While `is_busy` returns true, a turn comes only every `GIVE_WAY_SECONDS`. So
    the process has its time for requests, and what follows from an event comes later, in larger batches.
    """

    def __init__(
        self,
        database_url: str,
        brokers: Brokers | str,
        *,
        service: str,
        owner: str,
        source: str = "/quickbite",
        pace_seconds: float = 0.005,
        lease_seconds: float = 3.0,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database_url, self._service, self._pace = database_url, service, pace_seconds
        self.lanes = Lanes(f"{owner}/{uuid4().hex[:8]}", lease_seconds)
        self._sender = Sender(brokers, f"{source}/{service}")
        self._is_busy = is_busy
        self._conn: Plain | None = None
        self._leasing: Plain | None = None
        self._limit = Limit(ROWS_PER_LANE, BYTES_PER_LANE)
        self._ahead: tuple[Positions, list[Row]] = ({}, [])
        self._woken = asyncio.Event()
        self._told_others = True
        self._idle_turns = 0
        self._has_more = False
        self._started = 0.0
        self._renew_at = self._watch_at = self._advance_at = self._retry_at = 0.0
        self._since, self._since_of, self._since_until = date.min, dict[int, int](), 0.0
        self._retries = Backoff(_RETRY_FIRST_SECONDS, _RETRY_CAP_SECONDS)

    def wake(self) -> None:
        """Wake the relay after a commit with new rows, from the thread of the event loop. This is only a hint."""
        self._told_others = False
        self._woken.set()

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Publish until `stop` is set. Trouble with Postgres or Kafka is retried without limit, with back-off."""
        await repeat("relay turn", self._turn, stop, beat, trouble=TROUBLE, woken=self._woken, on_trouble=self._recover)

    async def _turn(self) -> float:
        """Take one paced turn. Returns how long to wait for a hint before the next."""
        if (early := self._started + self._pace - time.monotonic()) > 0:
            await asyncio.sleep(early)
        await self._give_way()
        self._started, hinted = time.monotonic(), self._woken.is_set()
        self._woken.clear()
        published = await self.run_once()
        if self._has_more:
            return 0.0
        # New rows come with a hint. A hint without rows means that an open write transaction hides them.
        self._idle_turns = _AFTER_ROWS if published else 0 if hinted else self._idle_turns + 1
        if published:
            return _ADVANCE_EVERY_SECONDS
        return _IDLE_SECONDS[min(self._idle_turns, len(_IDLE_SECONDS) - 1)]

    async def _give_way(self) -> None:
        """While the process is busy, wait until `GIVE_WAY_SECONDS` after the start of the last turn.

        A turn that left rows behind is followed by the next at once: the outbox does not grow without limit.
        """
        until = self._started + GIVE_WAY_SECONDS
        if self._has_more or not self._is_busy():
            return
        await self.lanes.advance(await self._connection())  # a crash meanwhile repeats no rows
        async with self._prolonging():
            while self._is_busy() and time.monotonic() < until:  # noqa: ASYNC110 - nothing tells of the end
                await asyncio.sleep(_GIVE_WAY_LOOK_SECONDS)

    async def run_once(self) -> int:
        """Take one turn: renew leases if due, read, publish, move the cursors. Returns how many rows are done.

        Raises one of `TROUBLE`. Then only cursors of acknowledged rows have moved, and the next turn repeats the other
        rows, fewer at a time. In the database, cursors move by time and when no row is left, so a crash can repeat the
        rows of the last turns.
        """
        conn = await self._connection()
        await self._keep_lanes(conn)
        read_ns = time.time_ns()
        rows = await self._take(conn) if self.lanes.held else []
        self._has_more = self._limit.is_reached(rows)
        if rows:
            metrics.OUTBOX_OLDEST.set(_age(rows[0]))
            ends = lanes.ends_of(rows)
            try:
                refused = await self._send(conn, rows, ends)
            except Stopped as error:
                await self.lanes.advance(conn, error.ends)
                raise
            spans.sent(rows, read_ns, [row for row, _ in refused])
            await self._note_refused(conn, refused)
            self._limit = Limit(min(ROWS_PER_LANE, self._limit.rows * 2), min(BYTES_PER_LANE, self._limit.bytes * 2))
            self.lanes.note(ends)
            metrics.OUTBOX_PUBLISHED.inc(len(rows))
        if not rows or time.monotonic() >= self._advance_at:
            self._advance_at = time.monotonic() + _ADVANCE_EVERY_SECONDS
            await self.lanes.advance(conn)
        if not self._has_more:
            metrics.OUTBOX_OLDEST.set(0)
        metrics.RELAY_SUCCESS.set_to_current_time()
        return len(rows)

    async def close(self) -> None:
        """Return the lanes, so that other relays take them at once, and close both connections."""
        with suppress(*postgres.ERRORS):
            if self._conn is not None and not self._conn.is_closed():
                await self.lanes.give_back(self._conn)
        await self._discard()

    async def _connection(self) -> Plain:
        if self._conn is None or self._conn.is_closed():
            name = f"{self._service} relay {self.lanes.owner}"
            self._conn = await postgres.connect(self._database_url, application_name=name, **_SETTINGS)
            await self._conn.add_listener(channel(self._service), self._on_notify)
            self._renew_at = 0.0
        return self._conn

    async def _keep_lanes(self, conn: Plain) -> None:
        now = time.monotonic()
        if now >= self._renew_at:
            before = set(self.lanes.held)
            await self.lanes.renew(conn)
            self._renew_at = now + self.lanes.lease_seconds / 3
            metrics.RELAY_LANES.set(len(self.lanes.held))
            if set(self.lanes.held) != before:
                log.info("relay holds lanes", lanes=sorted(self.lanes.held), of=self.lanes.total)
            if set(self.lanes.held) != before or self._sender.stopped:
                self._sender.stopped = {(row["topic"], row["key"]) for row in await conn.fetch(_STOPPED)}
            metrics.OUTBOX_STOPPED_KEYS.set(len(self._sender.stopped))
        epochs = {lane: cursor.epoch for lane, cursor in self.lanes.held.items()}
        if epochs != self._since_of:
            self._sender.forget_partitions()  # partitions are added while no relay holds a lane
        if epochs != self._since_of or now >= self._since_until:  # in a new epoch, a cursor may have moved back
            self._since = await lanes.first_day(conn)
            self._since_of, self._since_until = epochs, now + _SINCE_SECONDS
        if self._sender.stopped and now >= self._retry_at:
            await self._retry_refused(conn)
        if now >= self._watch_at:
            self._watch_at = now + _WATCH_EVERY_SECONDS
            await self._watch(conn)
        if not self._told_others and len(self.lanes.held) < self.lanes.total:
            await conn.execute("select pg_notify($1, '')", channel(self._service))  # other relays may hold the lanes
        self._told_others = True

    async def _retry_refused(self, conn: Plain) -> None:
        """Try the rows that Kafka refused again, after longer and longer waits: the cause may be mended."""
        started = time.monotonic()
        self._retry_at = started + self._retries.next()
        async with self._prolonging():
            for row in await conn.fetch(_SET_ASIDE, list(self.lanes.held)):
                if await self._sender.send_again(row):
                    await conn.execute(_RESOLVE, row["lane"], row["xid"], row["id"])
                    log.info("Kafka accepted a row that it had refused before", topic=row["topic"], key=row["key"])
                    self._retry_at = 0.0
                if time.monotonic() - started > _RETRY_SECONDS:
                    break

    async def _watch(self, conn: Plain) -> None:
        """Report the oldest open write transaction, because it holds back every relay of the cluster."""
        oldest = await lanes.held_back_by(conn)
        seconds = (oldest["seconds"] or 0.0) if oldest else 0.0  # unknown if the owner of the function may not see it
        metrics.OUTBOX_HELD_BACK.set(seconds)
        if oldest and seconds > HELD_BACK_SECONDS:
            log.error("an open write transaction holds the outbox back: end it, see docs/operations.md", **dict(oldest))

    async def _take(self, conn: Plain) -> list[Row]:
        """The rows after the cursors: those read ahead in the last turn, if the cursors are where that turn ended."""
        (positions, rows), self._ahead = self._ahead, ({}, [])
        here = self.lanes.positions
        return rows if rows and positions == here else await lanes.read(conn, here, self._limit, self._since)

    async def _send(self, conn: Plain, rows: list[Row], ends: Positions) -> list[Refusal]:
        """Publish. While Kafka writes a large turn, Postgres reads the rows after it."""
        async with self._prolonging():
            if not self._has_more:
                return await self._sender.send(rows)
            behind = self.lanes.positions | ends
            reading = asyncio.create_task(lanes.read(conn, behind, self._limit, self._since))
            try:
                refused = await self._sender.send(rows)
            finally:
                ahead = await reading
            self._ahead = behind, ahead
            return refused

    @asynccontextmanager
    async def _prolonging(self) -> AsyncIterator[None]:
        """Prolong the leases as long as the block runs. A short block costs nothing."""
        over, tasks = asyncio.Event(), list[asyncio.Task[None]]()

        def start() -> None:
            tasks.append(asyncio.create_task(self._prolong(over)))

        timer = asyncio.get_running_loop().call_later(self.lanes.lease_seconds / 3, start)
        try:
            yield
        finally:
            timer.cancel()
            over.set()
            if tasks:
                await asyncio.wait(tasks)  # as long as one statement may take

    async def _prolong(self, over: asyncio.Event) -> None:
        """Prolong the leases over a second connection, because the first one may read meanwhile."""
        while not over.is_set():
            try:
                if self._leasing is None or self._leasing.is_closed():
                    name = f"{self._service} relay {self.lanes.owner} leases"
                    self._leasing = await postgres.connect(self._database_url, application_name=name)
                await self.lanes.prolong(self._leasing)
            except postgres.ERRORS as error:
                log.warning("leases not prolonged, trying again", error=repr(error))
            await wait(over, self.lanes.lease_seconds / 3)

    async def _note_refused(self, conn: Plain, refused: Sequence[Refusal]) -> None:
        if any(reason != BEHIND for _, reason in refused):
            self._retries.reset()
            due = time.monotonic() + self._retries.next()
            self._retry_at = min(self._retry_at, due) if self._sender.stopped else due
        for row, reason in refused:
            where = [row[name] for name in ("lane", "xid", "id", "topic", "key")]
            await conn.execute(_REFUSE, *where, reason)
            self._sender.stopped.add((row["topic"], row["key"]))
            metrics.OUTBOX_REFUSED.inc()
            log.error("Kafka refused an outbox row permanently", topic=row["topic"], key=row["key"], reason=reason)

    async def _recover(self) -> None:
        metrics.RELAY_FAILURES.inc()
        self._limit = Limit(max(1, self._limit.rows // 2), max(1, self._limit.bytes // 2))
        await self._discard()

    async def _discard(self) -> None:
        """Drop both connections and the rows read ahead. The next turn connects again."""
        self._ahead = ({}, [])
        for conn in (self._conn, self._leasing):
            if conn is not None:
                conn.terminate()
        self._conn = self._leasing = None
        await self._sender.close()

    def _on_notify(self, _conn: object, pid: int, _channel: str, _payload: object) -> None:
        if self._conn is not None and pid != self._conn.get_server_pid():
            self._woken.set()


def _age(row: Row) -> float:
    written = datetime.fromisoformat(events.time_of(row["head"]))
    return max(0.0, (datetime.now(UTC) - written).total_seconds())
