"""A real console, beside small real servers that stand for the services, and stand-ins for telemetry and metrics."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, CookieJar, web
from aiohttp.test_utils import TestClient, TestServer

from console.app import Sources, create_app
from console.config import Settings
from console.drills.drill import Pace
from console.telemetry.records import Line as LogLine
from console.telemetry.records import Span
from console.telemetry.records import TraceSummary as Summary
from tests.tokens import Mint

SERVICES = ("orders", "inventory", "payments")
BOOKS = {
    "orders": {"first": 1, "last": 9, "count": 7, "units": 8, "cents": 5950},
    "inventory": {"count": 7, "units": 8},
    "payments": {"count": 7, "cents": 5950},
}
ADMIN_LOGIN = {"username": "admin", "password": "right"}
PARKED_AT = "2026-01-31T12:00:00.500000+00:00"
EVENT_ID = "019c1430-0000-7000-8000-000000000001"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Clock:
    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


@dataclass
class Telemetry:
    spans: list[Span] = field(default_factory=list)
    logged: list[LogLine] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    wanted: Any = None
    stuck: bool = False

    async def trace(self, trace_id: str) -> Sequence[Span]:
        await self._wait()
        return sorted((s for s in self.spans if s.trace_id == trace_id), key=lambda s: s.start_ns)

    async def traces(self, **_: Any) -> Sequence[Summary]:
        await self._wait()
        return [
            Summary(s.trace_id, s.name, s.service, s.start_ns, s.end_ns - s.start_ns, 1, int(s.status == "error"), "17")
            for s in self.spans
            if s.parent_id is None
        ]

    async def traces_of_event(self, event_id: str) -> Sequence[Summary]:
        having = {s.trace_id for s in self.spans if s.attributes.get("messaging.message.id") == event_id}
        return [one for one in await self.traces() if one.trace_id in having]

    async def lines(self, wanted: Any) -> Sequence[LogLine]:
        await self._wait()
        self.wanted = wanted
        return [line for line in self.logged if not wanted.text or wanted.text in line.text]

    async def _wait(self) -> None:
        if self.stuck:
            await asyncio.sleep(60)


@dataclass(frozen=True)
class Sample:
    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Curve:
    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass
class Series:
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def query(self, promql: str, at: float) -> Sequence[Sample]:
        return [one for name, found in self.samples.items() if name in promql for one in found]

    def range(self, promql: str, start: float, end: float, step: float) -> Sequence[Curve]:
        return [Curve(one.labels, [(start, one.value), (end, one.value)]) for one in self.query(promql, end)]


@dataclass(frozen=True)
class Alert:
    name: str
    severity: str = "page"
    labels: dict[str, str] = field(default_factory=lambda: {"service": "orders"})
    summary: str = "Events wait"
    description: str = "for 12 s"
    runbook: str = "docs/operations.md#parked-events"
    value: float = 12.0
    since: datetime = datetime(2026, 1, 31, 12, tzinfo=UTC)
    state: str = "firing"
    expr: str = "outbox_oldest_unpublished_seconds > 10"
    for_seconds: float = 15.0


@dataclass
class Alerts:
    found: list[Alert] = field(default_factory=list)

    def firing(self) -> list[Alert]:
        return [one for one in self.found if one.state == "firing"]

    def active(self) -> list[Alert]:
        return self.found

    def all(self) -> list[Alert]:
        return [Alert("EventsLate"), *self.found]


def parked_event(id_: int = 4, key: str = "17", **changes: Any) -> dict[str, Any]:
    """A row of GET /admin/parked."""
    return {
        "id": id_,
        "aggregate_type": "Order",
        "key": key,
        "type": "PaymentSucceeded",
        "event_id": EVENT_ID,
        "topic": "payments.events",
        "partition": 2,
        "offset": 40 + id_,
        "error": "LookupError('no order 17')",
        "attempts": 3,
        "blocks": True,
        "parked_at": PARKED_AT,
        "resolved_at": None,
        "resolution": None,
    } | changes


class Service:
    """The admin API of one service, with answers that a test can change. It accepts the tokens of `Accounts`."""

    def __init__(self, name: str, accounts: "Accounts") -> None:
        self.name, self._accounts = name, accounts
        self.hanging = self.failing = False
        self.posted: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: dict[str, Any] = {
            "health": {
                "service": name,
                "parts": ["api", "relay", "consumer"],
                "hanging": [],
                "draining": False,
                "paused_types": [],
                "parked": {"events": 0, "keys": 0, "oldest": None},
                "held_back_by": None,
            },
            "lanes": {
                "lanes": [
                    {"lane": 0, "owner": f"{name}-1", "epoch": 3, "held": True, "rows": 0, "bytes": 0, "oldest": None}
                ],
                "refused": [],
                "held_back_by": None,
            },
            "parked": {"events": 0, "keys": 0, "oldest": None, "causes": [], "parked": []},
            "repairs": {"repairs": []},
            "flags": {"service": name, "allowed": {}, "types": [], "flags": []},
            "books": {"service": name, "books": dict(BOOKS[name])},
            "timeline/17": {"service": name, "row": None, "events": []},
            "replay": {"chosen": 1, "repair": 5},
            "drop": {"chosen": 1, "repair": 6},
        }

    def park(self, *events: dict[str, Any]) -> None:
        oldest = min(one["parked_at"] for one in events)
        counts = {"events": len(events), "keys": len({one["key"] for one in events}), "oldest": oldest}
        self.answers["parked"] = {**counts, "causes": [], "parked": list(events)}
        self.answers["health"]["parked"] = counts
        for one in events:
            whole = {**one, "consumer": self.name, "recorded_at": PARKED_AT}
            self.answers[f"parked/{one['id']}"] = {"headers": {"ce_type": one["type"]}, "value": '{"a": 1}'} | whole

    async def answer(self, request: web.Request) -> web.Response:
        if self.hanging:
            await asyncio.sleep(60)
        if self.failing:
            return web.json_response({"detail": "db error"}, status=503)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not self._accounts.is_valid(token):
            return web.json_response({"detail": "the token has expired"}, status=401)
        path = request.match_info["path"]
        self.asked.append((path, dict(request.query)))
        if request.method == "POST":
            body = await request.json()
            self.posted.append((path, body))
            path = "dry-run" if body.get("dry_run") else path
        if path.startswith("timeline/") and path not in self.answers:
            return web.json_response({"service": self.name, "row": None, "events": []})
        if path not in self.answers:
            return web.json_response({"detail": "not found"}, status=404)
        return web.json_response(self.answers[path], status=202 if request.method == "POST" else 200)


class Accounts:
    """auth: two accounts, tokens that the mint signs, and refresh tokens that are valid once."""

    def __init__(self, clock: Clock) -> None:
        self.mint, self.down, self._clock = Mint(), False, clock
        self.seconds, self.logins, self.refreshed = 900, 0, 0
        self.valid: dict[str, float] = {}
        self.cookies: list[str] = []
        self._refresh: dict[str, str] = {}
        self.roles = {"admin": ["admin"], "alice": []}

    async def log_in(self, request: web.Request) -> web.Response:
        self.logins += 1
        self.cookies.append(request.headers.get("Cookie", ""))
        body = await request.json()
        if self.down:
            return web.json_response({"detail": "db error"}, status=503)
        if body["username"] not in self.roles or body["password"] != "right":
            return web.json_response({"detail": "wrong username or password"}, status=401)
        answer = self._tokens(body["username"])
        answer.set_cookie("device", f"of-{body['username']}", path="/auth")
        return answer

    async def refresh(self, request: web.Request) -> web.Response:
        if self.down:
            return web.json_response({"detail": "db error"}, status=503)
        name = self._refresh.pop((await request.json())["refresh_token"], None)
        if name is None:
            return web.json_response({"detail": "the refresh token is not valid"}, status=401)
        self.refreshed += 1
        return self._tokens(name)

    async def log_out(self, request: web.Request) -> web.Response:
        self._refresh.pop((await request.json())["refresh_token"], None)
        return web.Response(status=204)

    def is_valid(self, token: str) -> bool:
        return self.valid.get(token, 0.0) > self._clock()

    def end_sessions(self) -> None:
        self._refresh.clear()

    def _tokens(self, name: str) -> web.Response:
        expires_at = int(self._clock()) + self.seconds
        token = self.mint.token(name, *self.roles[name], exp=expires_at)
        refresh = f"refresh-{len(self.valid)}-{time.monotonic_ns()}"
        self.valid[token] = expires_at
        self._refresh[refresh] = name
        return web.json_response({"token": token, "expires_in": self.seconds, "refresh_token": refresh})

    async def keys(self, _: web.Request) -> web.Response:
        return web.json_response(self.mint.published())


class Shop:
    """A console with what is around it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.accounts = Accounts(self.clock)
        self.services = {name: Service(name, self.accounts) for name in SERVICES}
        self.telemetry, self.series, self.alerts = Telemetry(), Series(), Alerts()
        self.cookies = CookieJar(unsafe=True)
        self.pace: Pace | None = None
        self.settings: Settings
        self.client: TestClient[Any, Any]

    async def start(self) -> None:
        """Start the console, or start it again."""
        read = Sources(self.telemetry, self.series, self.alerts)
        app = create_app(self.settings, read, self.clock, self.pace)
        self.client = TestClient(TestServer(app), cookie_jar=self.cookies)
        await self.client.start_server()
        self.origin = str(self.client.make_url("/")).rstrip("/")

    async def restart(self) -> None:
        kept = [cookie.value for cookie in self.cookies if cookie.key == "console"]
        await self.client.close()
        self.cookies = CookieJar(unsafe=True)
        await self.start()
        self.cookies.update_cookies({"console": kept[0]}, self.client.make_url("/console/"))

    async def get(self, path: str, status: int = 200) -> str:
        answer = await self.client.get(path, allow_redirects=False)
        text = await answer.text()
        assert answer.status == status, text
        return text

    async def post(self, path: str, *, origin: str | None = "", csrf: str | None = "", **form: Any) -> ClientResponse:
        """POST as a browser does from a page of the console. An `origin` or `csrf` of None is left out."""
        headers = {} if origin is None else {"Origin": origin or self.origin}
        fields = [(name, ",".join(map(str, v)) if isinstance(v, list) else str(v)) for name, v in form.items()]
        if csrf is not None and not path.endswith("/login"):
            fields.append(("csrf", csrf or await self.csrf()))
        return await self.client.post(path, data=fields, headers=headers, allow_redirects=False)

    async def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', await self.get("/console/charts"))
        assert found
        return found[1]

    async def log_in(self, **changes: str) -> ClientResponse:
        return await self.post("/console/login", **ADMIN_LOGIN | changes)

    async def actions(self) -> list[tuple[str, str, str]]:
        """What was done, for which reason, with which outcome, the oldest first."""
        page = await self.get("/console/actions")
        table = page[page.index('id="actions"') : page.index("Repairs of the services")]
        rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in table.split("<tr>")[2:]]
        return [(row[2], row[5], row[6]) for row in reversed(rows)]


@asynccontextmanager
async def shop(folder: Path, pace: Pace | None = None, **changes: Any) -> AsyncIterator[Shop]:
    """A console with these changes of its settings, which is closed at the end. `pace` is that of its drills."""
    made = Shop(folder)
    made.pace = pace
    async with AsyncExitStack() as stack:
        addresses = []
        for name, service in made.services.items():
            app = web.Application()
            app.router.add_route("*", "/admin/{path:.*}", service.answer)
            server = await stack.enter_async_context(TestServer(app))
            addresses.append(f"{name}={str(server.make_url('/')).rstrip('/')}")
        auth = web.Application()
        auth.router.add_post("/auth/login", made.accounts.log_in)
        auth.router.add_post("/auth/refresh", made.accounts.refresh)
        auth.router.add_post("/auth/logout", made.accounts.log_out)
        auth.router.add_get("/auth/jwks.json", made.accounts.keys)
        server = await stack.enter_async_context(TestServer(auth))
        # A name, as in production: of an address, no client keeps cookies.
        places = {"auth_url": f"http://localhost:{server.port}", "services": ",".join(addresses)}
        made.settings = Settings(data_folder=folder, **places | changes)
        await made.start()
        try:
            yield made
        finally:
            await made.client.close()
