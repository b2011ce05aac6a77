"""Compares the books of orders, inventory and payments: what is confirmed must be sold, and paid.

What must stay true: only orders that are over since a minute are compared, so that orders under way make no difference.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from prometheus_client import Gauge

from console.account import Account
from console.services import Services
from shared.errors import ServiceError, Unavailable
from shared.process.backoff import wait
from shared.process.logs import level_of_absence
from shared.process.loop import Beat

log = structlog.get_logger()

EVERY_SECONDS = 30.0
STALE_SECONDS = 120.0
OF_ORDERS = "orders"
COMPARED: Mapping[str, tuple[str, ...]] = {
    "orders": (OF_ORDERS, "inventory", "payments"),
    "units": (OF_ORDERS, "inventory"),
    "cents": (OF_ORDERS, "payments"),
}
"""The quantities that are compared, each with the services that know it."""
_COLUMNS = {"orders": "count", "units": "units", "cents": "cents"}
SERVICES = COMPARED["orders"]

DIFFERENCE = Gauge("books_difference", "By how much the books of the services differ", ["what"])
CHECKED = Gauge("books_checked_timestamp_seconds", "When the books of all services were compared the last time")


@dataclass(frozen=True, slots=True)
class Checked:
    """One comparison of the orders with ids from `first` to `last`: the numbers of each service, and what differs."""

    at: float
    first: int
    last: int
    numbers: Mapping[str, Mapping[str, int]]
    differences: Mapping[str, int] = field(default_factory=dict)

    @property
    def agree(self) -> bool:
        return not any(self.differences.values())


class Books:
    def __init__(self, services: Services, account: Account, clock: Callable[[], float] = time.time) -> None:
        self._services, self._account, self._clock = services, account, clock
        self.last: Checked | None = None
        self.problem = "not compared yet"
        """Why the last comparison did not succeed. Empty: it did."""
        self.differ_since: float | None = None

    @property
    def fresh(self) -> bool:
        """True if the last result says how it is now."""
        return self.last is not None and self._clock() - self.last.at < STALE_SECONDS

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Compare every half minute until `stop` is set."""
        while not stop.is_set():
            beat()
            await self.run_once()
            beat()
            await wait(stop, EVERY_SECONDS / 2)
            beat()
            await wait(stop, EVERY_SECONDS / 2)
        await self._account.close()

    async def run_once(self) -> None:
        try:
            self._note(await self._compare(await self._account.token()))
        except ServiceError as error:
            if error.detail != self.problem:
                log.log(level_of_absence(), "the books cannot be compared, trying again", error=error.detail)
            self.problem = error.detail

    async def _compare(self, token: str) -> Checked:
        mine = await self._ask(token, OF_ORDERS, {})
        first, last = mine["first"], mine["last"]
        others = [name for name in SERVICES if name != OF_ORDERS]
        range_ = {"first": first, "last": last}
        found = await asyncio.gather(*(self._ask(token, name, range_) for name in others))
        numbers = {name: _numbers(books) for name, books in zip((OF_ORDERS, *others), (mine, *found), strict=True)}
        return Checked(self._clock(), first, last, numbers, _differences(numbers))

    async def _ask(self, token: str, service: str, query: Mapping[str, object]) -> dict[str, int]:
        """The books of one service. Raises `Unavailable`."""
        if service not in self._services.targets:
            raise Unavailable(f"the console does not know the service {service}")
        found = await self._services.one(token, service, "books", query)
        if found.problem:
            raise Unavailable(f"{service}: {found.problem}")
        return _known(service, found.body.get("books"))

    def _note(self, found: Checked) -> None:
        if not found.agree and (self.last is None or self.last.agree):
            log.error("the books of the services differ", first=found.first, last=found.last, **found.differences)
        if found.agree:
            self.differ_since = None
        elif self.differ_since is None:
            self.differ_since = found.at
        self.last, self.problem = found, ""
        for what, difference in found.differences.items():
            DIFFERENCE.labels(what).set(difference)
        CHECKED.set(found.at)


def _differences(numbers: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    values = {what: [numbers[name][what] for name in names] for what, names in COMPARED.items()}
    return {what: max(found) - min(found) for what, found in values.items()}


def _known(service: str, books: Any) -> dict[str, int]:
    """The books of one service, with all that is compared. Raises `Unavailable`."""
    wanted = {_COLUMNS[what] for what, names in COMPARED.items() if service in names}
    if service == OF_ORDERS:
        wanted |= {"first", "last"}
    if not isinstance(books, dict) or not all(isinstance(books.get(name), int) for name in wanted):
        raise Unavailable(f"{service} has no such books")
    return books


def _numbers(books: Mapping[str, int]) -> dict[str, int]:
    return {what: books[column] for what, column in _COLUMNS.items() if column in books}
