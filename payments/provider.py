"""A simulated payment provider, with its own ledger in its own schema, and with the faults of a real provider.

What must stay true: the first movement of a key is a capture, a decline or a void. A second movement can only be the
refund of a capture. Movements are never changed, so that tests can compare the ledger with `payments`.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import uuid4

from payments.domain import Answer, Captured, Declined, GivenBack, NoAnswer
from shared.errors import Unavailable
from shared.postgres import GroupCommit, Plain
from shared.process.flags import Flags


class Kind(StrEnum):
    """What a movement of the ledger is."""

    CAPTURE = "capture"
    DECLINE = "decline"
    VOID = "void"
    REFUND = "refund"


DECLINE, SLOW, LOSE_ANSWERS = "provider_declines", "provider_is_slow", "provider_loses_answers"
FLAGS = {
    DECLINE: "the provider declines every charge",
    SLOW: "the provider takes delay_seconds longer",
    LOSE_ANSWERS: "the provider does its work, but no answer arrives",
}
"""Failure flags of the simulated provider."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults of the provider, as ratios of calls. Answers are lost only after the movement was recorded."""

    decline_ratio: float = 0.0
    slow_seconds: float = 0.0
    timeout_ratio: float = 0.0
    error_ratio: float = 0.0
    double_ratio: float = 0.0
    """Requests that arrive twice at the same time."""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """A requested movement. If `kind` is None, nothing is written: the ledger is only read."""

    key: str
    kind: Kind | None
    amount_cents: int = 0
    currency: str = ""
    ref: str = ""


# The guard of "one capture per key": a key keeps its first movement. If another transaction inserts the same key, the
# statement waits for it. The rows must be sorted; otherwise two batches could deadlock on the primary key.
_FIRST = """
insert into movements (key, n, kind, amount_cents, currency, ref)
select key, 1, kind, amount_cents, currency, ref
  from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[]) r(key, kind, amount_cents, currency, ref)
on conflict do nothing returning key
"""

# Refunds the whole capture, once.
_GIVE_BACK = """
insert into movements (key, n, kind, amount_cents, currency, ref)
select key, 2, 'refund', amount_cents, currency, ref from movements
 where key = any($1::text[]) and n = 1 and kind = 'capture' order by key
on conflict do nothing
"""

_READ = "select key, kind, amount_cents, currency, ref from movements where key = any($1::text[]) order by key, n"


class SimulatedProvider:
    """Answers `charge`, `get`, `void` and `refund` from its ledger, which it writes by group commit."""

    def __init__(self, database_url: str, *, limit_cents: int = 50_000, faults: Faults | None = None) -> None:
        self._limit, self._faults = limit_cents, faults or Faults()
        self.flags = Flags()
        self._random = random.Random(self._faults.seed)
        self._ledger = GroupCommit[Move, Answer | None](database_url, _write, name="provider")

    async def charge(self, key: str, amount_cents: int, currency: str) -> Answer:
        """Take the money, unless the key has an outcome already. Amounts above the limit are declined."""
        declined = amount_cents > self._limit or self._happens(self._faults.decline_ratio) or self.flags.find(DECLINE)
        kind = Kind.DECLINE if declined else Kind.CAPTURE
        return await self._move(Move(key, kind, amount_cents, currency, f"ch_{uuid4().hex}"))

    async def get(self, key: str) -> Answer | None:
        """The outcome of the key, or None if the ledger does not have it."""
        return await self._submit(Move(key, None))

    async def void(self, key: str) -> Answer:
        """Make later charges of the key fail, and refund a charge already made."""
        return await self._move(Move(key, Kind.VOID))

    async def refund(self, key: str) -> Answer:
        """Refund the capture of the key."""
        return await self._move(Move(key, Kind.REFUND))

    async def run(self, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Write the ledger until `stop` is set. Calls are answered only while this runs."""
        await self._ledger.run(stop, beat)

    async def _move(self, move: Move) -> Answer:
        faults = self._faults
        slow = self.flags.find(SLOW)
        if seconds := max(faults.slow_seconds, slow.seconds if slow else 0.0):
            await asyncio.sleep(seconds)
        if self._happens(faults.double_ratio):
            answer, _ = await asyncio.gather(self._submit(move), self._submit(move))
        else:
            answer = await self._submit(move)
        if self._happens(faults.timeout_ratio) or self.flags.find(LOSE_ANSWERS):
            await asyncio.Event().wait()
        if answer is None or self._happens(faults.error_ratio):
            raise NoAnswer("500 Internal Server Error")
        return answer

    async def _submit(self, move: Move) -> Answer | None:
        try:
            return await self._ledger.submit(move)
        except Unavailable as error:
            raise NoAnswer("503 Service Unavailable") from error

    def _happens(self, ratio: float) -> bool:
        return ratio > 0 and self._random.random() < ratio


async def _write(conn: Plain, moves: Sequence[Move]) -> list[Answer | None]:
    """Write movements and answer each from the ledger. Safe to repeat."""
    firsts = {m.key: m for m in reversed(moves) if m.kind not in {None, Kind.REFUND}}
    answers: dict[str, Answer] = {}
    if firsts:
        rows = [(m.key, m.kind, m.amount_cents, m.currency, m.ref) for _, m in sorted(firsts.items())]
        for row in await conn.fetch(_FIRST, *zip(*rows, strict=True)):
            move = firsts[row["key"]]
            answers[move.key] = _answer(move.kind, move.amount_cents, move.currency, move.ref)
    undone = {m.key for m in moves if m.kind in {Kind.VOID, Kind.REFUND}}
    if undone:
        await conn.execute(_GIVE_BACK, list(undone))
    known = {m.key for m in moves} - answers.keys() | undone
    if known:
        for row in await conn.fetch(_READ, list(known)):
            answers[row["key"]] = _answer(Kind(row["kind"]), row["amount_cents"], row["currency"], row["ref"])
    return [answers.get(m.key) for m in moves]


def _answer(kind: Kind | None, amount_cents: int, currency: str, ref: str) -> Answer:
    """The answer that follows from the last movement of a key."""
    match kind:
        case Kind.CAPTURE:
            return Captured(ref, amount_cents, currency)
        case Kind.DECLINE:
            return Declined()
        case Kind.REFUND:
            return GivenBack(ref)
        case Kind.VOID | None:
            return GivenBack(None)
