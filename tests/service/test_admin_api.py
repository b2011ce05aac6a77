"""The admin API: administrators see what is parked, late or refused, and repair it; nobody else gets an answer."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
import pytest_asyncio
from yarl import URL

from contracts.event import Event
from contracts.inventory import InventoryReserved
from contracts.payments import PaymentFailed, PaymentSucceeded
from shared import postgres
from shared.admin import api
from shared.delivery import events
from shared.delivery.handling import Handling
from shared.delivery.parking import Parked
from shared.delivery.repairs import Repairs
from shared.delivery.sifting import Turn
from shared.web import database, openapi
from tests.builders import eventually, order_created, record
from tests.conftest import Database, copied_from
from tests.service.conftest import Client, Serve, serving
from tests.tokens import ADMIN, OTHER, USER, Mint, publishing

SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")
ON_ONE = pytest.mark.asyncio(loop_scope="module")  # these share a database
LOOKUP = "LookupError('a bug')"
WHY = {"reason": "the bug is mended"}

# What an outbox has published, as far as the cursors tell.
PUBLISHED = """
update outbox_lanes l set xid = o.xid, id = o.id
  from (select distinct on (lane) lane, xid, id from outbox order by lane, xid desc, id desc) o where o.lane = l.lane
"""
REFUSED = """
insert into outbox_refused (lane, xid, id, topic, key, reason)
select lane, xid, id, topic, key, 'too large' from outbox where key = $1
"""


@pytest.fixture(scope="module")
def mint() -> Mint:
    return Mint()


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve("orders")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client_for_all(template: Database, mint: Mint) -> AsyncIterator[Client]:
    """A client of orders on one database for the whole module, for tests that ignore rows of other tests."""
    async with (
        copied_from(template) as made,
        publishing(mint) as url,
        serving("orders", made.url_for("orders"), auth_jwks_url=url) as client,
    ):
        yield client


def paid(order_id: int, **changes: Any) -> PaymentSucceeded:
    fields: dict[str, Any] = {"version": 1, "order_id": order_id, "amount_cents": 1700, "currency": "EUR"}
    return PaymentSucceeded(**(fields | {"provider_ref": "ch_1"} | changes))


def declined(order_id: int) -> PaymentFailed:
    return PaymentFailed(version=1, order_id=order_id, reason="payment_declined")


def handling_of(client: Client) -> Handling:
    handling = client.app[api.BACKEND].handling
    assert handling is not None
    return handling


async def park(client: Client, event: Event, error: str = LOOKUP, *, attempts: int = 3, **spoilt: Any) -> int:
    """Park an event as the service does when its handler has failed. Returns the id of the row."""
    read = record(event)._replace(**spoilt)
    late = Parked(read, error, attempts, blocks=True, event_id=events.id_of(read))
    await handling_of(client)._park([late], Turn([]))
    found: int = await client.app[database.POOL].fetchval("select max(id) from parked")
    return found


async def place(client: Client, mint: Mint) -> int:
    answer = await client.post("/v1/orders", json={"sku": "burger", "quantity": 2}, headers=mint.header())
    assert answer.status == 202, await answer.text()
    return int((await answer.json())["id"])


async def ask(client: Client, mint: Mint, path: str, **query: Any) -> tuple[int, Any]:
    """The status of the answer to an administrator, and its JSON, or the detail of a problem."""
    url = URL(f"/admin/{path}", encoded=True).update_query({name: str(value) for name, value in query.items()})
    return await read(await client.get(url, headers=mint.admin))


async def do(client: Client, mint: Mint, path: str, **body: Any) -> tuple[int, Any]:
    return await read(await client.post(f"/admin/{path}", json=body, headers=mint.admin))


async def read(answer: Any) -> tuple[int, Any]:
    found = await answer.json(content_type=None)
    return answer.status, found if answer.status < 400 else found["detail"]


async def shown(client: Client, mint: Mint, path: str, **query: Any) -> Any:
    status, found = await ask(client, mint, path, **query)
    assert status == 200, found
    return found


async def listed(client: Client, mint: Mint, **query: Any) -> list[int]:
    return [one["id"] for one in (await shown(client, mint, "parked", **query))["parked"]]


async def states(client: Client, mint: Mint, key: object, **query: Any) -> list[tuple[str, str]]:
    found = await shown(client, mint, f"timeline/{key}", **query)
    return [(one["what"], one["state"]) for one in found["events"]]


async def repair(client: Client, mint: Mint, action: str, **body: Any) -> dict[str, Any]:
    """Request a repair of parked events, run it, and return its last state."""
    status, asked = await do(client, mint, action, **(WHY | body))
    assert status == 202, asked
    assert await Repairs(client.app[database.POOL], handling_of(client)).run_once(asyncio.Event())
    found: dict[str, Any] = await shown(client, mint, f"repairs/{asked['repair']}")
    return found


async def rows_of_all_tables(client: Client) -> dict[str, Any]:
    """Without Alembic's, which the service may not read, and the audit trail: a rehearsal is an act, too."""
    pool = client.app[database.POOL]
    tables = await pool.fetch(
        "select relname from pg_class where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p') "
        "and not relispartition and relname not in ('alembic_version', 'audit')"
    )
    return {t: await pool.fetch(f'select xmin, to_jsonb(t) as row from "{t}" t order by 2') for (t,) in tables}


# Who may ask


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in SERVICES), ("orders", {"require_token": False})]
)
async def test_every_route_answers_administrators_and_nobody_else(
    serve: Serve, mint: Mint, name: str, settings: dict[str, Any]
) -> None:
    client = await serve(name, **settings)
    if name == "auth":  # it accepts only its own tokens
        login = await client.post("/auth/login", json={"username": "admin", "password": "password"})
        admin = {"Authorization": f"Bearer {(await login.json())['token']}"}
        await client.post("/auth/register", json={"username": "alice", "password": "a long password"})
        login = await client.post("/auth/login", json={"username": "alice", "password": "a long password"})
        user = {"Authorization": f"Bearer {(await login.json())['token']}"}
    else:
        admin, user = mint.admin, mint.header(USER)
    routes = [route for route in client.app.router.routes() if route.resource.canonical.startswith("/admin")]
    assert {route.method for route in routes} == {"GET", "HEAD", "POST"}
    for route in routes:
        path = route.resource.canonical.format(key="1", id="1")
        for headers, expected in (({}, 401), ({"Authorization": "nonsense"}, 401), (Mint().admin, 401), (user, 403)):
            assert (await client.request(route.method, path, json={}, headers=headers)).status == expected, path
        answer = await client.request(route.method, path, json={}, headers=admin)
        assert answer.status in {200, 400, 404, 409}, path


@pytest.mark.parametrize("name", SERVICES)
def test_the_document_does_not_describe_the_admin_api(name: str) -> None:
    settings = import_module(f"{name}.config").Settings(**({"admin_password": "password"} if name == "auth" else {}))
    document = import_module(f"{name}.app").create_app(settings)[openapi.DOCUMENT]
    assert document["paths"]
    assert not [path for path in document["paths"] if path.startswith("/admin")]
    assert not {"Replay", "Drop", "Republish", "Conditions", "Window"} & document["components"]["schemas"].keys()


async def test_a_process_without_the_api_part_has_no_admin_api(serve: Serve, mint: Mint) -> None:
    client = await serve("orders", only=["consumer"])
    assert (await client.get("/admin/health", headers=mint.admin)).status == 404


# Timeline


@ON_ONE
async def test_a_timeline_shows_the_row_and_the_events_and_whether_they_are_published(
    client_for_all: Client, mint: Mint
) -> None:
    order_id = await place(client_for_all, mint)
    found = await shown(client_for_all, mint, f"timeline/{order_id}")
    assert (found["service"], found["row"]["id"], found["row"]["status"]) == ("orders", order_id, "PENDING")
    (event,) = found["events"]
    assert (event["what"], event["topic"], event["value"]["sku"]) == ("OrderCreated", "orders.events", "burger")
    assert event["state"] == "not published yet"

    pool = client_for_all.app[database.POOL]
    await pool.execute(PUBLISHED)
    assert await states(client_for_all, mint, order_id) == [("OrderCreated", "published")]
    await client_for_all.post(f"/v1/orders/{order_id}/cancel", headers=mint.header())
    expected = [("OrderCreated", "published"), ("OrderCancelled", "not published yet")]
    assert await states(client_for_all, mint, order_id) == expected
    assert (await shown(client_for_all, mint, f"timeline/{order_id}"))["row"]["status"] == "CANCELLED"


@ON_ONE
async def test_a_timeline_shows_a_refused_event_until_it_is_resolved(client_for_all: Client, mint: Mint) -> None:
    order_id, pool = await place(client_for_all, mint), client_for_all.app[database.POOL]
    await pool.execute(PUBLISHED)
    await pool.execute(REFUSED, str(order_id))
    assert await states(client_for_all, mint, order_id) == [("OrderCreated", "refused: too large")]
    await pool.execute("update outbox_refused set resolved_at = now()")
    assert await states(client_for_all, mint, order_id) == [("OrderCreated", "published")]


@ON_ONE
async def test_a_timeline_shows_a_parked_event_with_its_error_and_later_what_became_of_it(
    client_for_all: Client, mint: Mint
) -> None:
    order_id = await place(client_for_all, mint)
    parked_id = await park(client_for_all, paid(order_id))
    seen = (await shown(client_for_all, mint, f"timeline/{order_id}"))["events"]
    assert [(e["what"], e["state"], e["parked_id"]) for e in seen if "parked_id" in e] == [
        ("PaymentSucceeded", f"parked: {LOOKUP}", parked_id)
    ]
    await repair(client_for_all, mint, "replay", ids=[parked_id])
    seen = await states(client_for_all, mint, order_id)
    assert [event for event in seen if event[0] != "DeadLetter"] == [
        ("OrderCreated", "not published yet"),
        ("PaymentSucceeded", "was parked: handled"),
        ("OrderConfirmed", "not published yet"),
    ]


@ON_ONE
async def test_the_timeline_of_an_unknown_key_is_empty(client_for_all: Client, mint: Mint) -> None:
    for key in ("4711", "0", "-1", "burger", "a%2Fb", "9" * 400, "%C3%A4", "%0A", "%25", "'--"):
        assert await ask(client_for_all, mint, f"timeline/{key}") == (
            200,
            {"service": "orders", "row": None, "events": []},
        )


@ON_ONE
async def test_nul_in_the_key_of_a_timeline_is_refused(client_for_all: Client, mint: Mint) -> None:
    for key in ("%00", "1%00", "%001"):
        assert await ask(client_for_all, mint, f"timeline/{key}") == (400, "invalid key")


@ON_ONE
async def test_no_bytes_in_a_path_or_a_query_cause_a_server_error(client_for_all: Client, mint: Mint) -> None:
    token = mint.admin["Authorization"].encode()
    for target in (
        before + path
        for path in (b"\xff", b"\xed\xa0\x80", b"\xc3\xa4", b"%ff", b"%ED%A0%80", b"%", b"%zz")
        for before in (b"timeline/", b"parked/", b"parked?key=", b"timeline/1?since=")
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", client_for_all.port)
        writer.write(b"GET /admin/" + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        writer.write(b"Authorization: " + token + b"\r\n\r\n")
        status = int((await reader.read()).split()[1])
        writer.close()
        await writer.wait_closed()
        assert status in {200, 400, 404}, target


@ON_ONE
async def test_a_window_limits_a_timeline(client_for_all: Client, mint: Mint) -> None:
    order_id = await place(client_for_all, mint)
    await park(client_for_all, paid(order_id))
    now, hour = datetime.now(UTC), timedelta(hours=1)
    for inside in (
        {"since": (now - hour).isoformat()},
        {"until": (now + hour).isoformat()},
        {"since": (now - hour).isoformat(), "until": (now + hour).isoformat()},
        {"since": "2026-01-31T12:00:00Z"},
        {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59Z"},
    ):
        assert len(await states(client_for_all, mint, order_id, **inside)) == 3, (
            inside
        )  # one of them is the dead letter
    for outside in (
        {"since": (now + hour).isoformat()},
        {"until": (now - hour).isoformat()},
        {"since": (now + hour).isoformat(), "until": (now - hour).isoformat()},
    ):
        assert await states(client_for_all, mint, order_id, **outside) == [], outside


BAD_TIMES = ["", "x", "2026", "0", "1769860800", "2026-01-31", "2026-01-31T12:00:00", "12:00Z", "20260131", "nan"]
BAD_TIMES += [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2026-02-30T12:00:00Z",
    "2026-01-31T12:00:00\x00Z",
]


@ON_ONE
async def test_a_time_without_a_zone_or_outside_the_calendar_is_refused(client_for_all: Client, mint: Mint) -> None:
    for name in ("since", "until"):
        for bad in BAD_TIMES:
            found = await ask(client_for_all, mint, "timeline/1", **{name: bad})
            assert found == (400, f"{name} must be a time with its zone, such as 2026-01-31T12:00:00Z"), bad


@ON_ONE
async def test_the_first_event_is_in_the_timeline_although_the_clock_of_the_service_is_ahead(
    client_for_all: Client, mint: Mint
) -> None:
    order_id = await place(client_for_all, mint)
    await client_for_all.app[database.POOL].execute(
        "update orders set created_at = created_at + interval '1 minute' where id = $1", order_id
    )
    assert [what for what, _ in await states(client_for_all, mint, order_id)] == ["OrderCreated"]


async def test_a_payment_and_a_reservation_have_timelines_too(serve: Serve, mint: Mint) -> None:
    inventory = await serve("inventory")
    await handling_of(inventory).handle([record(order_created(41))])
    found = await shown(inventory, mint, "timeline/41")
    assert (found["row"]["sku"], [one["what"] for one in found["events"]]) == ("burger", ["InventoryReserved"])

    payments = await serve("payments")
    late = InventoryReserved(**found["events"][0]["value"] | {"expires_at": datetime.now(UTC)})
    await handling_of(payments).handle([record(late)])
    found = await shown(payments, mint, "timeline/41")
    assert (found["row"]["status"], [one["what"] for one in found["events"]]) == ("FAILED", ["PaymentFailed"])


# Parked events


async def test_without_parked_events_the_list_is_empty(client: Client, mint: Mint) -> None:
    assert await shown(client, mint, "parked") == {"events": 0, "keys": 0, "oldest": None, "causes": [], "parked": []}


async def test_the_list_counts_events_and_keys_and_shows_the_causes(client: Client, mint: Mint) -> None:
    first = await park(client, paid(1))
    await park(client, paid(1), "waits", attempts=0)
    await park(client, paid(2))
    last = await park(client, declined(3), "another bug")
    found = await shown(client, mint, "parked")
    assert (found["events"], found["keys"]) == (4, 3)
    assert found["oldest"] == found["parked"][0]["parked_at"]
    first_cause = {name: found["causes"][0][name] for name in ("type", "error", "events", "keys")}
    assert first_cause == {"type": "PaymentSucceeded", "error": LOOKUP, "events": 2, "keys": 2}
    assert sorted(one["error"] for one in found["causes"]) == [LOOKUP, "another bug", "waits"]
    assert [one["id"] for one in found["parked"]] == list(range(first, last + 1))
    shape = {name: found["parked"][0][name] for name in ("key", "type", "error", "attempts", "blocks", "topic")}
    fixed = {"attempts": 3, "blocks": True, "topic": "payments.events"}
    assert shape == {"key": "1", "type": "PaymentSucceeded", "error": LOOKUP} | fixed


async def test_the_list_can_be_filtered(client: Client, mint: Mint) -> None:
    one = await park(client, paid(1))
    two = await park(client, paid(2), "100%_' bug")
    three = await park(client, declined(1))
    await client.app[database.POOL].execute(
        "update parked set parked_at = now() - interval '1 hour' where id = $1", one
    )
    for query, expected in (
        ({}, [one, two, three]),
        ({"key": "1"}, [one, three]),
        ({"key": "3"}, []),
        ({"type": "PaymentFailed"}, [three]),
        ({"key": "1", "type": "PaymentSucceeded"}, [one]),
        ({"error": "a bug"}, [one, three]),
        ({"error": "%_'"}, [two]),
        ({"error": "A BUG"}, []),
        ({"older_than_seconds": "1800"}, [one]),
        ({"older_than_seconds": "0"}, [one, two, three]),
        ({"older_than_seconds": "1800.5", "key": "2"}, []),
        ({"limit": "2"}, [one, two]),
        ({"limit": "1", "key": "2"}, [two]),
    ):
        assert await listed(client, mint, **query) == expected, query


@ON_ONE
async def test_a_bad_query_of_the_list_is_refused(client_for_all: Client, mint: Mint) -> None:
    for name, values in {
        "limit": ("0", "1001", "-1", "x", "", "1.5", "9" * 400),
        "older_than_seconds": ("-1", "x", "", "nan", "inf", "1e10", "-inf"),
        **dict.fromkeys(("key", "type", "error"), ("\x00", "a\x00")),
    }.items():
        for value in values:
            status, detail = await ask(client_for_all, mint, "parked", **{name: value})
            assert (status, detail.split()[0]) == (400, name), (name, value)


async def test_a_resolved_event_is_not_in_the_list_but_can_be_shown(client: Client, mint: Mint) -> None:
    parked_id = await park(client, paid(1))
    await repair(client, mint, "drop", ids=[parked_id])
    assert await listed(client, mint) == []
    found = await shown(client, mint, f"parked/{parked_id}")
    assert (found["resolution"], found["resolved_at"] is None) == ("dropped", False)


@ON_ONE
async def test_one_parked_event_is_shown_with_its_headers_and_its_value(client_for_all: Client, mint: Mint) -> None:
    headers = [*record(paid(9001)).headers, ("binary", b"\xff\xfe"), ("empty", None)]
    text = await park(client_for_all, paid(9001), headers=headers)
    binary, none = (
        await park(client_for_all, paid(9002), value=b"\xff"),
        await park(client_for_all, paid(9003), value=None),
    )
    found = await shown(client_for_all, mint, f"parked/{text}")
    assert found["value"] == paid(9001).model_dump_json()
    assert found["headers"]["ce_type"] == "PaymentSucceeded"
    assert found["headers"]["binary"] == "base64:" + base64.b64encode(b"\xff\xfe").decode()
    assert (found["headers"]["empty"], "raw_key" in found) == ("", False)
    assert found["event_id"] == found["headers"]["ce_id"]
    assert (await shown(client_for_all, mint, f"parked/{binary}"))["value"] == "base64:/w=="
    assert (await shown(client_for_all, mint, f"parked/{none}"))["value"] is None


@ON_ONE
async def test_an_event_that_was_never_parked_is_not_found(client_for_all: Client, mint: Mint) -> None:
    assert await ask(client_for_all, mint, "parked/4711") == (404, "not found")
    for bad in ("0", "-1", "x", "9223372036854775808", "%00"):
        assert await ask(client_for_all, mint, f"parked/{bad}") == (400, "invalid id")


# Rehearsal


@ON_ONE
async def test_a_rehearsal_shows_what_a_replay_would_do_and_changes_nothing(client_for_all: Client, mint: Mint) -> None:
    order_id = await place(client_for_all, mint)
    first = await park(client_for_all, paid(order_id))
    second = await park(client_for_all, paid(order_id, version=2), "waits", attempts=0)
    before = await rows_of_all_tables(client_for_all)

    status, found = await do(client_for_all, mint, "replay", ids=[first], dry_run=True, **WHY)
    assert (status, found["chosen"]) == (200, 2)
    confirmed, again = found["rehearsed"]
    assert (confirmed["parked_id"], confirmed["key"], confirmed["outcome"]) == (first, str(order_id), "handled")
    assert confirmed["changes"] == {"orders": "1 updated"}
    assert [(row["id"], row["status"]) for row in confirmed["rows"]["orders"]] == [(order_id, "CONFIRMED")]
    assert [(e["type"], e["key"]) for e in confirmed["events"]] == [("OrderConfirmed", str(order_id))]
    assert (again["parked_id"], again["outcome"], again["changes"], again["events"]) == (second, "handled", {}, [])
    assert await rows_of_all_tables(client_for_all) == before


async def test_a_rehearsal_shows_the_error_of_a_handler_and_tries_other_keys(client: Client, mint: Mint) -> None:
    order_id = await place(client, mint)
    await park(client, paid(4711))
    await park(client, paid(4711, version=2), "waits", attempts=0)
    await park(client, declined(order_id))
    before = await rows_of_all_tables(client)
    _, found = await do(client, mint, "replay", dry_run=True, **WHY)
    assert found["chosen"] == 3
    assert [(one["key"], one["outcome"]) for one in found["rehearsed"]] == [
        ("4711", "failed"),
        (str(order_id), "handled"),
    ]
    assert "UnknownAggregate" in found["rehearsed"][0]["detail"]
    assert await rows_of_all_tables(client) == before


async def test_a_rehearsal_shows_inserted_rows_of_a_service_that_takes_turns(serve: Serve, mint: Mint) -> None:
    client = await serve("inventory")
    await park(client, order_created(41))
    before = await rows_of_all_tables(client)
    _, found = await do(client, mint, "replay", dry_run=True, **WHY)
    (one,) = found["rehearsed"]
    assert one["changes"] == {"stock": "1 updated", "reservations": "1 inserted"}
    assert [row["order_id"] for row in one["rows"]["reservations"]] == [41]
    assert await rows_of_all_tables(client) == before


@ON_ONE
async def test_a_rehearsal_shows_which_event_another_waits_for(client_for_all: Client, mint: Mint) -> None:
    order_id = await place(client_for_all, mint)
    first, second = (
        await park(client_for_all, paid(order_id)),
        await park(client_for_all, declined(order_id), "waits", attempts=0),
    )
    _, found = await do(client_for_all, mint, "replay", ids=[second], dry_run=True, **WHY)
    (one,) = found["rehearsed"]
    assert (one["outcome"], one["detail"]) == ("behind", f"waits behind the parked event {first}")


async def test_a_rehearsal_tries_at_most_twenty_events(client: Client, mint: Mint) -> None:
    for n in range(1, 23):
        await park(client, paid(n))
    _, found = await do(client, mint, "replay", dry_run=True, **WHY)
    assert (found["chosen"], len(found["rehearsed"])) == (22, 20)


# Repairs


async def test_a_running_process_replays_what_an_administrator_chose(serve: Serve, mint: Mint) -> None:
    client = await serve("orders", only=["api", "relay", "consumer", "worker"])
    good, bad = await place(client, mint), await park(client, paid(4711))
    await park(client, paid(good))
    await park(client, declined(good), "waits", attempts=0)
    status, asked = await do(client, mint, "replay", error="bug", **WHY)
    assert (status, asked["chosen"]) == (202, 3)

    async def ended() -> Any:
        found = await shown(client, mint, f"repairs/{asked['repair']}")
        return found if found["ended_at"] else None

    found = await eventually(ended)
    assert (found["action"], found["requested_by"], found["reason"]) == ("replay", ADMIN, "the bug is mended")
    assert (found["counts"], found["outcome"]) == ({"failed": 1, "handled": 2}, "1 failed, 2 handled")
    assert found["request"] == {"error": "bug"}
    assert [(one["parked_id"], one["outcome"]) for one in found["left"]] == [(bad, "failed")]
    assert "UnknownAggregate" in found["left"][0]["detail"]
    assert await listed(client, mint) == [bad]
    assert (await shown(client, mint, f"parked/{bad}"))["attempts"] == 4
    order = await (await client.get(f"/v1/orders/{good}", headers=mint.header())).json()
    assert order["status"] == "CONFIRMED"


async def test_a_repair_waits_until_a_process_does_it(client: Client, mint: Mint) -> None:
    await park(client, paid(1))
    status, asked = await do(client, mint, "drop", key="1", **WHY)
    assert status == 202
    found = await shown(client, mint, f"repairs/{asked['repair']}")
    assert (found["counts"], found["outcome"], found["ended_at"], found["left"]) == ({"waiting": 1}, None, None, [])
    assert [one["id"] for one in (await shown(client, mint, "repairs"))["repairs"]] == [asked["repair"]]


async def test_a_drop_resolves_the_chosen_events_and_leaves_those_behind_them(client: Client, mint: Mint) -> None:
    order_id = await place(client, mint)
    first = await park(client, paid(order_id))
    second = await park(client, declined(order_id), "waits", attempts=0)
    assert (await do(client, mint, "drop", **WHY))[0] == 400
    found = await repair(client, mint, "drop", ids=[first], per_second=1000)
    assert (found["action"], found["counts"], found["outcome"]) == ("drop", {"dropped": 1}, "1 dropped")
    assert (found["requested_by"], found["request"], found["per_second"]) == (ADMIN, {"ids": [first]}, 1000)
    assert await listed(client, mint) == [second]
    found = await repair(client, mint, "replay", ids=[second])
    assert found["outcome"] == "1 handled"
    assert (await shown(client, mint, f"timeline/{order_id}"))["row"]["reason"] == "payment_declined"


async def test_a_repair_names_the_administrator_who_asked(client: Client, mint: Mint) -> None:
    await park(client, paid(1))
    await client.post("/admin/drop", json={"reason": "  noise\n", "error": ""}, headers=mint.header(OTHER, "admin"))
    (found,) = (await shown(client, mint, "repairs"))["repairs"]
    assert (found["requested_by"], found["reason"], found["request"]) == (OTHER, "noise", {"error": ""})


async def test_a_condition_by_age_becomes_a_time_that_stays(client: Client, mint: Mint) -> None:
    await park(client, paid(1))
    found = await repair(client, mint, "drop", older_than_seconds=0)
    assert found["outcome"] == "1 dropped"
    assert abs(datetime.now(UTC) - datetime.fromisoformat(found["request"]["parked_before"])) < timedelta(hours=1)


@pytest.mark.parametrize("action", ["replay", "drop"])
async def test_without_a_fitting_event_there_is_no_repair(client: Client, mint: Mint, action: str) -> None:
    await park(client, paid(1))
    for conditions in ({"key": "2"}, {"ids": [4711]}, {"older_than_seconds": 3600}, {"type": "PaymentFailed"}):
        assert await do(client, mint, action, **(WHY | conditions)) == (202, {"chosen": 0})
    assert (await shown(client, mint, "repairs"))["repairs"] == []


@pytest.mark.parametrize("action", ["replay", "drop"])
async def test_a_bad_repair_is_refused_and_not_stored(client: Client, mint: Mint, action: str) -> None:
    await park(client, paid(1))
    for body in (
        {},
        {"reason": None},
        {"reason": ""},
        {"reason": " \n\t"},
        {"reason": "r" * 501},
        {"reason": "a\x00b"},
        {"reason": 1},
        {**WHY, "ids": []},
        {**WHY, "ids": [0]},
        {**WHY, "ids": [2**63]},
        {**WHY, "ids": ["1"]},
        {**WHY, "ids": [1.0]},
        {**WHY, "ids": list(range(1, 1002))},
        {**WHY, "key": "\x00"},
        {**WHY, "key": 1},
        {**WHY, "older_than_seconds": -1},
        {**WHY, "older_than_seconds": "1"},
        {**WHY, "per_second": 0},
        {**WHY, "per_second": 1001},
    ):
        status, detail = await do(client, mint, action, **body)
        assert status == 400, (body, detail)
    assert (await shown(client, mint, "repairs"))["repairs"] == []
    assert (await do(client, mint, action, reason="r" * 500, key="1"))[0] == 202


@ON_ONE
async def test_a_repair_that_was_never_asked_for_is_not_found(client_for_all: Client, mint: Mint) -> None:
    assert await ask(client_for_all, mint, "repairs/4711") == (404, "not found")
    assert await ask(client_for_all, mint, "repairs/x") == (400, "invalid id")


async def test_a_service_that_consumes_nothing_has_nothing_to_replay_or_drop(serve: Serve, mint: Mint) -> None:
    client = await serve("products")
    for action, body in (("replay", WHY), ("replay", WHY | {"dry_run": True}), ("drop", WHY)):
        assert await do(client, mint, action, **body) == (409, "this service consumes no events")
    assert (await shown(client, mint, "parked"))["events"] == 0


async def test_a_service_shows_only_what_it_has_parked_itself(client: Client, serve: Serve, mint: Mint) -> None:
    await park(client, paid(1))
    for name in SERVICES[1:3]:
        other = await serve(name)
        assert (await listed(other, mint), await states(other, mint, 1)) == ([], [])
        assert (await do(other, mint, "replay", **WHY))[1] == {"chosen": 0}


# Lanes


def by_lane(found: dict[str, Any], name: str) -> dict[int, Any]:
    return {one["lane"]: one[name] for one in found["lanes"]}


async def test_lanes_show_what_is_not_published(client: Client, mint: Mint) -> None:
    found = await shown(client, mint, "lanes")
    assert set(by_lane(found, "rows").values()) == set(by_lane(found, "bytes").values()) == {0}
    assert (found["refused"], set(by_lane(found, "oldest").values())) == ([], {None})
    assert (set(by_lane(found, "owner").values()), set(by_lane(found, "held").values())) == ({None}, {False})

    for _ in range(5):
        await place(client, mint)
    pool = client.app[database.POOL]
    expected = await pool.fetch(
        "select lane, count(*) as rows, sum(octet_length(value)) as bytes, min(occurred_at) as oldest "
        "from outbox group by lane"
    )
    found = await shown(client, mint, "lanes")
    waiting = {one["lane"]: one for one in found["lanes"] if one["rows"]}
    assert sum(by_lane(found, "rows").values()) == 5
    assert {(n, one["rows"], one["bytes"], datetime.fromisoformat(one["oldest"])) for n, one in waiting.items()} == {
        tuple(row) for row in expected
    }
    await pool.execute(PUBLISHED)
    assert set(by_lane(await shown(client, mint, "lanes"), "rows").values()) == {0}


async def test_lanes_show_who_holds_them(serve: Serve, mint: Mint) -> None:
    client = await serve("orders", only=["api", "relay"], instance_id="x-7")

    async def held() -> Any:
        return set(by_lane(await shown(client, mint, "lanes"), "held").values()) == {True}

    await eventually(held)
    owners = set(by_lane(await shown(client, mint, "lanes"), "owner").values())
    assert {owner.partition("/")[0] for owner in owners} == {"x-7"}


async def test_lanes_show_refused_rows_until_they_are_resolved(client: Client, mint: Mint) -> None:
    order_id, pool = await place(client, mint), client.app[database.POOL]
    await pool.execute(REFUSED, str(order_id))
    (found,) = (await shown(client, mint, "lanes"))["refused"]
    assert (found["topic"], found["key"], found["reason"]) == ("orders.events", str(order_id), "too large")
    await pool.execute("update outbox_refused set resolved_at = now()")
    assert (await shown(client, mint, "lanes"))["refused"] == []


async def test_republish_moves_the_cursors_back_to_a_time_in_a_new_epoch(client: Client, mint: Mint) -> None:
    pool = client.app[database.POOL]
    await place(client, mint)
    moment = await pool.fetchval("select clock_timestamp()")
    later = await place(client, mint)
    await pool.execute(PUBLISHED)
    before = await shown(client, mint, "lanes")
    (lane,) = await pool.fetchrow("select lane from outbox where key = $1", str(later))

    body = {"since": moment.isoformat(), "reason": "the broker lost its disk"}
    status, asked = await do(client, mint, "lanes/republish", **body)
    assert (status, set(asked)) == (202, {"repair"})
    woken: list[bool] = []
    assert await Repairs(pool, None, lambda: woken.append(True)).run_once(asyncio.Event())
    found = await shown(client, mint, f"repairs/{asked['repair']}")
    assert (found["outcome"], found["requested_by"], found["reason"]) == ("1 lanes moved back", ADMIN, body["reason"])
    assert datetime.fromisoformat(found["request"]["since"]) == moment
    assert woken == [True]
    after = await shown(client, mint, "lanes")
    assert {n: rows for n, rows in by_lane(after, "rows").items() if rows} == {lane: 1}
    epochs = {n: epoch - by_lane(before, "epoch")[n] for n, epoch in by_lane(after, "epoch").items()}
    assert {n: more for n, more in epochs.items() if more} == {lane: 1}
    assert await states(client, mint, later) == [("OrderCreated", "not published yet")]


@pytest.mark.parametrize("action", ["republish", "rebase"])
@ON_ONE
async def test_the_outbox_is_not_repaired_without_a_reason_or_a_clear_time(
    client_for_all: Client, mint: Mint, action: str
) -> None:
    good, before = "2026-01-31T12:00:00Z", await shown(client_for_all, mint, "repairs")
    for since in (*BAD_TIMES, None, 0, 2026, 1.5, True, [good]):
        assert (await do(client_for_all, mint, f"lanes/{action}", since=since, **WHY))[0] == 400, since
    for body in ({}, {"since": good}, WHY, {"since": good, "reason": " "}, {"since": good, "reason": "r" * 501}):
        assert (await do(client_for_all, mint, f"lanes/{action}", **body))[0] == 400
    assert await shown(client_for_all, mint, "repairs") == before


async def test_a_rebase_publishes_again_only_what_was_not_published(client: Client, mint: Mint) -> None:
    pool = client.app[database.POOL]
    await place(client, mint)
    await pool.execute(PUBLISHED)
    later = await place(client, mint)
    restored = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    status, asked = await do(client, mint, "lanes/rebase", since=restored, **WHY)
    assert status == 202
    await Repairs(pool, None).run_once(asyncio.Event())
    assert (await shown(client, mint, f"repairs/{asked['repair']}"))["outcome"] == "1 rows are published next"
    assert sum(by_lane(await shown(client, mint, "lanes"), "rows").values()) == 1
    assert await states(client, mint, later) == [("OrderCreated", "not published yet")]


# Health


async def test_health_shows_what_runs_and_what_is_parked(client: Client, mint: Mint) -> None:
    found = await shown(client, mint, "health")
    blocking = found.pop("held_back_by")  # another test may have an open transaction in this cluster
    assert blocking is None or {"pid", "seconds", "query"} <= set(blocking)
    process = {"service": "orders", "parts": ["api"], "hanging": [], "draining": False, "paused_types": []}
    assert found == process | {"parked": {"events": 0, "keys": 0, "oldest": None}}
    await park(client, paid(1))
    parked = (await shown(client, mint, "health"))["parked"]
    assert (parked["events"], parked["keys"], parked["oldest"] is None) == (1, 1, False)


@ON_ONE
async def test_health_and_lanes_show_the_transaction_that_holds_the_outbox_back(
    client_for_all: Client, mint: Mint
) -> None:
    pool = client_for_all.app[database.POOL]
    async with postgres.transaction(pool) as conn:
        await conn.execute("select pg_current_xact_id()")
        pid = await conn.fetchval("select pg_backend_pid()")
        for path in ("health", "lanes"):

            async def found(path: str = path) -> Any:
                blocking = (await shown(client_for_all, mint, path))["held_back_by"]
                return blocking and blocking["pid"] == pid and blocking

            assert (await eventually(found))["state"] == "idle in transaction"


@ON_ONE
async def test_health_shows_a_paused_type(client_for_all: Client, mint: Mint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handling, "paused", ["PaymentFailed"])
    assert (await shown(client_for_all, mint, "health"))["paused_types"] == ["PaymentFailed"]
