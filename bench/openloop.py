"""Runs the load generator (`generator/main.go`): requests are sent on schedule, however late the answers are.

What must stay true: each request has exactly one recorded end. If the generator is late itself, the run is void.
"""

import json
import os
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_PROGRAM = Path(__file__).parent.parent / ".local" / "bench-tools" / "generator"
WAIT_SECONDS = 30
_VOID_SECONDS = 0.25
GOOD = frozenset({"POST 202", "GET 200 CONFIRMED"})


class Spread(BaseModel):
    """How some times are spread, in seconds."""

    model_config = ConfigDict(frozen=True)

    count: int
    p50: float
    p90: float
    p99: float
    worst: float


class Load(BaseModel):
    """What became of the requests of one run.

    `ends` counts how they ended: `POST 202`, `POST refused`, `POST reset`, `POST timed out`, `GET 200 CONFIRMED`.
    `answered` has the times until each POST was answered, `finished` those until each order was CONFIRMED (or, if the
    orders were not followed, accepted). Both begin when the request was due. `overdue` says by how much the answer to
    `?wait=` came later than it asked, and `lag` how late the generator was itself. `seconds` is the time from the first
    request to the last answer, and `connections` the largest number of open ones.
    """

    model_config = ConfigDict(frozen=True)

    ends: Annotated[Counter[str], Field(default_factory=Counter)]
    answered: Spread
    finished: Spread
    overdue: Spread
    lag: Spread
    seconds: float
    connections: int

    @property
    def failed(self) -> int:
        """Requests without success."""
        return sum(count for end, count in self.ends.items() if end not in GOOD)

    @property
    def is_void(self) -> bool:
        """True if the generator did not offer what was asked of it."""
        return self.lag.p99 > _VOID_SECONDS or any(end.endswith("not sent") for end in self.ends)

    @property
    def slowest(self) -> float:
        """The longest time that a client had to wait for an answer, beyond the time for which it asked to wait."""
        return max(self.answered.worst, self.overdue.worst)

    def __str__(self) -> str:
        ends = ", ".join(f"{end} {count:,}" for end, count in sorted(self.ends.items()))
        return f"{ends}; generator's lag p99 {self.lag.p99 * 1e3:.0f} ms{' (VOID)' if self.is_void else ''}"


def run(port: int, rate: float, seconds: float, *, follow: bool = False, header: str = "") -> Load:
    """Offer `rate` orders a second. With `follow`, wait for the end of each with `?wait=`."""
    return _run(port, "-rate", str(rate), "-seconds", str(seconds), follow=follow, header=header)


def closed(port: int, orders: int, clients: int, *, follow: bool = False, header: str = "") -> Load:
    """Place `orders` orders as fast as they are answered. Each client places its next one after its last."""
    return _run(port, "-orders", str(orders), "-clients", str(clients), follow=follow, header=header)


def _run(port: int, *arguments: str, follow: bool, header: str) -> Load:
    if not _PROGRAM.exists():
        raise SystemExit("the load generator is not built: use `make bench`")
    command = [str(_PROGRAM), "-address", f"127.0.0.1:{port}", *arguments]
    command += ["-follow"] * follow + ["-header", header] * bool(header)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=_go_first)
    return Load.model_validate(json.loads(done.stdout))


def _go_first() -> None:
    """Customers have machines of their own: the generator gets its CPU before what it measures, if that is allowed."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
