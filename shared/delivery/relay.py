"""The relay publishes what the outbox holds, in the order of each key, until Kafka has it.

What must stay true: the cursor moves only after every row of the turn is acknowledged, so a crash anywhere repeats
rows and skips none. Any number of relays may run. The pattern is the polling publisher (Richardson, 2018).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import structlog

from shared import metrics
from shared.delivery import events, kafka, lanes
from shared.delivery.lanes import Lanes, Positions, RestoredElsewhere, Row
from shared.delivery.sender import Refusal, Sender
from shared.postgres import connections as db
from shared.postgres.connections import Plain
from shared.process.backoff import Backoff, wait

log = structlog.get_logger()

ROWS_PER_LANE = 2000
_IDLE_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_AFTER_ROWS = 3
_WATCH_EVERY_SECONDS = 10.0
_ADVANCE_EVERY_SECONDS = 0.05  # what a crash repeats at the most; a turn of few rows costs half as much without

TROUBLE = (*db.ERRORS, kafka.Unavailable, RestoredElsewhere)

# Rows are read in the index's order, with no sort: a partition that was never analysed would be sorted whole. And the
# cursor's commits need no fsync: losing one repeats rows.
_SETTINGS = {"plan_cache_mode": "force_generic_plan", "enable_sort": "off", "synchronous_commit": "off"}

# A refused row stops its key, not its lane: what follows it is set aside behind it, in order.
_REFUSE = """
insert into outbox_refused (lane, xid, id, topic, key, reason) values ($1, $2, $3, $4, $5, $6) on conflict do nothing
"""
_STOPPED = "select distinct topic, key from outbox_refused where resolved_at is null"


class Relay:
    """One relay over the outbox of one service, with a connection and a producer of its own.

    Events say that they come from `source/service` (CloudEvents' `source`); `owner` is a name for leases and logs.
    """

    def __init__(
        self,
        database_url: str,
        bootstrap_servers: str,
        *,
        service: str,
        owner: str,
        source: str = "/quickbite",
        pace_seconds: float = 0.005,
        lease_seconds: float = 3.0,
    ) -> None:
        self._database_url, self._service, self._pace = database_url, service, pace_seconds
        self.lanes = Lanes(f"{owner}/{uuid4().hex[:8]}", lease_seconds)
        self._sender = Sender(bootstrap_servers, f"{source}/{service}")
        self._conn: Plain | None = None
        self._ahead: tuple[Positions, list[Row]] = ({}, [])
        self._woken = asyncio.Event()
        self._told = True
        self._renew_at = self._watch_at = self._advance_at = 0.0

    def wake(self) -> None:
        """Say that this process has committed new rows; only a hint, and only from the loop's thread."""
        self._told = False
        self._woken.set()

    async def run(self, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Publish until `stop`; trouble with Postgres or Kafka is waited out, for ever, with back-off and jitter."""
        backoff, idle, started = Backoff(), 0, 0.0
        while not stop.is_set():
            beat()
            if (early := started + self._pace - time.monotonic()) > 0:
                await asyncio.sleep(early)
            started, hinted = time.monotonic(), self._woken.is_set()
            self._woken.clear()
            try:
                published = await self.run_once()
            except TROUBLE as error:
                log.warning("relay turn failed, trying again", error=repr(error))
                metrics.RELAY_FAILURES.inc()
                await self._discard()
                await backoff.wait(stop)
                continue
            backoff.reset()
            if published < ROWS_PER_LANE:
                # Rows that follow come with a hint. A hint without rows means that somebody's open write hides them.
                idle = _AFTER_ROWS if published else 0 if hinted else idle + 1
                pause = _ADVANCE_EVERY_SECONDS if published else _IDLE_SECONDS[min(idle, len(_IDLE_SECONDS) - 1)]
                await wait(self._woken, pause)

    async def run_once(self) -> int:
        """Take one turn: leases if due, read, publish, move the cursors. Returns how many rows were done with.

        Raises one of `TROUBLE`; then no cursor has moved, and the next turn repeats what this one tried. Cursors move
        in the database by time and when nothing is left to read, so a crash may repeat the last turns' rows.
        """
        conn = await self._connection()
        await self._keep_lanes(conn)
        rows = await self._take(conn) if self.lanes.held else []
        if rows:
            metrics.OUTBOX_OLDEST.set(_age(rows[0]))
            ends = lanes.ends_of(rows)
            await self._note_refused(conn, await self._send(conn, rows, ends))
            self.lanes.note(ends)
            metrics.OUTBOX_PUBLISHED.inc(len(rows))
        if not rows or time.monotonic() >= self._advance_at:
            self._advance_at = time.monotonic() + _ADVANCE_EVERY_SECONDS
            await self.lanes.advance(conn)
        if len(rows) < ROWS_PER_LANE:
            metrics.OUTBOX_OLDEST.set(0)
        metrics.RELAY_SUCCESS.set_to_current_time()
        return len(rows)

    async def close(self) -> None:
        """Give the lanes back, so that others take them at once, and let go of both connections."""
        with suppress(*db.ERRORS):
            if self._conn is not None and not self._conn.is_closed():
                await self.lanes.give_back(self._conn)
        await self._discard()

    async def _connection(self) -> Plain:
        if self._conn is None or self._conn.is_closed():
            name = f"{self._service} relay {self.lanes.owner}"
            self._conn = await db.connect(self._database_url, application_name=name, **_SETTINGS)
            await self._conn.add_listener(self._channel, self._on_notify)
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
                self._sender.stopped = {(r["topic"], r["key"]) for r in await conn.fetch(_STOPPED)}
        if now >= self._watch_at:
            self._watch_at = now + _WATCH_EVERY_SECONDS
            await self._watch(conn)
        if not self._told and len(self.lanes.held) < self.lanes.total:
            await conn.execute("select pg_notify($1, '')", self._channel)  # some of the rows are for other relays
        self._told = True

    async def _watch(self, conn: Plain) -> None:
        """Say whose write transaction stays open: it holds every relay of the cluster back."""
        oldest = await lanes.held_back_by(conn)
        seconds = oldest["seconds"] if oldest else 0.0
        metrics.OUTBOX_HELD_BACK.set(seconds)
        if oldest and seconds > 5:
            log.warning("an open write transaction holds the outbox back", **dict(oldest))

    async def _take(self, conn: Plain) -> list[Row]:
        """Give what follows the cursors: what the last turn read ahead, if the cursors are where it thought."""
        (positions, rows), self._ahead = self._ahead, ({}, [])
        here = self.lanes.positions
        return rows if rows and positions == here else await lanes.read(conn, here, ROWS_PER_LANE)

    async def _send(self, conn: Plain, rows: list[Row], ends: Positions) -> list[Refusal]:
        """Publish; while Kafka writes a large turn, Postgres reads what follows it."""
        if len(rows) < ROWS_PER_LANE:
            return await self._sender.send(rows)
        behind = self.lanes.positions | ends
        reading = asyncio.create_task(lanes.read(conn, behind, ROWS_PER_LANE))
        try:
            return await self._sender.send(rows)
        finally:
            self._ahead = (behind, await reading)

    async def _note_refused(self, conn: Plain, refused: Sequence[Refusal]) -> None:
        for row, reason in refused:
            where = [row[name] for name in ("lane", "xid", "id", "topic", "key")]
            await conn.execute(_REFUSE, *where, reason)
            self._sender.stopped.add((row["topic"], row["key"]))
            metrics.OUTBOX_REFUSED.inc()
            log.error("Kafka refused an outbox row for good", topic=row["topic"], key=row["key"], reason=reason)

    async def _discard(self) -> None:
        """Let go of whatever may be broken; the next turn connects anew."""
        self._ahead = ({}, [])
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.terminate()
        await self._sender.close()

    @property
    def _channel(self) -> str:
        return f"{self._service}_outbox"

    def _on_notify(self, _conn: object, pid: int, _channel: str, _payload: object) -> None:
        if self._conn is not None and pid != self._conn.get_server_pid():
            self._woken.set()


def _age(row: Row) -> float:
    written = datetime.fromisoformat(events.time_of(row["head"]))
    return max(0.0, (datetime.now(UTC) - written).total_seconds())
