"""Drills: a real supervisord, a program that is really killed and frozen, and what the page shows of it."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from aiohttp.test_utils import TestServer

from console.drills import keeper
from console.drills.drill import Pace
from console.drills.keeper import Drills
from console.drills.records import Kind, promise
from console.pages import guarantees, sources
from local import ports
from local.process import Program
from local.supervisor import Supervisor
from local.supervisor import socket as socket_of
from shared.errors import Unavailable
from tests.builders import eventually
from tests.conftest import ROOT
from tests.lag import Lag
from tests.service.console import Shop, shop
from tests.service.test_console_pages import words

WEB_SERVER = """
import http.server, sys
class Ok(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Ok).serve_forever()
"""
PACE = Pace(orders_before=2, orders_after=3, every=0.1, frozen=2.0, look_every=0.02, look_limit=0.3, most=20, check=2)
KILL = "kill services:payments"
FREEZE = "freeze services:payments"


class Orders:
    """The API of orders. An order is CONFIRMED as soon as payments answers. A test can make it forget or double."""

    def __init__(self, payments: int, http: ClientSession) -> None:
        self._payments, self._http = payments, http
        self.orders: list[dict[str, Any]] = []
        self.tries: dict[str, int] = {}
        self.lose_answers = self.forgetful = self.doubling = self.refusing = False

    @property
    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/orders", self.place)
        app.router.add_get("/v1/orders", self.index)
        app.router.add_get("/v1/orders/{id}", self.read)
        app.router.add_get("/readyz", self.ready)
        return app

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response()

    async def place(self, request: web.Request) -> web.Response:
        key, body = request.headers["Idempotency-Key"], await request.json()
        self.tries[key] = self.tries.get(key, 0) + 1
        if self.refusing:
            return web.json_response({"type": "/problems/refused"}, status=503)
        found = [one for one in self.orders if one["note"] == key]
        if not found or self.doubling:
            found = [body | {"id": len(self.orders) + 1, "status": "PENDING"}]
            self.orders += found
        if self.lose_answers and self.tries[key] == 1:
            return web.json_response({"type": "/problems/outcome-unknown"}, status=503)
        return web.json_response({"id": found[0]["id"]}, status=202)

    async def read(self, request: web.Request) -> web.Response:
        order = self.orders[int(request.match_info["id"]) - 1]
        if self.forgetful:
            return web.json_response({"type": "/problems/not-found"}, status=404)
        with suppress(ClientError, TimeoutError):
            async with self._http.get(f"http://127.0.0.1:{self._payments}/readyz"):
                order["status"] = "CONFIRMED"
        return web.json_response(order)

    async def index(self, request: web.Request) -> web.Response:
        assert request.query["userId"] == "drill"
        before = int(request.query.get("cursor", "1000000"))
        page = [one for one in reversed(self.orders) if one["id"] < before][: int(request.query["limit"])]
        return web.json_response({"orders": page, "next_cursor": str(page[-1]["id"]) if page else None})


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A real supervisord with payments, which answers /readyz, the console, and a program that does not run."""
    port, folder = ports.free_block(1), tmp_path_factory.mktemp("supervised")
    script = folder / "server.py"
    script.write_text(WEB_SERVER)
    payments = Program("payments", [sys.executable, str(script), str(port)])
    idle = [Program(name, [sys.executable, "-c", "import time; time.sleep(600)"]) for name in ("console", "kafka")]
    made = Supervisor(folder, {"services": [payments], "other": idle})
    made.port = port  # type: ignore[attr-defined]
    made.start()
    try:
        for name in ("payments", "console"):
            made.start_program(name)
        yield made
    finally:
        made.shutdown()
        made.remove()


@asynccontextmanager
async def stack(folder: Path, supervisor: Supervisor, pace: Pace = PACE) -> AsyncIterator[tuple[Shop, Orders]]:
    port: int = supervisor.port  # type: ignore[attr-defined]
    await eventually(lambda: asyncio.to_thread(ports.is_ok, port, "/readyz"))
    http = ClientSession(timeout=ClientTimeout(total=1.0))
    orders = Orders(port, http)
    async with http, TestServer(orders.app) as server:
        services = f"orders={str(server.make_url('/')).rstrip('/')},payments=http://127.0.0.1:{port}"
        socket_ = str(socket_of(supervisor.root))
        async with shop(folder, pace, services=services, supervisor_socket=socket_) as console:
            await console.log_in()
            yield console, orders


@pytest.fixture
async def both(tmp_path: Path, supervisor: Supervisor) -> AsyncIterator[tuple[Shop, Orders]]:
    async with stack(tmp_path, supervisor) as made:
        yield made


def pid_of(supervisor: Supervisor) -> int:
    return int(supervisor.processes()["payments"]["pid"])


async def begin(console: Shop, what: str, reason: str = "to see it") -> str:
    """Begin a drill on the page. Returns the address of its own page."""
    found = console.client.app[sources.DRILLS]
    assert found is not None

    async def settled() -> bool:
        return bool(found._recovered)

    await eventually(settled)
    answer = await console.post("/console/drills", what=what, reason=reason)
    assert answer.status == 303, await answer.text()
    return answer.headers["Location"]


async def page_when(console: Shop, path: str, check: Callable[[str], bool]) -> str:
    """The page as soon as `check` is true."""

    async def found() -> str:
        page = await console.get(path)
        return page if check(page) else ""

    return str(await eventually(found, seconds=60, pause=0.1))


async def ended(console: Shop, path: str) -> str:
    """The page of a drill that has ended."""
    return await page_when(console, path, lambda page: "… under way" not in words(page))


def field_of(page: str, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", page, re.DOTALL)
    assert found, page
    return words(found[1])


async def test_a_program_is_killed_from_the_page_which_shows_its_recovery(
    both: tuple[Shop, Orders], supervisor: Supervisor
) -> None:
    console, orders = both
    before = pid_of(supervisor)
    page = await console.get("/console/drills")
    assert f'<td class="number">{before}</td>' in page
    path = await begin(console, KILL)
    page = await ended(console, path)
    assert pid_of(supervisor) not in {0, before}
    assert not psutil.pid_exists(before)
    assert "✓ No order was lost or doubled" in words(page)
    for name in ("Signal sent", "Noticed after", "Ready again after", "First new order CONFIRMED after"):
        assert field_of(page, name) != "-", name
    assert "payments: readyz" in field_of(page, "Ready again after")
    counts = {name: field_of(page, name) for name in ("placed", "accepted", "CONFIRMED", "lost", "doubled")}
    placed = str(len(orders.orders))
    assert counts == {"placed": placed, "accepted": placed, "CONFIRMED": placed, "lost": "0", "doubled": "0"}
    assert "no accepted order is lost or doubled. Test: tests/acceptance/test_kills.py" in words(page)
    assert "hx-get" not in page
    assert (await console.actions())[-1] == ("drill: kill -9", "to see it", "accepted as drill 1")
    assert "1: kill -9 payments" in await console.get("/console/drills")


async def test_a_program_is_frozen_and_woken(tmp_path: Path, supervisor: Supervisor) -> None:
    async with stack(tmp_path, supervisor, replace(PACE, frozen=6.0)) as (console, _):
        process = psutil.Process(pid_of(supervisor))
        path = await begin(console, FREEZE)

        async def is_frozen() -> bool:
            return process.status() == psutil.STATUS_STOPPED

        async def frozen_page() -> str:
            page = await console.get(path)
            return page if "under way : frozen for 6 s" in words(page) else ""

        await eventually(is_frozen)
        page = await eventually(frozen_page)  # supervisord answers after it has sent the signal
        assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in page
        page = await ended(console, path)
        assert process.status() != psutil.STATUS_STOPPED
        assert pid_of(supervisor) == process.pid
        assert field_of(page, "Noticed after").endswith("by payments: readyz")
        assert "✓ No order was lost or doubled" in words(page)


async def test_only_one_drill_at_a_time(both: tuple[Shop, Orders], supervisor: Supervisor) -> None:
    console, _ = both
    path = await begin(console, KILL)
    csrf = await console.csrf()
    answers = await asyncio.gather(
        *(console.post("/console/drills", what=FREEZE, reason="too", csrf=csrf) for _ in range(3))
    )
    assert [answer.status for answer in answers] == [409] * 3
    assert "refused: a drill is under way" in (await console.actions())[-1][2]
    page = await console.get("/console/drills")
    assert 'id="current"' in page
    button = re.search(r'<button form="drill" name="what" value="kill services:payments"[^>]*>', page)
    assert button
    assert button[0].endswith(" disabled>")
    await ended(console, path)
    assert psutil.Process(pid_of(supervisor)).status() != psutil.STATUS_STOPPED


async def test_drills_that_begin_at_the_same_moment_are_one(both: tuple[Shop, Orders]) -> None:
    console, _ = both
    await ended(console, await begin(console, KILL))
    csrf = await console.csrf()
    answers = await asyncio.gather(
        *(console.post("/console/drills", what=KILL, reason="too", csrf=csrf) for _ in range(5))
    )
    assert sorted(answer.status for answer in answers) == [303, 409, 409, 409, 409]


@pytest.mark.parametrize(
    ("what", "status", "why"),
    [
        ("kill other:console", 409, "the console cannot measure its own death"),
        ("kill other:kafka", 409, "kafka does not run"),
        ("kill services:nobody", 409, "supervisord refuses: BAD_NAME"),
        ("stop services:payments", 400, "choose a program"),
        ("kill", 400, "choose a program"),
        ("", 400, "choose a program"),
    ],
)
async def test_what_cannot_be_killed_is_refused(
    both: tuple[Shop, Orders], supervisor: Supervisor, what: str, status: int, why: str
) -> None:
    console, orders = both
    before = {name: one["pid"] for name, one in supervisor.processes().items()}
    await asyncio.sleep(0)
    answer = await console.post("/console/drills", what=what, reason="why not")
    assert answer.status == status
    assert why in words(await answer.text())
    assert {name: one["pid"] for name, one in supervisor.processes().items()} == before
    assert not orders.orders


async def test_a_drill_needs_a_reason_and_a_page_of_this_session(
    both: tuple[Shop, Orders], supervisor: Supervisor
) -> None:
    console, _ = both
    before = pid_of(supervisor)
    assert (await console.post("/console/drills", what=KILL, reason=" ")).status == 400
    assert (await console.post("/console/drills", what=KILL, reason="x", csrf="0" * 64)).status == 403
    assert (await console.post("/console/drills", what=KILL, reason="x", origin="http://evil.example")).status == 403
    assert pid_of(supervisor) == before


async def test_an_unknown_outcome_is_repeated_with_the_same_key(both: tuple[Shop, Orders]) -> None:
    console, orders = both
    orders.lose_answers = True
    page = await ended(console, await begin(console, KILL))
    assert set(orders.tries.values()) == {2}
    assert "✓ No order was lost or doubled" in words(page)
    assert field_of(page, "accepted") == field_of(page, "placed")


async def test_a_doubled_order_is_found(both: tuple[Shop, Orders]) -> None:
    console, orders = both
    orders.lose_answers = orders.doubling = True
    page = await ended(console, await begin(console, KILL))
    assert "✗ Orders were lost or doubled" in words(page)
    assert field_of(page, "doubled") == f"✗ {len(orders.tries)}"


async def test_a_lost_order_is_found(tmp_path: Path, supervisor: Supervisor) -> None:
    async with stack(tmp_path, supervisor, replace(PACE, most=1.0, deadline=1.5)) as (console, orders):
        orders.forgetful = True
        page = await ended(console, await begin(console, KILL))
        assert "✗ Orders were lost or doubled" in words(page)
        assert field_of(page, "lost") == f"✗ {len(orders.orders)}"
        assert "not final in time; answered 404" in words(page)


async def test_refused_orders_are_neither_lost_nor_repeated(tmp_path: Path, supervisor: Supervisor) -> None:
    async with stack(tmp_path, supervisor, replace(PACE, most=1.0)) as (console, orders):
        orders.refusing = True
        page = await ended(console, await begin(console, KILL))
        assert field_of(page, "refused") == field_of(page, "placed") == str(len(orders.tries))
        assert set(orders.tries.values()) == {1}
        assert "? The drill did not see enough to tell" in words(page)


async def test_the_orders_of_a_drill_are_bounded(tmp_path: Path, supervisor: Supervisor) -> None:
    async with stack(tmp_path, supervisor, replace(PACE, orders_after=150, every=0.01)) as (console, orders):
        await ended(console, await begin(console, KILL))
        assert len(orders.orders) == 60


async def test_a_frozen_program_is_woken_when_the_console_stops(tmp_path: Path, supervisor: Supervisor) -> None:
    process = psutil.Process(pid_of(supervisor))
    async with stack(tmp_path, supervisor, replace(PACE, frozen=600.0)) as (console, _):
        await begin(console, FREEZE)

        async def is_frozen() -> bool:
            return process.status() == psutil.STATUS_STOPPED

        await eventually(is_frozen)
    assert process.status() != psutil.STATUS_STOPPED
    async with stack(tmp_path, supervisor) as (console, _):
        assert "the console was stopped" in words(await console.get("/console/drills/1"))


async def test_a_program_that_a_killed_console_left_frozen_is_woken_by_the_next_console(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    process = psutil.Process(pid_of(supervisor))
    async with stack(tmp_path, supervisor) as (console, _):
        await ended(console, await begin(console, FREEZE))
        drills = console.client.app[sources.DRILLS]
        assert drills is not None
        await drills._store.run(lambda conn: conn.execute("update drills set ended_at = null"))
        os.kill(process.pid, signal.SIGSTOP)
        settings, pace = console.settings, console.pace
    async with shop(
        tmp_path, pace, services=settings.services, supervisor_socket=settings.supervisor_socket
    ) as console:

        async def is_awake() -> bool:
            return process.status() != psutil.STATUS_STOPPED

        await eventually(is_awake)
        await console.log_in()
        page = await page_when(console, "/console/drills/1", lambda page: 'id="problem"' in page)
        assert "the console ended before" in words(page)


async def test_a_program_that_cannot_be_woken_is_woken_later_and_before_the_next_drill(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "_EVERY_SECONDS", 0.2)
    process = psutil.Process(pid_of(supervisor))
    async with stack(tmp_path, supervisor, replace(PACE, frozen=0.1, most=0.5, deadline=1.0)) as (console, _):
        drills = console.client.app[sources.DRILLS]
        assert drills is not None
        signal_ = drills.supervisord.signal

        async def deaf(name: str, what: str) -> None:
            if what == "CONT":
                raise Unavailable("supervisord does not answer")
            await signal_(name, what)

        monkeypatch.setattr(drills.supervisord, "signal", deaf)
        path = await begin(console, FREEZE)

        async def over() -> bool:
            return drills.current is None

        await eventually(over)
        assert process.status() == psutil.STATUS_STOPPED
        answer = await console.post("/console/drills", what=KILL, reason="the next")
        assert answer.status == 409
        monkeypatch.setattr(drills.supervisord, "signal", signal_)
        await page_when(console, path, lambda page: "… under way" not in words(page))
        assert process.status() != psutil.STATUS_STOPPED


async def test_the_last_hundred_results_are_kept(both: tuple[Shop, Orders]) -> None:
    console, _ = both
    path = await begin(console, KILL)
    await ended(console, path)
    drills: Drills | None = console.client.app[sources.DRILLS]
    assert drills is not None
    [result] = await drills.last()
    for _ in range(120):
        await drills._add(result)
    assert len(await drills.last(500)) == 100
    await console.get(path, 404)


async def test_a_supervisord_that_does_not_answer_is_named_in_time(tmp_path: Path, lag: Lag) -> None:
    silent = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(silent))
        listener.listen()
        async with shop(tmp_path, supervisor_socket=str(silent)) as console:
            await console.log_in()
            csrf = await console.csrf()
            started = time.monotonic()
            page = words(await console.get("/console/drills"))
            assert lag.elapsed(started) < 2.0
            assert "supervisord does not answer" in page
            answer = await console.post("/console/drills", what=KILL, reason="x", csrf=csrf)
            assert answer.status in {409, 503}


async def test_outside_the_embedded_stack_nothing_can_be_killed(tmp_path: Path) -> None:
    async with shop(tmp_path) as console:
        await console.log_in()
        assert "possible only in the embedded stack" in words(await console.get("/console/drills"))
        answer = await console.post("/console/drills", what=KILL, reason="x")
        assert answer.status == 409
        await console.get("/console/drills/1", 404)


@pytest.mark.parametrize("program", ["payments", "orders", "postgres", "kafka", "gateway"])
@pytest.mark.parametrize("kind", ["kill", "freeze"])
def test_each_drill_tries_a_promise_of_the_guarantees_whose_test_exists(program: str, kind: Kind) -> None:
    fault = promise(program, kind)
    if (program, kind) == ("gateway", "freeze"):
        assert fault is None
        return
    found = guarantees.find(fault)
    assert found
    for test in re.findall(r"`(.*?)`", found.test):
        assert (ROOT / test).is_file()


async def test_the_guarantees_are_a_page_whose_lines_have_anchors(tmp_path: Path) -> None:
    async with shop(tmp_path) as console:
        await console.log_in()
        page = await console.get("/console/guarantees")
        found = guarantees.read()
        assert len({one.anchor for one in found}) == len(found) > 20
        assert 'id="kill--9-of-any-process' not in page
        assert '<tr id="kill-9-of-any-process-20-times-under-load">' in page
