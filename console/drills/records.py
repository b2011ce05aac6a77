"""The result of a drill, its stored form, and the promise that the drill tests."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from console.drills.customer import Order

Kind = Literal["kill", "freeze"]

NAMES: dict[Kind, str] = {"kill": "kill -9", "freeze": "freeze"}

_KILLED = "`kill -9` of any process, 20 times under load"
_FROZEN = {"postgres": "Postgres frozen", "kafka": "Kafka stopped or frozen", "gateway": None}
_FROZEN_SERVICE = "a relay frozen beyond its lease"


def promise(program: str, kind: Kind) -> str | None:
    """The line of docs/guarantees.md that a drill tries: its first column. None: no promise is made."""
    return _KILLED if kind == "kill" else _FROZEN.get(program, _FROZEN_SERVICE)


@dataclass(slots=True)
class Result:
    """One drill. Times are in seconds since 1970, or since the signal was sent. None: it has not happened."""

    program: str
    """Its name for supervisord: `group:name`."""
    kind: Kind
    who: str
    reason: str
    at: float
    id: int = 0
    phase: str = "placing the first orders"
    struck_at: float | None = None
    noticed: float | None = None
    noticed_by: str = ""
    ready: float | None = None
    ready_by: str = ""
    confirmed: float | None = None
    """When the first order that was placed after the signal was CONFIRMED."""
    slowest: float | None = None
    """The longest time until a placement was answered."""
    doubled: int | None = None
    problem: str = ""
    ended_at: float | None = None
    orders: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.program.partition(":")[2]

    @property
    def running(self) -> bool:
        return self.ended_at is None

    @property
    def counts(self) -> dict[str, int]:
        """The orders by what became of them."""
        found = Counter(str(one["state"]) for one in self.orders)
        waiting = found["sent"] + found["PENDING"]
        return {
            "placed": len(self.orders),
            "accepted": sum(one["id"] is not None for one in self.orders),
            "CONFIRMED": found["CONFIRMED"],
            "CANCELLED": found["CANCELLED"],
            "refused": found["refused"],
            "outcome unknown": found["unknown"],
            "under way": waiting,
            "lost": found["lost"],
        }

    @property
    def verdict(self) -> Literal["kept", "broken", "unknown"]:
        """`kept` if no order was lost or doubled. `unknown` if the drill did not see enough."""
        if self.counts["lost"] or self.doubled:
            return "broken"
        whole = self.confirmed is not None and self.doubled is not None and not self.problem
        return "kept" if whole and not self.running and not self.counts["outcome unknown"] else "unknown"

    def stored(self) -> dict[str, Any]:
        return asdict(self)


def rows(orders: list[Order], struck: float | None) -> list[dict[str, Any]]:
    """The orders as they are stored, with times since the signal, or since the first order if none was sent."""
    zero = struck if struck is not None else min((one.sent for one in orders), default=0.0)
    return [
        {
            "note": one.note,
            "id": one.id,
            "state": one.state,
            "sent": one.sent - zero,
            "ended": None if one.ended is None else one.ended - zero,
            "detail": one.detail,
        }
        for one in orders
    ]
