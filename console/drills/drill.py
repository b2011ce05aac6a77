"""One drill: place orders, send the signal, and measure when it is noticed, when it is over, and what orders became.

What must stay true: a frozen program is woken, also if the drill fails or is cancelled. Every wait has a limit.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from console.drills import records
from console.drills.customer import TROUBLE, Customer
from console.drills.records import Result
from shared.errors import ServiceError
from shared.process.supervisord import Supervisord


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the parts of a drill take, in seconds, and how many orders come before the signal."""

    orders_before: int = 2
    orders_after: int = 5
    """So many orders are placed after everything works again."""
    every: float = 1.0
    frozen: float = 10.0
    look_every: float = 0.1
    look_limit: float = 1.0
    most: float = 60.0
    """How long the recovery is watched."""
    deadline: float = 90.0
    """When an accepted order counts as lost. Orders end after 60 s, also if payments does not answer."""
    check: float = 30.0
    """How long the last check, for doubled orders, may take."""


class Drill:
    """Runs one drill and keeps `result` current. `targets` are the addresses of the services by name."""

    def __init__(
        self,
        result: Result,
        supervisord: Supervisord,
        targets: Mapping[str, str],
        http: aiohttp.ClientSession,
        pace: Pace,
    ) -> None:
        self._result, self._supervisord, self._targets = result, supervisord, dict(targets)
        self._http, self._pace = http, pace
        name = f"drill-{result.at:.0f}-{result.id}"  # the keys of orders outlive the console's own file
        self.customer = Customer(http, targets["orders"], name, pace.every, pace.deadline)
        self._struck: float | None = None
        self._pid = 0
        self._woken = False
        self.left_frozen = False
        """True if the program may still be frozen after the drill, because supervisord did not answer."""

    @property
    def result(self) -> Result:
        """The result so far."""
        found = self._result
        found.orders = records.rows(self.customer.orders, self._struck)
        found.slowest = self.customer.slowest or None
        if self._struck is not None:
            confirmed = self.customer.confirmed_after(self._struck)
            found.confirmed = None if confirmed is None else confirmed - self._struck
        return found

    async def run(self) -> None:
        """Raises `ServiceError` if supervisord refuses, or does not answer."""
        enough = asyncio.Event()
        shopping = asyncio.create_task(self.customer.run(enough), name="customer of a drill")
        try:
            await asyncio.sleep((self._pace.orders_before - 0.5) * self._pace.every)
            await self._strike()
            await self._watch()
            self._result.phase = "placing the last orders"
            await asyncio.sleep(self._pace.orders_after * self._pace.every)
            enough.set()
            self._result.phase = "waiting for the last orders to end"
            await shopping
            self._result.phase = "looking for doubled orders"
            self._result.doubled = await self._doubled()
        finally:
            shopping.cancel()
            if self._result.kind == "freeze" and self._struck is not None:
                self.left_frozen = not await self._supervisord.wake(self._result.program)
            await asyncio.wait([shopping], timeout=1.0)

    async def _strike(self) -> None:
        """Send the signal."""
        result = self._result
        self._pid = (await self._supervisord.program(result.program)).pid
        self._struck, result.struck_at = time.monotonic(), time.time()
        await self._supervisord.signal(result.program, "KILL" if result.kind == "kill" else "STOP")

    async def _watch(self) -> None:
        """Look until the program is ready again and an order is CONFIRMED, or until it takes too long."""
        result, until = self._result, time.monotonic() + self._pace.most
        if result.kind == "kill":
            result.phase = "killed; waiting until everything works again"
            await self._look_until(until)
            return
        result.phase = f"frozen for {self._pace.frozen:g} s"
        waking = asyncio.create_task(self._wake(), name="waking a frozen program")
        try:
            await self._look_until(until)
        finally:
            waking.cancel()

    async def _wake(self) -> None:
        await asyncio.sleep(self._pace.frozen)
        while not await self._supervisord.wake(self._result.program):  # noqa: ASYNC110  # supervisord may come back
            await asyncio.sleep(self._pace.every)
        self._woken = True
        self._result.phase = "woken; waiting until everything works again"

    async def _look_until(self, until: float) -> None:
        while time.monotonic() < until:
            await self._look()
            if self._result.ready is not None and self.result.confirmed is not None:
                return
            await asyncio.sleep(self._pace.look_every)

    async def _look(self) -> None:
        """Look once, at supervisord and at the services, and note what is seen for the first time."""
        woken = self._woken
        looks = (self._is_up(), *(self._answers(name) for name in self._watched()))
        up, *answers = await asyncio.gather(*looks)
        result = self._result
        if result.ready is None and up and all(answers) and (result.kind == "kill" or woken):
            result.ready = self._since()
            result.ready_by = "supervisord: RUNNING" + "".join(f", {name}: readyz" for name in self._watched())

    async def _is_up(self) -> bool:
        """True if the program runs, after a kill as a new process."""
        try:
            found = await self._supervisord.program(self._result.program)
        except ServiceError:
            return False
        same = found.pid == self._pid
        if not found.is_up or not same:
            self._notice(f"supervisord: {found.state}" if not found.is_up else "supervisord: another process")
        if self._result.kind == "freeze":
            return found.is_up
        # A server that is not asked itself is up when it has run for a second.
        return found.is_up and not same and (found.name in self._targets or found.state == "RUNNING")

    async def _answers(self, name: str) -> bool:
        try:
            timeout = aiohttp.ClientTimeout(total=self._pace.look_limit)
            async with self._http.get(f"{self._targets[name]}/readyz", timeout=timeout) as answer:
                good = answer.status == 200
        except TROUBLE:
            good = False
        if not good:
            self._notice(f"{name}: readyz")
        return good

    def _watched(self) -> list[str]:
        """The services whose `readyz` is asked: the program itself, or all, because all need Postgres and Kafka."""
        own = self._result.name
        return [own] if own in self._targets else sorted(self._targets)

    def _notice(self, by: str) -> None:
        if self._result.noticed is None:
            self._result.noticed, self._result.noticed_by = self._since(), by

    def _since(self) -> float:
        return time.monotonic() - (self._struck or 0.0)

    async def _doubled(self) -> int | None:
        until = time.monotonic() + self._pace.check
        while time.monotonic() < until:
            try:
                return await self.customer.count_doubled()
            except TROUBLE:
                await asyncio.sleep(min(0.5, self._pace.every))
        return None
