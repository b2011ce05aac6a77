"""Figures for metrics that only the database knows: what waits in the outbox, and what is parked."""

import asyncio
from itertools import count
from random import uniform

from .. import metrics, postgres
from ..postgres import Pool
from ..process.loop import Beat, repeat
from . import inspection

_EVERY_SECONDS = 3.0
"""An operator learns of a parked event within 15 s: this, then a scrape, then the evaluation of the rules."""
_TURNS_OF_OUTBOX = 4
"""The outbox is read only every so many turns: a long one takes a second."""


async def run_once(pool: Pool, consumer: str, *, with_outbox: bool = True) -> None:
    """Read the figures once. Raises one of `postgres.ERRORS`."""
    async with pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
        lanes = await inspection.lanes(conn) if with_outbox else None
        parked = await inspection.open_parked(conn, consumer)
    if lanes is not None:
        metrics.OUTBOX_UNPUBLISHED_ROWS.set(sum(lane["rows"] for lane in lanes))
        metrics.OUTBOX_UNPUBLISHED_BYTES.set(sum(lane["bytes"] for lane in lanes))
    metrics.PARKED.set(parked["events"])
    metrics.PARKED_KEYS.set(parked["keys"])
    metrics.set_age(metrics.PARKED_OLDEST, parked["oldest"])


async def run(pool: Pool, consumer: str, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
    """Read the figures every few seconds until `stop` is set. If Postgres does not answer, they do not change."""
    turns = count()

    async def turn() -> float:
        await run_once(pool, consumer, with_outbox=next(turns) % _TURNS_OF_OUTBOX == 0)
        return _EVERY_SECONDS * uniform(0.8, 1.2)

    await repeat("reading of figures", turn, stop, beat, trouble=postgres.ERRORS)
