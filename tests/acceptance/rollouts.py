"""`make rollouts`: rolling updates under load, with the signals and times of a cluster.

Two processes of each service run at one port, as two pods stand behind one Service. A rollout replaces both processes
of one service: a new one starts and becomes ready, the oldest is left alone for `pre_stop` seconds, then it gets
SIGTERM and must end with 0 within its grace period. What must stay true: every request of every client is answered as
without a rollout. So the clients repeat nothing.
"""

import asyncio
import logging
import os
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from pathlib import Path

import asyncpg

from local.stack import HOME, Ports, Stack
from tests.acceptance.checker import PUBLISHERS
from tests.acceptance.client import History, Load, steadily, unexpected
from tests.acceptance.conftest import DURABLE, Instance, System, auth_mint, programs
from tests.acceptance.people import ADMIN_PASSWORD
from tests.acceptance.visitors import WORK
from tests.lag import measured

REPLICAS = 2
PRE_STOP_SECONDS = 5.0
ORDERS_PER_SECOND, OTHERS_PER_SECOND = 20, 4
ANSWERS = (200, 201, 202, 204, 409)
"""409 is for the cancellation of an order that has just become final."""

# Every table gets a column, and loses it at the end, as in "expand, migrate, contract". Running code must not notice.
_TABLES = """
select format('%I.%I', nspname, relname) from pg_class join pg_namespace n on n.oid = relnamespace
 where nspname = $1 and relkind in ('r', 'p') and not relispartition
"""
EXPAND = "alter table {} add column if not exists added_by_a_rollout text default 'old'"
CONTRACT = "alter table {} drop column if exists added_by_a_rollout"
_TRIES = 20


@dataclass
class Fleet:
    """The processes of each service, the oldest first."""

    system: System
    pre_stop: float
    running: dict[str, list[tuple[Instance, AsyncExitStack]]] = field(default_factory=dict)
    stops: list[float] = field(default_factory=list)
    _numbers: Iterable[int] = field(default_factory=count)

    async def start(self, service: str) -> None:
        """Start one more process, and wait until it is ready."""
        name = f"{service}-{next(iter(self._numbers)) + 1}"
        life = AsyncExitStack()
        port = self.system.stack.ports.services[service]
        # Pods of a Deployment have no name of their own that stays, so they are no static members of a group.
        made = await life.enter_async_context(self.system.instance(service, name, port=port, INSTANCE_ID=""))
        self.running.setdefault(service, []).append((made, life))

    async def stop_oldest(self, service: str) -> None:
        """Stop the oldest process. Raises `AssertionError` if it does not end in time and with 0."""
        made, life = self.running[service].pop(0)
        started = time.monotonic()
        assert await asyncio.to_thread(made.stop) == 0, made.name
        self.stops.append(time.monotonic() - started)
        await life.aclose()

    async def roll(self, service: str) -> None:
        """Replace each process of a service, one after the other."""
        for _ in range(len(self.running[service])):
            await self.start(service)
            await asyncio.sleep(self.pre_stop)
            await self.stop_oldest(service)


@asynccontextmanager
async def fleet(system: System, services: Sequence[str], pre_stop: float) -> AsyncIterator[Fleet]:
    """Replace the supervised process of each service by two others, until the end of the block."""
    made = Fleet(system, pre_stop)
    try:
        await asyncio.gather(*(made.start(service) for service in services for _ in range(REPLICAS)))
        for service in services:
            assert await system.stop(service) == 0
        yield made
    finally:
        for service in services:
            if not system.stack.supervisor.is_up(service):
                await system.start(service)
        await asyncio.gather(*(made.stop_oldest(service) for service, some in made.running.items() for _ in some))


async def change(system: System, statement: str, services: Iterable[str] = PUBLISHERS) -> None:
    """Change every table while the services run, as a migration does: each statement waits 3 s at most for its lock."""
    conn = await asyncpg.connect(system.database_url)
    try:
        for service in services:
            await conn.execute(f"set role {service}_owner; set lock_timeout = '3s'")
            for [table] in await conn.fetch(_TABLES, service):
                await _patiently(conn, statement.format(table))
            await conn.execute("reset role")
    finally:
        await conn.close()


async def _patiently(conn: asyncpg.Connection, statement: str) -> None:
    """A migration that gets no lock gives up and blocks nobody. The Job of a cluster repeats it."""
    for _ in range(_TRIES):
        try:
            await conn.execute(statement)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(0.2)
        else:
            return
    raise TimeoutError(f"no lock: {statement}")


@asynccontextmanager
async def load(system: System, services: Iterable[str]) -> AsyncIterator[History]:
    """Customers and visitors who use the gateway all the time, and repeat nothing. Yields their requests."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(system.customers(system.gateway_url))
        actions = [await WORK[service](client) for service in services if service in WORK]
        prepared = len(client.history)
        await stack.enter_async_context(Load(client, ORDERS_PER_SECOND, give_up=1.0))
        for some in actions:
            await stack.enter_async_context(steadily(OTHERS_PER_SECOND, *some))
        history: History = []
        yield history
        await stack.aclose()
        history += client.history[prepared:]


async def rehearse(
    system: System,
    rollouts: int,
    services: Sequence[str] = PUBLISHERS,
    *,
    pre_stop: float = PRE_STOP_SECONDS,
    done: Callable[[str, float], None] = lambda *_: None,
) -> History:
    """Make rollouts of the services in turn, under load. All tables change before the middle one, and at the end.

    Returns every request with its end. `done` gets the name of each service, and the seconds of its rollout.
    """
    async with fleet(system, services, pre_stop) as processes:
        async with load(system, services) as history:
            for n, service in enumerate(islice(cycle(services), rollouts)):
                started = time.monotonic()
                if n == rollouts // 2:
                    await change(system, EXPAND)
                await processes.roll(service)
                done(service, time.monotonic() - started)
            await change(system, CONTRACT)
        system.measured["stop one process"] = processes.stops
    await system.settled()
    return history


def report(system: System, history: History) -> list[str]:
    """How the requests ended, a line for each kind of end. The last line is about those that were lost."""
    ends = Counter(str(call.status or call.error) for call in history)
    lines = [f"{number:7} requests ended with {end}" for end, number in sorted(ends.items())]
    lost = unexpected(history, *ANSWERS, lag=system.lag)
    odd = unexpected(history, *ANSWERS)
    stops = system.measured["stop one process"]
    return [
        *lines,
        *(f"        {call.kind}: {call.status} {call.seconds:.1f} s {call.answer} {call.error}" for call in odd[:20]),
        f"{len(stops):7} processes stopped, after {min(stops):.1f} to {max(stops):.1f} s",
        f"{len(odd) - len(lost):7} requests refused while this machine had no core for them",
        f"{len(lost):7} requests lost, of {len(history)}",
    ]


async def _main(stack: Stack, rollouts: int, pre_stop: float) -> int:
    with measured(lambda: [*programs(stack)(), *_own_children()]) as lag:
        system = System(stack, lag=lag)
        system.mint = await auth_mint(system.database_url)

        def say(service: str, seconds: float) -> None:
            print(f"{service}: {seconds:.1f} s", flush=True)  # noqa: T201

        history = await rehearse(system, rollouts, pre_stop=pre_stop, done=say)
        print("\n".join(report(system, history)))  # noqa: T201
        return len(unexpected(history, *ANSWERS, lag=lag))


def _own_children() -> list[int]:
    """The processes of the fleet, which this process has started."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def main() -> None:
    """Rehearse on a stack of its own. Exits with 1 if a request was lost; otherwise the stack is deleted."""
    parser = ArgumentParser(description="Rolling updates of the services in turn, under load.")
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--pre-stop", type=float, default=PRE_STOP_SECONDS, help="seconds before SIGTERM")
    wanted = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    stack = Stack("rollouts", HOME / "rollouts", Ports.free(), postgres_settings=DURABLE, admin_password=ADMIN_PASSWORD)
    stack.reset()
    try:
        stack.up()
        lost = asyncio.run(_main(stack, wanted.rollouts, wanted.pre_stop))
    finally:
        stack.down()
    if lost:
        sys.exit(f"The logs are in {stack.root / 'logs'}.")
    stack.reset()


if __name__ == "__main__":
    main()
