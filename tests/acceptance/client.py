"""A load client that records every request, its time and its answer, for the checker.

What must stay true: a call is in the history before it is sent, so that a call without an answer counts as unknown.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from operator import itemgetter
from typing import Any, Literal
from uuid import uuid4

import aiohttp
import orjson

from tests.lag import Lag

Outcome = Literal["ok", "failed", "unknown"]

ANSWER_SECONDS = 3.1
"""The longest time for an answer, on top of the time that the request asked to wait."""


@dataclass(slots=True)
class Call:
    """One request. `status` is None until there is an answer.

    `caller` is the user who sends the request, "" if there is no user, and None for a caller who may see everything.
    """

    kind: str
    started: float
    caller: str | None = None
    key: str | None = None
    body: dict[str, Any] | None = None
    order_id: int | None = None
    wait: float = 0.0
    status: int | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    retry_after: str | None = None
    error: str = ""
    connected: bool = True
    ended: float = float("inf")

    @property
    def problem(self) -> str:
        return str(self.answer.get("type", "")).removeprefix("/problems/")

    @property
    def is_login_limit(self) -> bool:
        """True if auth refused a login because too many waited for a turn: on a busy machine hashing takes long."""
        return self.status == 429 and self.problem == "too-many-requests" and self.kind.startswith("POST /auth/")

    @property
    def outcome(self) -> Outcome:
        """What the client may conclude: done, certainly not done, or unknown."""
        if self.status is not None and self.status < 300:
            return "ok"
        if not self.connected or self.problem == "refused" or (self.status and 400 <= self.status < 500):
            return "failed"
        return "unknown"

    def seconds_without(self, lag: Lag) -> float:
        """How long the answer took, beyond the requested wait, without the lag of client, gateway and service."""
        return self.seconds if self.ended == float("inf") else self.seconds - lag.seconds(self.started, self.ended)

    @property
    def seconds(self) -> float:
        """The time until the answer, without the time that the caller asked to wait."""
        return max(0.0, self.ended - self.started - self.wait)


History = list[Call]

Tokens = Callable[[str | None], dict[str, str]]
"""Returns the header with the token of this user, or of an administrator for None."""


class Client:
    """Sends requests to its URLs in turn. Every `place` and `restock` has its own idempotency key."""

    def __init__(self, session: aiohttp.ClientSession, urls: Sequence[str], tokens: Tokens, history: History) -> None:
        self._session, self._urls, self._tokens, self.history = session, urls, tokens, history
        self._turn = 0

    async def place(self, body: dict[str, Any], key: str | None = None) -> Call:
        user_id = body["userId"]
        about: dict[str, Any] = {"kind": "place", "caller": user_id, "body": body, "key": key or uuid4().hex}
        return await self.send("POST", "/v1/orders", self._tokens(user_id), body, **about)

    async def place_with_retries(
        self, body: dict[str, Any], seconds: float = 30.0, *, only_unanswered: bool = False
    ) -> Call:
        """Place an order, and retry with the same key until it is accepted or the time is over.

        With `only_unanswered`, a 503 is not retried.
        """
        key, until = uuid4().hex, time.monotonic() + seconds
        while True:
            call = await self.place(body, key)
            retry = call.status is None or (call.status == 503 and not only_unanswered)
            if not retry or time.monotonic() > until:
                return call
            await asyncio.sleep(random.uniform(0.05, 0.3))

    async def get(self, order_id: int, wait: float = 0.0) -> Call:
        path = f"/v1/orders/{order_id}" + (f"?wait={wait:g}" if wait else "")
        return await self.send("GET", path, self._tokens(None), kind="get", order_id=order_id, wait=wait)

    async def cancel(self, order_id: int) -> Call:
        path = f"/v1/orders/{order_id}/cancel"
        return await self.send("POST", path, self._tokens(None), kind="cancel", order_id=order_id)

    async def restock(self, sku: str, quantity: int, key: str | None = None) -> Call:
        """Add units, always with a key: the checker compares the keys."""
        body = {"sku": sku, "quantity": quantity}
        about: dict[str, Any] = {"kind": "restock", "body": body, "key": key or uuid4().hex}
        return await self.send("POST", f"/inventory/{sku}/restock", self._tokens(None), {"quantity": quantity}, **about)

    async def ask(self, path: str) -> Call:
        return await self.send("GET", path, self._tokens(None), kind=path)

    async def administer(self, method: str, path: str, json: Any = None) -> Call:
        """Send a request with an administrator's token."""
        return await self.send(method, path, self._tokens(None), json)

    async def follow(self, order_id: int, seconds: float = 30.0) -> dict[str, Any]:
        """Poll an order until it is final or the time is over; return the order as seen last."""
        until, seen = time.monotonic() + seconds, dict[str, Any]()
        while time.monotonic() < until:
            call = await self.get(order_id, wait=2)
            seen = call.answer if call.status == 200 else seen
            if seen.get("status", "PENDING") != "PENDING":
                break
            await asyncio.sleep(0.1)
        return seen

    async def send(
        self, method: str, path: str, headers: dict[str, str], json: Any = None, *, kind: str = "", **about: Any
    ) -> Call:
        """Send any request; `about` are the other fields of its `Call`."""
        call = Call(kind or f"{method} {path}", time.monotonic(), **about)
        self.history.append(call)
        self._turn += 1
        url = self._urls[self._turn % len(self._urls)] + path
        keyed = {"Idempotency-Key": call.key} if call.key else {}
        timeout = aiohttp.ClientTimeout(total=call.wait + 15)  # far longer than ANSWER_SECONDS, to measure late answers
        try:
            async with self._session.request(
                method, url, json=json, headers=headers | keyed, timeout=timeout
            ) as response:
                raw = await response.read()
                call.answer = orjson.loads(raw) if "json" in response.content_type else {}
                call.retry_after = response.headers.get("Retry-After")
                call.status = response.status
        except aiohttp.ClientConnectorError as error:
            call.connected, call.error = False, repr(error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            call.error = repr(error)
        call.ended = time.monotonic()
        return call


@asynccontextmanager
async def opened(
    urls: Sequence[str], tokens: Tokens, history: History, *, keep_alive: bool = True
) -> AsyncIterator[Client]:
    """A client for `urls`, such as `http://127.0.0.1:8080`."""
    connector = aiohttp.TCPConnector(limit=0, force_close=not keep_alive)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(session, urls, tokens, history)


def random_order(chance: random.Random) -> dict[str, Any]:
    """A random order; most end CONFIRMED, some do not."""
    sku = chance.choices(["burger", "pizza", "fries", "sushi", "lobster", "unicorn"], [40, 20, 20, 10, 5, 5])[0]
    quantity = 100 if sku == "sushi" else chance.randint(1, 3)
    return {"userId": f"u{chance.randrange(50)}", "sku": sku, "quantity": quantity, "note": f"n{chance.random():.6f}"}


class Load:
    """Customers who arrive at a fixed rate, even if the system is slow.

    Each places an order with retries and polls it until it is final; some cancel.

    >>> async with Load(client, per_second=10): ...
    """

    def __init__(self, client: Client, per_second: float, *, seed: int = 1, **choices: Any) -> None:
        self._client, self._pause, self._chance = client, 1 / per_second, random.Random(seed)
        self._choices = {"give_up": 0.1, "cancel": 0.1, "follow_seconds": 60.0, "only_unanswered": False} | choices
        self._customers: set[asyncio.Task[None]] = set()
        self.count = 0

    async def __aenter__(self) -> "Load":
        self._arriving = asyncio.create_task(self._arrive())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._arriving.cancel()
        await asyncio.gather(self._arriving, return_exceptions=True)
        async with asyncio.timeout(100):
            await asyncio.gather(*self._customers)

    async def run(self, count: int) -> None:
        """Start `count` customers, and wait until all of them are served."""
        self._arriving = asyncio.create_task(self._arrive(count))
        await self._arriving
        async with asyncio.timeout(100):
            await asyncio.gather(*self._customers)

    async def _arrive(self, most: float = float("inf")) -> None:
        due = time.monotonic()
        while self.count < most:
            self.count += 1
            self._customers.add(asyncio.create_task(self._serve(random_order(self._chance), self._chance.random())))
            due += self._pause
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _serve(self, body: dict[str, Any], luck: float) -> None:
        choices = self._choices
        if luck < choices["give_up"]:
            call = await self._client.place(body)
        else:
            call = await self._client.place_with_retries(body, only_unanswered=choices["only_unanswered"])
        if call.outcome == "ok":
            if luck > 1 - choices["cancel"]:
                await asyncio.sleep(luck % 0.01 * 10)
                await self._client.cancel(call.answer["id"])
            await self._client.follow(call.answer["id"], choices["follow_seconds"])


Action = Callable[[], Awaitable[object]]
"""One thing that a visitor does, from the request to the answer."""


@asynccontextmanager
async def steadily(per_second: float, *actions: Action) -> AsyncIterator[None]:
    """Start the actions in turn at a fixed rate, even if the system is slow; at the end, wait for all of them.

    If this process is late, it does not catch up: a burst would test the load and not the fault.
    """
    running: set[asyncio.Task[object]] = set()

    async def start() -> None:
        due = time.monotonic()
        for action in cycle(actions):
            running.add(asyncio.ensure_future(action()))
            due = max(due, time.monotonic() - 1 / per_second) + 1 / per_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    starting = asyncio.create_task(start())
    try:
        yield
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        async with asyncio.timeout(60):
            await asyncio.gather(*running)


def unexpected(history: History, *statuses: int | None, lag: Lag | None = None) -> History:
    """The calls with another status, without logins that auth refused because too many waited.

    With `lag`, also without a 503 of a call during which this machine had no core for most of a second.
    """
    found = [call for call in history if call.status not in statuses and not call.is_login_limit]
    if lag is None:
        return found
    return [call for call in found if call.status != 503 or call.ended - call.started - call.seconds_without(lag) < 0.7]


def ids(history: History) -> list[int]:
    """The ids of the accepted orders."""
    return sorted({call.answer["id"] for call in history if call.kind == "place" and call.outcome == "ok"})


def slowest(history: History, lag: Lag) -> tuple[float, Call]:
    """The call whose answer took longest, and that time, without the lag of this machine."""
    return max(((call.seconds_without(lag), call) for call in history), key=itemgetter(0))


def wrong_answers(history: History) -> list[str]:
    """The answers with a 5xx status, except a 503 with an allowed problem type and Retry-After."""
    allowed = {"place": {"refused", "outcome-unknown"}}
    return [
        f"{call.kind} {call.key or call.order_id or ''}: {call.status} {call.answer}"
        for call in history
        if call.status is not None
        and call.status >= 500
        and not (
            call.status == 503
            and call.retry_after
            and call.problem in allowed.get(call.kind, {"refused", "outcome-unknown", "unavailable"})
        )
    ]
