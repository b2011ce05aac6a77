"""The relay publishes what the outbox holds, in the order of each key, until Kafka has it.

What must stay true: the cursor moves only after every row of the turn is acknowledged, so a crash anywhere repeats
rows and skips none. Any number of relays may run. The pattern is the polling publisher (Richardson, 2018).
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from random import uniform
from uuid import uuid4

import structlog

from shared import db, events, kafka, metrics
from shared.db import Plain
from shared.events import Headers
from shared.kafka import Message, Partition, Publisher
from shared.lanes import Lanes, RestoredElsewhere, Row, held_back_by

log = structlog.get_logger()

ROWS_PER_LANE = 2000
SEND_SECONDS = 10.0
_IDLE_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.05, 0.1, 0.2, 0.5)
_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_WATCH_EVERY_SECONDS = 10.0

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

    `wake` says that rows may be waiting; it may be called at any time, from the loop's thread, and is only a hint.
    """

    def __init__(
        self,
        database_url: str,
        bootstrap_servers: str,
        *,
        service: str,
        owner: str,
        pace_seconds: float = 0.005,
        lease_seconds: float = 3.0,
    ) -> None:
        self._database_url, self._bootstrap_servers, self._service = database_url, bootstrap_servers, service
        self._pace = pace_seconds
        self.lanes = Lanes(f"{owner}/{uuid4().hex[:8]}", lease_seconds)
        self._conn: Plain | None = None
        self._publisher: Publisher | None = None
        self._statics: dict[str, Headers] = {}
        self._stopped: set[tuple[str, str]] = set()
        self._careful: set[Partition] = set()
        self._woken = asyncio.Event()
        self._told = True
        self._renew_at = self._watch_at = 0.0

    def wake(self) -> None:
        """Say that this process has committed new rows."""
        self._told = False
        self._woken.set()

    async def run(self, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Publish until `stop`; trouble with Postgres or Kafka is waited out, for ever, with back-off and jitter."""
        idle = failures = 0
        while not stop.is_set():
            started = time.monotonic()
            self._woken.clear()
            try:
                published = await self.run_once()
            except TROUBLE as error:
                log.warning("relay turn failed, trying again", error=repr(error), failures=failures + 1)
                metrics.RELAY_FAILURES.inc()
                await self._discard()
                await _pause(stop, _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)] * uniform(0.5, 1.5))
                failures += 1
                continue
            finally:
                beat()
            failures, idle = 0, 0 if published else idle + 1
            if not published and await self._wait(_IDLE_SECONDS[min(idle, len(_IDLE_SECONDS)) - 1]):
                idle = 0
            await asyncio.sleep(max(0.0, started + self._pace - time.monotonic()))

    async def run_once(self) -> int:
        """Take one turn: leases if due, read, publish, move the cursors. Returns how many rows were published.

        Raises one of `TROUBLE`; then nothing has moved, and the next turn repeats what this one tried.
        """
        conn = await self._connection()
        await self._keep_lanes(conn)
        if not self.lanes.held:
            return 0
        rows = await self.lanes.read(conn, ROWS_PER_LANE)
        if rows:
            metrics.OUTBOX_OLDEST.set(_age(rows[0]))
            await self._publish(conn, rows)
            await self.lanes.advance(conn, rows)
            metrics.OUTBOX_PUBLISHED.inc(len(rows))
        if len(rows) < ROWS_PER_LANE:
            metrics.OUTBOX_OLDEST.set(0)
        metrics.RELAY_SUCCESS.set_to_current_time()
        return len(rows)

    async def close(self) -> None:
        """Give the lanes back, so that others take them at once, and let go of both connections."""
        with contextlib.suppress(*db.ERRORS):
            if self._conn is not None and not self._conn.is_closed():
                await self.lanes.give_back(self._conn)
        await self._discard()

    async def _connection(self) -> Plain:
        if self._conn is None or self._conn.is_closed():
            self._conn = await db.connect(
                self._database_url, application_name=f"{self._service} relay {self.lanes.owner}", **_SETTINGS
            )
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
                self._stopped = {(r["topic"], r["key"]) for r in await conn.fetch(_STOPPED)}
        if now >= self._watch_at:
            self._watch_at = now + _WATCH_EVERY_SECONDS
            await self._watch(conn)
        if not self._told and len(self.lanes.held) < self.lanes.total:
            await conn.execute(
                "select pg_notify($1, '')", self._channel
            )  # other relays publish some of what was written
        self._told = True

    async def _watch(self, conn: Plain) -> None:
        """A write transaction that stays open holds every relay of the cluster back; say whose it is."""
        oldest = await held_back_by(conn)
        seconds = (oldest and oldest["seconds"]) or 0.0
        metrics.OUTBOX_HELD_BACK.set(seconds)
        if oldest and seconds > 5:
            log.warning("an open write transaction holds the outbox back", **dict(oldest))

    async def _publish(self, conn: Plain, rows: list[Row]) -> None:
        publisher = await self._producer()
        batches = await self._batches(publisher, rows)
        careful = {partition: batches.pop(partition) for partition in self._careful & batches.keys()}
        try:
            await publisher.send({p: [m for _, m in batch] for p, batch in batches.items()}, SEND_SECONDS)
            for partition, batch in careful.items():
                await self._publish_singly(conn, partition, batch)
        except kafka.Rejected as error:
            self._careful.add(error.partition)  # the next turn finds out which of its rows it was
            raise kafka.Unavailable(str(error)) from error
        self._careful.clear()

    async def _batches(self, publisher: Publisher, rows: list[Row]) -> dict[Partition, list[tuple[Row, Message]]]:
        counts = {topic: await publisher.partitions_of(topic) for topic in {row[0] for row in rows}}
        batches: dict[Partition, list[tuple[Row, Message]]] = defaultdict(list)
        statics, stopped = self._statics, self._stopped
        for row in rows:
            topic, hash_, key, value, type_, head, *_ = row
            if stopped and (topic, key) in stopped:
                continue
            static = statics.get(type_) or self._static(type_)
            raw = key.encode()
            batches[topic, hash_ % counts[topic]].append((row, Message(raw, value, events.headers(static, raw, head))))
        return batches

    def _static(self, type_: str) -> Headers:
        return self._statics.setdefault(type_, events.static_headers(type_, f"/quickbite/{self._service}"))

    async def _publish_singly(self, conn: Plain, partition: Partition, batch: list[tuple[Row, Message]]) -> None:
        for row, message in batch:
            if (row["topic"], row["key"]) in self._stopped:
                continue
            try:
                publisher = await self._producer()
                await publisher.send({partition: [message]}, SEND_SECONDS)
            except kafka.Rejected as error:
                await self._refuse(conn, row, error.reason)
                await self._drop_producer()

    async def _refuse(self, conn: Plain, row: Row, reason: str) -> None:
        where = [row[name] for name in ("lane", "xid", "id", "topic", "key")]
        await conn.execute(_REFUSE, *where, reason)
        self._stopped.add((row["topic"], row["key"]))
        metrics.OUTBOX_REFUSED.inc()
        log.error("Kafka refused an outbox row for good; its key is stopped", topic=row["topic"], key=row["key"])

    async def _producer(self) -> Publisher:
        if self._publisher is None:
            made = Publisher(self._bootstrap_servers)
            try:
                await made.start()
            except BaseException:
                await made.close()
                raise
            self._publisher = made
        return self._publisher

    async def _drop_producer(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()

    async def _discard(self) -> None:
        """Let go of whatever may be broken; the next turn connects anew."""
        await self._drop_producer()
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.terminate()

    @property
    def _channel(self) -> str:
        return f"{self._service}_outbox"

    def _on_notify(self, _conn: object, pid: int, _channel: str, _payload: object) -> None:
        if self._conn is not None and pid != self._conn.get_server_pid():
            self._woken.set()

    async def _wait(self, seconds: float) -> bool:
        """Wait for a hint, at most so long; says whether one came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        return self._woken.is_set()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def _age(row: Row) -> float:
    written = datetime.fromisoformat(events.time_of(row["head"]))
    return max(0.0, (datetime.now(UTC) - written).total_seconds())
