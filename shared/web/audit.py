"""The audit trail: security decisions and acts of administrators. Who did what, to whom, from where, and the outcome.

What must stay true: an act has no secret in it, and nobody changes a row that is written. Every act is a log line at
once. Its row follows within a second, also if a thousand come at the same time. If Postgres does not answer, a bounded
number of acts waits, and those beyond it are counted and have only their line.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

import structlog
from aiohttp import web

from .. import metrics, postgres
from ..postgres import Connection, Pool
from ..process.loop import Beat, repeat

log = structlog.get_logger("audit")

_ADD = """
insert into audit (at, who, what, whom, address, outcome, request_id)
select * from unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
"""
_MAX_WAITING, _MAX_BATCH, _MAX_LENGTH = 5_000, 500, 200
_IDLE_SECONDS, _PACE_SECONDS = 5.0, 0.2


class Act(NamedTuple):
    """One row. `who` is a user id, or empty if nobody has proved who they are. Texts are cut to 200 characters."""

    at: datetime
    who: str
    what: str
    whom: str
    address: str
    outcome: str
    request_id: str


def act_of(what: str, outcome: str, *, who: str = "", whom: str = "", address: str = "", id_: str = "") -> Act:
    """An act of this moment."""
    texts = [text.replace("\x00", "")[:_MAX_LENGTH] for text in (who, what, whom, address, outcome, id_)]
    return Act(datetime.now(UTC), *texts)


async def add(conn: Connection, acts: Sequence[Act]) -> None:
    """Store acts in the caller's transaction."""
    await conn.execute(_ADD, *zip(*acts, strict=True))


class Trail:
    """Stores acts in the service's own table, while `run` runs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: deque[Act] = deque()
        self._woken = asyncio.Event()

    def note(self, what: str, outcome: str, *, who: str = "", whom: str = "", address: str = "", id_: str = "") -> None:
        """Log an act, and store it soon."""
        act = act_of(what, outcome, who=who, whom=whom, address=address, id_=id_)
        log.info("audit", **{name: value for name, value in act._asdict().items() if name not in {"at", "request_id"}})
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append(act)
            self._woken.set()
        else:
            metrics.AUDIT_DROPPED.inc()

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Store what waits until `stop` is set, then the rest once."""
        await repeat("storing of the audit trail", self._turn, stop, beat, trouble=postgres.ERRORS, woken=self._woken)
        with suppress(*postgres.ERRORS):
            await self.store()

    async def _turn(self) -> float:
        self._woken.clear()
        await self.store()
        await asyncio.sleep(_PACE_SECONDS)
        return _IDLE_SECONDS

    async def store(self) -> None:
        """Store what waits. Raises one of `postgres.ERRORS`."""
        while batch := list(islice(self._waiting, _MAX_BATCH)):
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                await add(conn, batch)
            for _ in batch:
                self._waiting.popleft()


TRAIL = web.AppKey("TRAIL", Trail)


async def last(conn: Connection, before_id: int, limit: int) -> list[dict[str, Any]]:
    """The newest acts with ids below `before_id`, newest first."""
    rows = await conn.fetch("select * from audit where id < $1 order by id desc limit $2", before_id, limit)
    return [dict(row) for row in rows]
