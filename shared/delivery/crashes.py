"""Crashes: an event that ends its process (it fills the memory, or hangs the loop) is found and parked.

What must stay true: only a death during the handler of an event that was handled alone counts against the event. A kill
at any other moment parks nothing. A partition whose last two owners died without progress is handled with care: one
event at a time, and each is named in the table `consumer_starts` before its handler starts.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from uuid import UUID, uuid4

import structlog

from .. import postgres
from ..postgres import Pool
from .events import Received, Record

log = structlog.get_logger()

MAX_CRASHES = 3
CAREFUL_AFTER = 2
CAREFUL_EVENTS = 1000
"""After so many events a partition is handled in batches again. A batch of a dead process was smaller."""

Source = tuple[str, int]
"""A topic and a partition."""

# A row with an owner belongs to a process that runs, or that died. Without progress since its start, it counts.
_START = """
insert into consumer_starts as s (consumer, topic, partition, owner, first_offset, crashes)
select $1, topic, partition, $2, first_offset, 0
  from unnest($3::text[], $4::int[], $5::bigint[]) r(topic, partition, first_offset)
on conflict (consumer, topic, partition) do update
   set owner = excluded.owner, first_offset = excluded.first_offset,
       crashes = case when s.owner = '' then s.crashes when s.first_offset = excluded.first_offset then s.crashes + 1
                      else 1 end
returning topic, partition, crashes, suspect, suspicions
"""
_MARK = """
update consumer_starts set suspect = $4, suspicions = $5 where consumer = $1 and topic = $2 and partition = $3
"""
_CALM = """
update consumer_starts set suspect = null, suspicions = 0, crashes = 0
 where consumer = $1 and topic = $2 and partition = $3
"""
_RELEASE = """
update consumer_starts set owner = '' where consumer = $1 and owner = $2
   and (topic, partition) in (select * from unnest($3::text[], $4::int[]))
"""


class Crashes:
    """The partitions that one consumer process has started to handle, and how often processes died there."""

    def __init__(self, pool: Pool, consumer: str) -> None:
        self._pool, self._consumer, self._owner = pool, consumer, uuid4().hex
        self._started: set[Source] = set()
        self._careful: dict[Source, int] = {}
        self._deaths: Counter[UUID] = Counter()

    @property
    def any_careful(self) -> bool:
        """True if any partition is handled with care."""
        return bool(self._careful)

    def is_careful(self, record: Record) -> bool:
        """True if the events of the record's partition are handled one at a time."""
        return bool(self._careful) and record[:2] in self._careful

    def of(self, one: Received) -> int:
        """How many processes died while they handled this event alone."""
        return self._deaths[one.event_id]

    async def start(self, records: Iterable[Record]) -> None:
        """Note the partitions of these records, when they are the first of their partition. Raises `ERRORS`."""
        new: dict[Source, int] = {}
        started = self._started
        for record in records:
            if (source := record[:2]) not in started:
                new.setdefault(source, record.offset)
        if not new:
            return
        columns = ([t for t, _ in new], [p for _, p in new], list(new.values()))
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            rows = await conn.fetch(_START, self._consumer, self._owner, *columns)
        for row in rows:
            if row["suspect"] is not None:
                self._deaths[row["suspect"]] = row["suspicions"]
            if row["crashes"] >= CAREFUL_AFTER:
                self._careful[row["topic"], row["partition"]] = CAREFUL_EVENTS
                log.error(
                    "processes died here without progress: events are handled one at a time",
                    topic=row["topic"],
                    partition=row["partition"],
                    deaths=row["crashes"],
                )
        self._started |= new.keys()

    async def mark(self, one: Received) -> None:
        """Note that the handler of this event starts, alone. If the process dies now, it counts."""
        await self._execute(_MARK, one.record, one.event_id, self._deaths[one.event_id] + 1)

    async def clear(self, one: Received) -> None:
        """Note that the handler has ended, and this process lives."""
        with suppress(*postgres.ERRORS):  # the next mark replaces this one
            await self._execute(_MARK, one.record, None, 0)

    async def count(self, one: Received) -> None:
        """Count an event that was handled with care. After enough of them its partition is handled as usual."""
        source = one.record[:2]
        self._careful[source] -= 1
        if not self._careful[source]:
            await self._execute(_CALM, one.record)
            del self._careful[source]

    async def release(self, owned: Collection[Source]) -> None:
        """Note that this process left all partitions but the `owned` ones, and lives."""
        lost = self._started.difference(owned)
        if lost:
            with suppress(*postgres.ERRORS):  # then the next owner is more careful than necessary
                async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                    await conn.execute(
                        _RELEASE, self._consumer, self._owner, [t for t, _ in lost], [p for _, p in lost]
                    )
            self._started -= lost
            for source in lost:
                self._careful.pop(source, None)

    async def _execute(self, sql: str, record: Record, *arguments: object) -> None:
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            await conn.execute(sql, self._consumer, record.topic, record.partition, *arguments)
