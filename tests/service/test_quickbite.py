"""The commands of `python -m quickbite`, as a person runs them, with real services."""

import asyncio
import io
import os
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from structlog.testing import capture_logs

from contracts.payments import PaymentFailed
from quickbite import parked
from quickbite.__main__ import main
from shared.admin import api
from shared.delivery import events, repairs
from shared.delivery.parking import Parked
from shared.delivery.sifting import Turn
from shared.web import database
from tests.builders import record
from tests.conftest import ROOT, Database
from tests.service.conftest import Client, Serve, serving
from tests.tokens import ADMIN, USER, Mint

NOBODY = "9"  # no process listens on this port
SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")
REASON = ("--reason", "the bug is mended")
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x7f\u202e"
CONTROL = re.compile(r"[^\n\x20-\x7e\xa1-\u2027\u2030-\uffff]")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of an error."""
        assert (self.code, self.out) == (1, ""), self
        assert self.err.count("\n") == 1, self
        assert "Traceback" not in self.err
        return self.err.strip()


Run = Callable[..., Awaitable[Ended]]


@pytest.fixture
def run(mint: Mint, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as an administrator: `await run("parked", "list", ORDERS_PORT=8080)`; other services are down.

    The command runs in a thread, because a new process takes half a second to start. Logs of the services are hidden.
    """
    monkeypatch.setattr(parked, "FOLLOW_SECONDS", 0.02)
    monkeypatch.setattr(repairs, "_IDLE_SECONDS", 0.02)

    def ended(arguments: list[str], environment: dict[str, str]) -> Ended:
        code, out, err = 0, io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err), capture_logs():
            patch.setattr(sys, "argv", ["quickbite", *arguments])
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Ended(code, out.getvalue(), err.getvalue())

    async def started(*arguments: object, **changes: object) -> Ended:
        environment = environment_of(mint) | {name: str(value) for name, value in changes.items()}
        return await asyncio.to_thread(ended, list(map(str, arguments)), environment)

    return started


def environment_of(mint: Mint) -> dict[str, str]:
    ports = {f"{name.upper()}_PORT": NOBODY for name in SERVICES}
    return ports | {"QUICKBITE_TOKEN": mint.token(ADMIN, "admin")}


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve("orders")


async def place(client: Client, mint: Mint) -> int:
    answer = await client.post("/v1/orders", json={"sku": "burger", "quantity": 2}, headers=mint.header())
    return int((await answer.json())["id"])


async def park(client: Client, order_id: int, error: str = "LookupError('a bug')", **spoilt: Any) -> int:
    """Park the refusal of a payment, as orders does when its handler has failed. Returns the id of the row."""
    read = record(PaymentFailed(version=1, order_id=order_id, reason="payment_declined"))._replace(**spoilt)
    handling = client.app[api.BACKEND].handling
    assert handling is not None
    await handling._park([Parked(read, error, 3, blocks=True, event_id=events.id_of(read))], Turn([]))
    found: int = await client.app[database.POOL].fetchval("select max(id) from parked")
    return found


async def count(client: Client, what: str) -> int:
    found: int = await client.app[database.POOL].fetchval(f"select count(*) from {what}")
    return found


def cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


# Parked events


async def test_the_list_names_the_services_in_which_nothing_is_parked(client: Client, run: Run) -> None:
    ended = await run("parked", "list", ORDERS_PORT=client.port)
    assert (ended.code, ended.out) == (0, "Nothing is parked in orders.\n")
    complaints = ended.err.splitlines()
    assert [line.split()[0] for line in complaints] == ["inventory", "payments", "auth", "users"]
    assert all(f"does not answer at http://127.0.0.1:{NOBODY}" in line for line in complaints)


async def test_the_list_shows_causes_and_events(client: Client, run: Run) -> None:
    first, second = await park(client, 1), await park(client, 2, "ValueError('another')")
    where = {"ORDERS_PORT": client.port}
    ended = await run("parked", "list", **where)
    lines = ended.out.splitlines()
    assert lines[0].startswith("orders: 2 events are parked, 2 keys wait, oldest ")
    assert cells(lines[2]) == ["events", "keys", "first", "last", "type", "error"]
    assert {tuple(cells(line)[-2:]) for line in lines[3:5]} == {
        ("PaymentFailed", "LookupError('a bug')"),
        ("PaymentFailed", "ValueError('another')"),
    }
    assert cells(lines[6]) == ["id", "key", "type", "age", "stops key", "error"]
    assert [cells(line)[:3] for line in lines[7:9]] == [
        [str(first), "1", "PaymentFailed"],
        [str(second), "2", "PaymentFailed"],
    ]
    filtered = await run("parked", "list", "--key", 2, "--type", "PaymentFailed", "--error", "other", **where)
    assert str(second) in filtered.out
    assert "\n1 " not in filtered.out.partition("stops key")[2]


async def test_show_shows_the_record_its_headers_and_its_value(client: Client, run: Run) -> None:
    parked_id = await park(client, 17)
    ended = await run("parked", "show", "orders", parked_id, ORDERS_PORT=client.port)
    assert (ended.code, ended.err) == (0, "")
    found = dict(cells(line) for line in ended.out.splitlines() if len(cells(line)) == 2)
    assert (found["key"], found["error"], found["ce_type"]) == ("17", "LookupError('a bug')", "PaymentFailed")
    assert 'value\n  {"version":1,"order_id":17,"reason":"payment_declined"}\n' in ended.out


async def test_a_rehearsal_shows_what_would_change_and_changes_nothing(client: Client, run: Run, mint: Mint) -> None:
    order_id = await place(client, mint)
    parked_id, unknown = await park(client, order_id), await park(client, 4711)
    ended = await run("parked", "replay", "orders", "--dry-run", ORDERS_PORT=client.port)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "2 events would be replayed; the first 2 were tried:"
    assert lines[2] == f"{parked_id}  key {order_id}  PaymentFailed: handled"
    assert lines[3] == "    table orders: 1 updated"
    assert "'status': 'CANCELLED'" in lines[4]
    assert lines[5].startswith('    event OrderCancelled: {"version":2,')
    assert lines[6].startswith(f"{unknown}  key 4711  PaymentFailed: failed  UnknownAggregate")
    assert lines[-1] == "Nothing was changed."
    assert [await count(client, f"parked where {how}") for how in ("attempts = 3", "resolved_at is null")] == [2, 2]
    assert await count(client, "orders where status = 'PENDING'") == 1
    assert await count(client, "repairs") == 0


async def test_a_replay_is_followed_to_its_end_and_kept_in_the_history(serve: Serve, run: Run, mint: Mint) -> None:
    client = await serve("orders", only=["api", "relay", "consumer"])
    order_id = await place(client, mint)
    unknown, parked_id = await park(client, 4711), await park(client, order_id)
    where = {"ORDERS_PORT": client.port}
    ended = await run("parked", "replay", "orders", "--error", "a bug", *REASON, **where)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "2 events chosen. If this command ends early: parked follow orders 1"
    assert "ended: 1 failed, 1 handled" in lines
    assert lines[-1].startswith(f"  {unknown} failed: UnknownAggregate")
    assert await count(client, f"parked where id = {parked_id} and resolution = 'handled'") == 1
    assert await count(client, "orders where status = 'CANCELLED'") == 1

    assert (await run("parked", "follow", "orders", 1, **where)).out.splitlines()[1:] == lines[-2:]
    ended = await run("parked", "history", **where)
    assert cells(ended.out.splitlines()[1])[1:] == [
        *("orders", "1", "replay", ADMIN),
        *("1 failed, 1 handled", "the bug is mended"),
    ]
    assert [line.split()[0] for line in ended.err.splitlines()] == list(SERVICES[1:])


async def test_a_drop_is_followed_to_its_end(serve: Serve, run: Run) -> None:
    client = await serve("orders", only=["api", "relay", "consumer"])
    first, second = await park(client, 1), await park(client, 2)
    ended = await run("parked", "drop", "orders", "--id", first, *REASON, ORDERS_PORT=client.port)
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "ended: 1 dropped")
    rows = await client.app[database.POOL].fetch("select id from parked where resolved_at is null")
    assert [row["id"] for row in rows] == [second]


async def test_without_a_reason_or_a_condition_nothing_is_repaired(client: Client, run: Run) -> None:
    await park(client, 1)
    where = {"ORDERS_PORT": client.port}
    for reason in ((), ("--reason", " ")):
        ended = await run("parked", "replay", "orders", *reason, **where)
        assert ended.complaint == "a reason is required: --reason 'the bug is mended in release 7'"
    ended = await run("parked", "drop", "orders", *REASON, **where)
    assert ended.complaint == "choose what to drop: --id, --key, --type, --error or --older-than"
    ended = await run("parked", "drop", "orders", "--key", "1", **where)
    assert ended.complaint.startswith("a reason is required")
    assert await count(client, "repairs") == 0


async def test_an_empty_key_and_an_age_of_zero_are_conditions(client: Client, run: Run) -> None:
    await park(client, 1)
    ended = await run("parked", "drop", "orders", "--key", "", *REASON, ORDERS_PORT=client.port)
    assert (ended.code, ended.out, ended.err) == (0, "No parked event fits.\n", "")


# The outbox


async def test_lanes_and_refused_rows_are_shown_by_service(client: Client, run: Run, mint: Mint) -> None:
    where, pool = {"ORDERS_PORT": client.port}, client.app[database.POOL]
    assert (await run("outbox", "refused", **where)).out == "None.\n"
    order_id = await place(client, mint)
    await pool.execute(
        "insert into outbox_refused (lane, xid, id, topic, key, reason) "
        "select lane, xid, id, topic, key, 'too large' from outbox"
    )
    ended = await run("outbox", "refused", **where)
    heads, row = map(cells, ended.out.splitlines())
    assert heads == ["service", "topic", "key", "age", "reason"]
    assert (row[:3], row[-1]) == (["orders", "orders.events", str(order_id)], "too large")
    assert [line.split()[0] for line in ended.err.splitlines()] == list(SERVICES[1:])

    lane, size = await pool.fetchrow("select lane, octet_length(value) from outbox")
    ended = await run("outbox", "lanes", **where)
    rows = [cells(line) for line in ended.out.splitlines() if line.startswith("orders ")]
    assert [row[:5] for row in rows] == [
        ["orders", str(n), "nobody", *(("1", f"{size} B") if n == lane else ("0", "0 B"))] for n in range(4)
    ]


async def test_a_republish_is_followed_to_its_end(serve: Serve, run: Run, mint: Mint) -> None:
    client = await serve("orders", only=["api", "relay"])
    await place(client, mint)
    where, pool = {"ORDERS_PORT": client.port}, client.app[database.POOL]
    moved = "update outbox_lanes l set xid = o.xid, id = o.id from outbox o where o.lane = l.lane"
    await pool.execute(moved)
    why = ("--reason", "the broker lost its disk")
    ended = await run("outbox", "republish", "orders", "2026-01-31T12:00:00+01:00", *why, **where)
    assert (ended.code, ended.out, ended.err) == (0, "ended: 1 lanes moved back\n", "")
    assert (await pool.fetchval("select request from repairs")) == {"since": "2026-01-31T11:00:00+00:00"}

    assert (await run("outbox", "republish", "orders", "2026-01-31T12:00:00Z", **where)).complaint.startswith(
        "a reason"
    )
    for since in ("2026", "20260131", "2026-01-31", "2026-01-31T12:00:00", "yesterday", ""):
        ended = await run("outbox", "republish", "orders", since, *why, **where)
        assert ended.complaint == f"{since!r} is no time with its zone, such as 2026-01-31T12:00:00Z"
    assert await count(client, "repairs") == 1


# One order


async def test_the_timeline_of_an_order_shows_rows_and_events_by_time(client: Client, run: Run, mint: Mint) -> None:
    order_id = await place(client, mint)
    await park(client, order_id)
    ended = await run("order", "timeline", order_id, ORDERS_PORT=client.port)
    assert ended.code == 0
    row, _, events_ = ended.out.partition("\n\n")
    assert row.startswith("orders\n")
    assert ["status", "PENDING"] in [cells(line) for line in row.splitlines()]
    heads, first, *rows = map(cells, events_.splitlines())
    assert heads == ["at", "after", "service", "event", "state"]
    assert first[1:] == ["+0.000 s", "orders", "OrderCreated", "not published yet"]
    assert sorted(row[2:] for row in rows) == [
        ["orders", "DeadLetter", "not published yet"],
        ["orders", "PaymentFailed", "parked: LookupError('a bug')"],
    ]
    assert sorted(row[0] for row in rows) == [row[0] for row in rows]
    assert [line.split()[0] for line in ended.err.splitlines()] == ["inventory", "payments"]

    ended = await run("order", "timeline", 4711, ORDERS_PORT=client.port)
    assert ended.out == "orders has no row of order 4711.\nThere are no events of this order.\n"


# What goes wrong


async def test_if_no_service_answers_the_command_fails(run: Run) -> None:
    for command in (("parked", "list"), ("parked", "history"), ("outbox", "lanes"), ("order", "timeline", 1)):
        ended = await run(*command)
        assert (ended.code, ended.out, ended.err.splitlines()[-1]) == (1, "", "no service has answered")
        assert "Traceback" not in ended.err
    ended = await run("parked", "show", "orders", 1)
    assert ended.complaint.startswith(f"orders does not answer at http://127.0.0.1:{NOBODY}: Cannot connect")
    assert ended.complaint.endswith("Does it run? (make ps)")


async def test_the_module_is_a_program_that_fails_with_one_line_and_exit_code_1(mint: Mint) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quickbite", "parked", "show", "orders", "1"),
        cwd=ROOT,
        env=os.environ | environment_of(mint),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert Ended(process.returncode or 0, out.decode(), err.decode()).complaint.startswith("orders does not answer")


async def test_a_wrong_token_and_a_users_token_are_refused_in_one_line(client: Client, run: Run, mint: Mint) -> None:
    where, hint = {"ORDERS_PORT": client.port}, "Set ADMIN_PASSWORD or QUICKBITE_TOKEN"
    for token, status in (("nonsense", 401), (Mint().token(ADMIN, "admin"), 401), (mint.token(USER), 403)):
        ended = await run("parked", "show", "orders", 1, QUICKBITE_TOKEN=token, **where)
        assert ended.complaint.startswith(f"orders answered {status}: ")
        assert ended.complaint.endswith(hint)
    ended = await run("parked", "list", QUICKBITE_TOKEN="nonsense", **where)
    assert (ended.code, ended.out) == (1, "")


async def test_without_a_token_the_administrators_password_is_used(database: Database, run: Run) -> None:
    async with (
        serving("auth", database.url_for("auth")) as auth,
        serving("orders", database.url_for("orders"), auth_jwks_url=str(auth.make_url("/auth/jwks.json"))) as orders,
    ):
        where = {"QUICKBITE_TOKEN": "", "ORDERS_PORT": orders.port, "AUTH_PORT": auth.port}
        ended = await run("parked", "list", **where, ADMIN_PASSWORD="password")
        assert (ended.code, ended.out) == (0, "Nothing is parked in orders, auth.\n")
        ended = await run("parked", "show", "orders", 1, **where, ADMIN_PASSWORD="wrong")
        assert ended.complaint.startswith("auth answered 401: ")


async def test_a_mistake_is_explained_in_one_line(client: Client, run: Run) -> None:
    where = {"ORDERS_PORT": client.port}
    assert (await run("parked", "show", "orders", 4711, **where)).complaint == "orders answered 404: not found"
    assert (await run("parked", "show", "kitchen", 1, **where)).complaint.startswith("there is no service 'kitchen'")
    ended = await run("parked", "list", ORDERS_PORT="none")
    assert ended.complaint.startswith("wrong setting: ORDERS_PORT: ")


@pytest.mark.parametrize(("body", "status"), [("null", 200), ("", 404), ("[]", 500), ("<html>", 200), ('"text"', 502)])
async def test_an_answer_of_another_program_is_reported_in_one_line(run: Run, body: str, status: int) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=body, status=status)

    async with RawTestServer(answer) as server:
        ended = await run("parked", "show", "orders", 1, ORDERS_PORT=server.make_url("/").port)
    found = "orders at http://127.0.0.1:[0-9]+ answered something that is (no JSON object$|not JSON: )"
    assert re.match(found, ended.complaint)


async def test_no_control_character_of_an_error_reaches_the_terminal(run: Run) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response({"detail": HOSTILE}, status=500)

    async with RawTestServer(answer) as server:
        for command in (("parked", "show", "orders", 1), ("parked", "list")):
            ended = await run(*command, ORDERS_PORT=server.make_url("/").port)
            assert "orders answered 500: ?]0;owned??[2J?31m" in ended.err
            assert not CONTROL.search(ended.err)


async def test_no_control_character_of_an_event_reaches_the_terminal(serve: Serve, run: Run, mint: Mint) -> None:
    client = await serve("orders", only=["api", "relay", "consumer"])
    order_id, hostile = await place(client, mint), HOSTILE.encode()
    read = record(PaymentFailed(version=1, order_id=order_id, reason="payment_declined"))
    changed = [(name, b"X" + hostile if name == "ce_type" else value) for name, value in read.headers]
    headers = [*changed, (f"x{HOSTILE}", hostile)]
    parked_id = await park(client, order_id, f"a bug {HOSTILE}", headers=headers, value=b'{"note":"' + hostile + b'"}')
    await park(client, 4711, f"a bug {HOSTILE}", key=b"k" + hostile)
    await client.app[database.POOL].execute(
        "insert into outbox_refused (lane, xid, id, topic, key, reason) "
        "select lane, xid, id, topic, $1, $1 from outbox",
        f"refused {HOSTILE}",
    )
    assert CONTROL.search(HOSTILE)
    for command, word in (
        (("parked", "list"), "a bug"),
        (("parked", "show", "orders", parked_id), "note"),
        (("parked", "replay", "orders", "--dry-run"), "unknown_type"),
        (("order", "timeline", order_id), "parked: a bug"),
        (("outbox", "refused"), "refused ?"),
        (("parked", "replay", "orders", "--reason", f"because {HOSTILE}"), "unknown_type"),
        (("parked", "history"), "because"),
        (("parked", "show", HOSTILE, 1), "there is no service"),
        (("outbox", "republish", "orders", HOSTILE, "--reason", "x"), "is no time"),
    ):
        ended = await run(*command, ORDERS_PORT=client.port)
        assert word in ended.out + ended.err, (command, ended)
        assert not CONTROL.search(ended.out + ended.err), (command, ended)
