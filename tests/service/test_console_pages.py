"""The console's pages, each as its HTML."""

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from console.pages import charts, sources, text
from tests.lag import Lag
from tests.service.console import (
    EVENT_ID,
    PARKED_AT,
    TRACE_ID,
    Alert,
    LogLine,
    Sample,
    Shop,
    Span,
    parked_event,
    shop,
)

STATIC = Path(__file__).parents[2] / "console" / "static"
VENDORED = Path(__file__).parents[2] / "shared" / "web" / "vendored"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}\u202eevil\u2066\x00\x1b[31m\u200b"
START = 1_769_860_800_000_000_000  # 2026-01-31T12:00:00Z


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop(tmp_path) as made:
        await made.log_in()
        yield made


def words(page: str) -> str:
    """The text of a page, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def row_of(page: str, id_: str) -> str:
    found = re.search(rf'<tr id="{id_}">.*?</tr>', page, re.DOTALL)
    assert found, page
    return words(found[0])


def event(what: str, at: str, **changes: Any) -> dict[str, Any]:
    """An event of GET /admin/timeline."""
    return {
        "at": at,
        "what": what,
        "state": "published",
        "topic": "orders.events",
        "event_id": EVENT_ID,
        "lane": 1,
        "value": {"order_id": 17},
    } | changes


# Health


async def test_the_health_page_shows_a_kept_promise_for_everything_that_works(console: Shop) -> None:
    console.series.samples = {
        name: [Sample({"service": "orders"}, 0.5)]
        for name in (
            "orders_oldest_open_seconds",
            "relay_last_success",
            "consumer_last_success",
            "consumer_lag_seconds",
        )
    }
    page = await console.get("/console/")
    assert "✓ All promises are kept" in page
    assert row_of(page, "promise-parked") == "No key is parked ✓ kept seen 0 ms ago 3 services"
    assert row_of(page, "promise-orders") == "Orders end ✓ kept 500 ms orders: the oldest open order"


async def test_without_figures_a_promise_is_not_known(console: Shop) -> None:
    page = await console.get("/console/")
    assert "? unknown - no figures" in row_of(page, "promise-orders")
    assert "4 promises are not known" in page


async def test_each_broken_promise_has_the_age_of_its_oldest_trouble(console: Shop) -> None:
    console.clock.now = START / 1e9 + 120
    orders, payments = console.services["orders"], console.services["payments"]
    orders.park(parked_event())
    orders.answers["health"] |= {"paused_types": ["PaymentSucceeded"], "hanging": ["relay"]}
    lane = payments.answers["lanes"]["lanes"][0]
    lane |= {"held": False, "rows": 3, "oldest": "2026-01-31T12:01:00+00:00"}
    refused = {
        "lane": 0,
        "xid": "1",
        "id": 1,
        "topic": "t",
        "key": "17",
        "reason": "too large",
        "refused_at": PARKED_AT,
    }
    payments.answers["lanes"]["refused"] = [refused]
    held = {"pid": 4711, "usename": "psql", "datname": "quickbite", "state": "idle", "query": "begin", "seconds": 60.0}
    payments.answers["lanes"]["held_back_by"] = held
    console.series.samples = {
        "consumer_lag_seconds": [Sample({"service": "users"}, 7.0)],
        "up": [Sample({"service": "users"}, 0)],
    }
    console.alerts.found = [Alert("EventsLate")]
    page = await console.get("/console/")
    for id_, expected in (
        ("parked", "✗ broken 120 s orders: 1 event of 1 key"),
        ("paused", "✗ broken now orders: PaymentSucceeded"),
        ("hanging", "✗ broken now orders: relay"),
        ("published", "✗ broken 60 s payments: 3 rows wait"),
        ("lanes", "✗ broken now payments: nobody publishes the lanes 0"),
        ("refused", "✗ broken 120 s payments: 1 rows"),
        ("held-back", "✗ broken 60 s payments: pid 4711 of psql"),
        ("lag", "✗ broken 7.0 s users: the oldest unhandled record"),
        ("targets", "✗ broken now users"),
        ("alerts", "✗ broken 2 min EventsLate"),
    ):
        assert expected in row_of(page, f"promise-{id_}"), id_
    assert "10 promises are broken" in page
    assert '<a href="/console/runbooks/parked-events">' in page
    lanes = await console.get("/console/lanes")
    assert "4711" in lanes
    assert "too large" in lanes
    assert "nobody" in lanes


async def test_a_service_that_hangs_is_named_and_its_last_state_is_shown_with_its_age(console: Shop, lag: Lag) -> None:
    await console.get("/console/")
    console.services["payments"].hanging = True
    console.clock.now += 90
    started = time.monotonic()
    page = await console.get("/console/")
    assert lag.elapsed(started) < 2.0
    assert "payments: no answer in time. What is shown is 90 s old." in words(page)
    assert row_of(page, "promise-parked") == "No key is parked ? unknown seen 90 s ago no answer from payments"
    assert "✗ broken now payments" in row_of(page, "promise-targets")


async def test_a_service_that_never_answered_is_named(console: Shop) -> None:
    console.services["payments"].failing = True
    page = words(await console.get("/console/parked"))
    assert "payments: answered 503: db error. Nothing of this service is shown." in page
    assert "Nothing is parked in the services that answered." in page


async def test_the_kept_answers_are_bounded(console: Shop) -> None:
    kept = console.client.app[sources.SERVICES]
    console.services["orders"].answers["timeline/big"] = {"service": "orders", "row": {"a": "x" * 2**20}, "events": []}
    for n in range(600):
        await kept.ask(next(iter(console.accounts.valid)), f"timeline/{n}", only=["orders"])
    await kept.ask(next(iter(console.accounts.valid)), "timeline/big", only=["orders"])
    assert len(kept._kept) == 500
    assert kept._kept_bytes == sum(len(raw) for raw, _ in kept._kept.values())
    assert ("orders", "/admin/timeline/big") not in kept._kept


# Timeline


async def test_a_timeline_joins_the_services_and_names_the_waits(console: Shop) -> None:
    row = {"id": 17, "status": "CONFIRMED", "created_at": "2026-01-31T12:00:00+00:00"}
    console.services["orders"].answers["timeline/17"] = {
        "service": "orders",
        "row": row,
        "events": [
            event("OrderCreated", "2026-01-31T12:00:00.002000Z"),
            event("OrderConfirmed", "2026-01-31T12:00:00.100000Z", event_id="b"),
        ],
    }
    reserved = event("InventoryReserved", "2026-01-31T12:00:00.030000Z", topic="inventory.events", event_id="a")
    parked = {
        "at": "2026-01-31T12:00:01Z",
        "what": "PaymentSucceeded",
        "state": "parked: LookupError",
        "topic": "payments.events",
        "event_id": "c",
        "parked_id": 4,
        "resolved_at": None,
    }
    console.services["inventory"].answers["timeline/17"] |= {"row": row, "events": [reserved]}
    console.services["payments"].answers["timeline/17"] |= {"row": row, "events": [parked]}
    page = words(await console.get("/console/orders/17"))
    assert " Order 17 CONFIRMED , 1.0 s from the first step to the last" in page
    order = (
        "request accepted by orders",
        "OrderCreated by orders",
        "InventoryReserved by inventory",
        "OrderConfirmed by",
    )
    places = [page.index(one) for one in (*order, "PaymentSucceeded by payments")]
    assert places == sorted(places)
    assert "28 ms in the outbox of orders, in Kafka and in inventory" in page
    assert "2.0 ms in orders" in page
    assert "■ parked: LookupError" in page
    assert 'curl -s -H "Authorization: Bearer $TOKEN"' in page
    assert "/admin/timeline/17" in page
    whole = await console.client.get(f"/console/orders/17/events/orders/{EVENT_ID}")
    assert whole.headers["Content-Disposition"] == f'attachment; filename="{EVENT_ID}.json"'
    assert '"order_id": 17' in await whole.text()


async def test_spans_divide_a_wait_into_outbox_kafka_and_handler(console: Shop) -> None:
    console.services["orders"].answers["timeline/17"] |= {"events": [event("OrderCreated", "2026-01-31T12:00:00Z")]}
    reserved = event("InventoryReserved", "2026-01-31T12:00:00.030000Z", event_id="a")
    console.services["inventory"].answers["timeline/17"] |= {"events": [reserved]}
    ids = {"messaging.message.id": EVENT_ID}
    place = ids | {"messaging.destination.partition.id": "2", "messaging.kafka.offset": 41}
    ms = 1_000_000
    console.telemetry.spans = [
        Span(TRACE_ID, "1" * 16, None, "orders", "POST", "server", START - ms, START, "ok", {}, []),
        Span(TRACE_ID, "2" * 16, "1" * 16, "orders", "send", "client", START + 3 * ms, START + 12 * ms, "ok", ids, []),
        Span(
            TRACE_ID,
            "3" * 16,
            "2" * 16,
            "inventory",
            "process",
            "consumer",
            START + 20 * ms,
            START + 31 * ms,
            "ok",
            place,
            [],
        ),
    ]
    page = words(await console.get("/console/orders/17"))
    assert "12 ms in the outbox of orders 8.0 ms in Kafka 10 ms in the handler of inventory" in page
    assert "partition / offset 2 / 41" in page
    assert TRACE_ID in page


async def test_events_of_another_thing_with_the_same_key_are_apart(console: Shop) -> None:
    row = {"id": 17, "status": "PENDING", "created_at": "2026-01-31T12:00:00+00:00"}
    created = event("OrderCreated", "2026-01-31T12:00:00Z")
    console.services["orders"].answers["timeline/17"] |= {"row": row, "events": [created]}
    parked = event("OrderCreated", "2026-01-31T12:00:01Z", state="parked: a bug", parked_id=4)
    letter = event("DeadLetter", "2026-01-31T12:00:01Z", topic="orders.events.dlq")
    console.services["inventory"].answers["timeline/17"] |= {"events": [parked, letter]}
    registered = event("UserRegistered", "2026-01-31T11:00:00Z", topic="auth.events")
    console.services["payments"].answers["timeline/17"] |= {"events": [registered]}
    page = await console.get("/console/orders/17")
    steps, others = page[page.index('id="steps"') : page.index('id="others"')], page[page.index('id="others"') :]
    assert "a bug" in steps
    assert "DeadLetter" in steps
    assert "UserRegistered" not in steps
    assert "UserRegistered" in others


async def test_the_timeline_of_an_unknown_key_says_so(console: Shop) -> None:
    for key in ("4711", "a%2Fb", "..%2Flanes"):
        page = await console.get(f"/console/orders/{key}", 200)
        assert 'id="no-step"' in page, key


# Parked


async def test_parked_keys_are_grouped_by_cause_with_those_that_wait(console: Shop) -> None:
    console.clock.now = START / 1e9 + 3600
    later = "2026-01-31T12:30:00+00:00"
    console.services["orders"].park(
        parked_event(4, "17"),
        parked_event(5, "17", attempts=0, error="waits behind 4"),
        parked_event(6, "18", parked_at=later),
        parked_event(7, "19", error="another bug"),
    )
    page = await console.get("/console/parked")
    first = page[page.index('id="cause-1"') : page.index('id="cause-2"')]
    assert "First seen 60 min ago" in words(first)
    assert "last seen 30 min ago. 2 keys." in words(first)
    assert "17 4 stops its key 60 min 1 3" in words(first)
    assert "another bug" in page[page.index('id="cause-2"') :]


async def test_a_parked_event_is_shown_with_record_headers_and_value(console: Shop) -> None:
    console.services["orders"].park(parked_event())
    page = words(await console.get("/console/parked/orders/4"))
    for part in ("payments.events", "partition 2", "offset 44", "ce_type PaymentSucceeded", '"a": 1', "--offset 44"):
        assert part in page, part


async def test_a_dry_run_shows_rows_and_events_and_leads_to_the_replay(console: Shop) -> None:
    orders = console.services["orders"]
    orders.park(parked_event())
    tried = {
        "parked_id": 4,
        "key": "17",
        "type": "PaymentSucceeded",
        "outcome": "handled",
        "detail": "",
        "changes": {"orders": "1 updated"},
        "rows": {"orders": [{"id": 17, "status": "CONFIRMED"}]},
        "events": [{"type": "OrderConfirmed", "key": "17", "value": '{"order_id":17}'}],
    }
    orders.answers["dry-run"] = {"chosen": 1, "rehearsed": [tried]}
    answer = await console.post("/console/parked/orders/dry-run", ids=[4], expected="17")
    page = words(await answer.text())
    for part in ("Nothing was changed.", "Table orders: 1 updated", '"status": "CONFIRMED"', "OrderConfirmed"):
        assert part in page, part
    assert orders.posted == [("replay", {"ids": [4], "dry_run": True, "reason": "dry run"})]
    assert (await console.actions())[-1] == ("dry run", "-", "1 events chosen; nothing was changed")


async def test_a_replay_needs_a_reason_and_leads_to_its_progress(console: Shop) -> None:
    orders = console.services["orders"]
    orders.park(parked_event(), parked_event(5, attempts=0))
    path = "/console/parked/orders/replay"
    for bad in (
        {"reason": "  "},
        {"per_second": "0"},
        {"per_second": "x"},
        {"ids": ["x"]},
        {"ids": []},
        {"ids": ["1"] * 1001},
    ):
        form = {"ids": [4, 5], "reason": "mended", "per_second": "20"} | bad
        assert (await console.post(path, **form)).status == 400, bad
    assert not orders.posted
    answer = await console.post(path, ids=[4, 5], reason="mended", per_second="20", expected="17")
    assert (answer.status, answer.headers["Location"]) == (303, "/console/repairs/orders/5")
    assert orders.posted == [("replay", {"ids": [4, 5], "reason": "mended", "per_second": 20})]
    assert (await console.actions())[-1] == ("replay", "mended", "accepted as repair 5")
    assert "17: events 4, 5" in await console.get("/console/actions")


async def test_the_progress_page_refreshes_until_the_repair_has_ended(console: Shop) -> None:
    repair = {
        "id": 5,
        "action": "replay",
        "requested_by": "1",
        "reason": "mended",
        "request": {"ids": [4]},
        "per_second": 20,
        "requested_at": PARKED_AT,
        "lease_until": PARKED_AT,
        "ended_at": None,
        "outcome": None,
        "counts": {"handled": 1, "waiting": 2},
        "left": [],
    }
    console.services["orders"].answers["repairs/5"] = repair
    page = await console.get("/console/repairs/orders/5")
    assert "1 of 3 events are done" in page
    assert 'hx-trigger="every 2s"' in page
    assert 'hx-get="/console/repairs/orders/5"' in page
    assert 'id="pause-live"' in page
    left = [{"parked_id": 4, "outcome": "failed", "detail": "LookupError"}]
    repair |= {
        "ended_at": PARKED_AT,
        "outcome": "2 handled, 1 failed",
        "counts": {"handled": 2, "failed": 1},
        "left": left,
    }
    page = await console.get("/console/repairs/orders/5")
    assert "hx-trigger" not in page
    assert "✗ failed" in page
    console.services["orders"].answers["repairs"] = {"repairs": [repair]}
    assert "2 handled, 1 failed" in await console.get("/console/actions")


async def test_a_drop_is_confirmed_by_typing_the_key(console: Shop) -> None:
    orders = console.services["orders"]
    orders.park(parked_event())
    assert "Type <strong>17</strong> to confirm" in await console.get("/console/parked/orders/4")
    form = {"ids": [4], "reason": "a test order", "expected": "17"}
    for confirmed in ({}, {"confirmed": ""}, {"confirmed": "18"}):
        answer = await console.post("/console/parked/orders/drop", **form, **confirmed)
        assert answer.status == 400
    assert not orders.posted
    answer = await console.post("/console/parked/orders/drop", **form, confirmed="17")
    assert answer.headers["Location"] == "/console/repairs/orders/6"
    assert (await console.actions())[-1] == ("drop", "a test order", "accepted as repair 6")


async def test_a_selection_of_several_keys_is_dropped_by_typing_the_service(console: Shop) -> None:
    console.services["orders"].park(parked_event(), parked_event(5, "18"))
    page = await console.get("/console/parked/orders?type=PaymentSucceeded")
    assert "Type <strong>orders</strong> to confirm" in page
    assert re.findall(r'name="ids" value="([\d,]+)"', page) == ["4,5"] * 3


async def test_a_stale_page_whose_events_are_resolved_changes_nothing_and_says_so(console: Shop) -> None:
    console.services["orders"].answers["replay"] = {"chosen": 0}
    answer = await console.post("/console/parked/orders/replay", ids=[4], reason="mended", per_second="5")
    assert answer.status == 409
    assert "none of these events is parked any more" in await answer.text()


async def test_a_write_without_an_answer_is_stored_as_not_known(console: Shop, lag: Lag) -> None:
    console.services["orders"].hanging = True
    started = time.monotonic()
    answer = await console.post("/console/parked/orders/replay", ids=[4], reason="mended", per_second="5", csrf="")
    assert answer.status == 503
    assert lag.elapsed(started) < 2.0
    assert "it may have been accepted" in await answer.text()
    assert (await console.actions())[-1] == ("replay", "mended", "no answer in time")


async def test_an_action_row_cannot_be_changed_or_deleted(console: Shop) -> None:
    store = console.client.app[sources.JOURNAL]._store
    for statement in ("update actions set who = 'x'", "delete from actions", "delete from outcomes"):
        with pytest.raises(Exception, match="append only"):
            await store.run(lambda conn, statement=statement: conn.execute(statement))
    assert (await console.actions())[-1] == ("log in", "-", "done")


# Hostile text


class Reader(HTMLParser):
    """Collects the elements and the attributes of a page, as a browser would."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def harmless(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    for tag, attributes in reader.tags:
        assert tag not in {"img", "iframe", "object", "style"}, page
        assert tag != "script" or (attributes["src"] or "").startswith("/console/static/")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    for odd in "\u202e\u2066\x00\x1b\u200b":
        assert odd not in page
    assert "49" not in re.findall(r"\{?(49)evil", page)


async def test_hostile_text_is_harmless_on_every_page(console: Shop) -> None:
    orders = console.services["orders"]
    bad = HOSTILE.replace("\x00", "\ufffd")  # Postgres stores no NUL
    orders.park(parked_event(4, bad, type=bad, error=HOSTILE, topic=bad))
    orders.answers["parked/4"] |= {"headers": {HOSTILE: HOSTILE}, "value": HOSTILE, "consumer": bad}
    orders.answers["timeline/17"] = {
        "service": "orders",
        "row": {"id": 17, "note": HOSTILE, "created_at": PARKED_AT},
        "events": [event(bad, PARKED_AT, topic=bad, event_id=bad, value={HOSTILE: HOSTILE}, state="refused: " + bad)],
    }
    orders.answers["health"] |= {"paused_types": [HOSTILE], "hanging": [HOSTILE]}
    held = {"pid": 1, "usename": HOSTILE, "datname": HOSTILE, "state": HOSTILE, "query": HOSTILE, "seconds": 60.0}
    refused = {"lane": 0, "xid": "1", "id": 1, "topic": bad, "key": bad, "reason": HOSTILE, "refused_at": PARKED_AT}
    orders.answers["lanes"] |= {"held_back_by": held, "refused": [refused]}
    orders.answers["lanes"]["lanes"][0]["owner"] = HOSTILE
    tried = {"parked_id": 4, "key": bad, "type": bad, "outcome": "failed", "detail": HOSTILE, "changes": {bad: bad}}
    orders.answers["dry-run"] = {
        "chosen": 1,
        "rehearsed": [
            tried | {"rows": {bad: [{bad: HOSTILE}]}, "events": [{"type": bad, "key": bad, "value": HOSTILE}]}
        ],
    }
    repair = {"id": 5, "action": "replay", "requested_by": bad, "reason": HOSTILE, "requested_at": PARKED_AT}
    repair |= {
        "outcome": bad,
        "ended_at": None,
        "counts": {bad: 1},
        "left": [{"parked_id": 4, "outcome": bad, "detail": bad}],
    }
    orders.answers |= {"repairs/5": repair, "repairs": {"repairs": [repair]}}
    attributes = {HOSTILE: HOSTILE, "quickbite.key": HOSTILE}
    console.telemetry.spans = [
        Span(TRACE_ID, "1" * 16, None, HOSTILE, HOSTILE, HOSTILE, START, START, HOSTILE, attributes, [])
    ]
    console.telemetry.logged = [
        LogLine(1, START, HOSTILE, "error", HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, HOSTILE, HOSTILE)
    ]
    console.alerts.found = [Alert(HOSTILE, HOSTILE, {HOSTILE: HOSTILE, "service": HOSTILE}, HOSTILE, HOSTILE, HOSTILE)]
    console.series.samples = {"parked_events": [Sample({"service": HOSTILE}, 1)]}
    query = "q=%3Cscript%3E%E2%80%AE&key=%3Cscript%3E%E2%80%AE&text=%22%3E%3Cscript%3E&service=%22%3E%3Cimg+src%3Dx%3E"
    for path in (
        *("/console/", "/console/orders/17", "/console/parked", "/console/parked/orders", "/console/parked/orders/4"),
        *("/console/repairs/orders/5", "/console/lanes", "/console/alerts", "/console/search?q=17", "/console/traces"),
        *(f"/console/traces/{TRACE_ID}", "/console/logs", "/console/charts", "/console/actions"),
        *(f"/console/{page}?{query}" for page in ("search", "logs", "traces", "parked/orders", "login")),
    ):
        page = await console.get(path)
        harmless(page)
        if "login" not in path and "search" not in path:
            assert "[U+202E]" in page or "?" in path, path
    answer = await console.post("/console/parked/orders/dry-run", ids=[4], expected=HOSTILE.replace("\x00", ""))
    harmless(await answer.text())
    await console.post("/console/parked/orders/replay", ids=[4], reason=HOSTILE.replace("\x00", ""), per_second="5")
    harmless(await console.get("/console/actions"))
    assert "[U+202E]" in await console.get("/console/actions")
    harmless(await (await console.post("/console/login", username=HOSTILE, password="x", next=HOSTILE)).text())


async def test_a_value_of_a_megabyte_is_cut_and_can_be_downloaded(console: Shop) -> None:
    orders = console.services["orders"]
    orders.park(parked_event())
    value = "<b>" + "x" * 1_000_000
    orders.answers["parked/4"]["value"] = value
    page = await console.get("/console/parked/orders/4")
    assert len(page) < 100_000
    assert "Cut: 1000003 characters in all." in page
    whole = await console.client.get("/console/parked/orders/4/value")
    assert (whole.content_type, whole.headers["Content-Disposition"]) == (
        "application/octet-stream",
        'attachment; filename="orders-4.txt"',
    )
    assert await whole.text() == value
    orders.answers["timeline/17"] |= {"events": [event("OrderCreated", PARKED_AT, value={"note": value})]}
    assert len(await console.get("/console/orders/17")) < 100_000


async def test_an_answer_without_an_end_is_given_up(console: Shop) -> None:
    console.services["orders"].answers["parked/4"] = {"value": "x" * (17 * 2**20)}
    answer = await console.client.get("/console/parked/orders/4")
    assert answer.status == 503


def test_odd_characters_are_shown_as_numbers() -> None:
    assert text.plain("a\u202eb\x00\r\ud800é\n\t") == "a[U+202E]b[U+0000][U+000D][U+D800]é\n\t"
    assert text.plain("e" + "\u0301" * 100) == "e" + "\u0301" * 4


# Search, traces, logs, charts, alerts


async def test_a_search_leads_to_what_an_id_belongs_to(console: Shop) -> None:
    console.services["orders"].answers["timeline/17"] |= {"row": {"id": 17}}
    sent = {"messaging.message.id": EVENT_ID}
    span = Span(TRACE_ID, "1" * 16, None, "orders", "POST", "server", START, START + 1, "ok", sent, [])
    console.telemetry.spans = [span]
    console.telemetry.logged = [LogLine(1, START, "orders", "info", "request abc-123", {}, TRACE_ID, "23")]
    page = await console.get(f"/console/search?q={EVENT_ID}")
    assert "Timeline of 17, which has this event" in page
    assert f"Trace {TRACE_ID}, which has this event" in page
    assert 'href="/console/orders/17"' in await console.get("/console/search?q=17")
    assert f'href="/console/traces/{TRACE_ID}"' in await console.get(f"/console/search?q={TRACE_ID.upper()}")
    assert 'href="/console/orders/23"' in await console.get("/console/search?q=abc-123")
    await console.get(f"/console/search?q={EVENT_ID}")
    assert console.telemetry.wanted.event_id == EVENT_ID
    assert 'id="nothing"' in await console.get("/console/search?q=nobody")


async def test_a_trace_is_a_waterfall_with_its_log_lines_and_can_be_exported(console: Shop) -> None:
    ms = 1_000_000
    console.telemetry.spans = [
        Span(TRACE_ID, "1" * 16, None, "orders", "POST /v1/orders", "server", START, START + 100 * ms, "ok", {}, []),
        Span(
            TRACE_ID,
            "2" * 16,
            "1" * 16,
            "payments",
            "charge",
            "client",
            START + 50 * ms,
            START + 75 * ms,
            "error",
            {"a": 1},
            [],
        ),
    ]
    console.telemetry.logged = [LogLine(9, START + 60 * ms, "payments", "warning", "declined", {}, TRACE_ID)]
    page = await console.get(f"/console/traces/{TRACE_ID}")
    assert '<rect class="error" x="500.0" y="1" width="250.0" height="8"/>' in page
    assert page.index("charge") < page.index("declined")
    assert 'class="d1"' in page
    exported = await console.client.get(f"/console/traces/{TRACE_ID}.json")
    scopes = [one for resource in (await exported.json())["resourceSpans"] for one in resource["scopeSpans"]]
    assert sorted(span["name"] for scope in scopes for span in scope["spans"]) == ["POST /v1/orders", "charge"]
    assert 'id="nothing"' in await console.get("/console/traces/" + "0" * 32)
    await console.get("/console/traces/nothing", 404)
    assert "charge" not in await console.get("/console/traces")


async def test_spans_whose_parents_form_a_circle_are_shown(console: Shop) -> None:
    console.telemetry.spans = [
        Span(TRACE_ID, "1" * 16, "2" * 16, "a", "one", "server", START, START, "ok", {}, []),
        Span(TRACE_ID, "2" * 16, "1" * 16, "a", "two", "server", START, START, "ok", {}, []),
    ]
    assert "two" in await console.get(f"/console/traces/{TRACE_ID}")


async def test_logs_are_searched_by_all_fields_and_older_lines_follow(console: Shop) -> None:
    console.telemetry.logged = [LogLine(n, START, "orders", "info", f"line {n}", {"a": n}) for n in range(300, 100, -1)]
    page = await console.get("/console/logs?text=line&service=orders&level=error&key=17&event_id=e&trace_id=t")
    wanted = console.telemetry.wanted
    assert (wanted.text, wanted.service, wanted.level, wanted.key) == ("line", "orders", "error", "17")
    assert (wanted.event_id, wanted.trace_id, wanted.before_id) == ("e", "t", None)
    assert "before=101" in page
    assert 'hx-trigger="every 2s"' in page
    page = await console.get("/console/logs?before=101&level=nonsense")
    assert (console.telemetry.wanted.before_id, console.telemetry.wanted.level) == (101, "")
    assert "hx-trigger" not in page


async def test_charts_have_their_figures_in_a_table_and_their_points_as_json(console: Shop) -> None:
    console.series.samples = {
        "parked_events": [Sample({"service": "orders"}, 3), Sample({"service": "users"}, float("nan"))]
    }
    page = await console.get("/console/charts?minutes=60")
    assert 'data-src="/console/charts/parked.json?minutes=60"' in page
    section = words(page[page.index('id="chart-parked"') :])
    assert "orders 3 3 3" in section
    found = await (await console.client.get("/console/charts/parked.json")).json()
    assert (found["names"], found["unit"], found["values"]) == (["orders", "users"], "events", [[3, 3], [None, None]])
    await console.get("/console/charts/none.json", 404)
    assert charts.MINUTES[0] == 15


async def test_alerts_have_their_rules_and_runbooks(console: Shop) -> None:
    console.alerts.found = [Alert("KeyParked", state="pending"), Alert("EventsLate")]
    page = await console.get("/console/alerts")
    assert page.index("✗ firing") < page.index("! pending")
    assert "outbox_oldest_unpublished_seconds &gt; 10" in page
    runbook = await console.get("/console/runbooks/parked-events")
    assert "<h1>Runbook: Parked events</h1>" in runbook
    await console.get("/console/runbooks/nothing", 404)


# Static files


@pytest.mark.parametrize("folder", [STATIC, VENDORED])
def test_the_vendored_files_are_those_of_the_list(folder: Path) -> None:
    listed = dict(reversed(line.split()) for line in (folder / "SUMS").read_text().splitlines())
    vendored = {file.name for file in folder.iterdir() if ".min." in file.name}
    assert listed.keys() == vendored
    for name, digest in listed.items():
        assert sha256((folder / name).read_bytes()).hexdigest() == digest, name


async def test_static_files_are_small_and_are_not_sent_twice(console: Shop) -> None:
    size = 0
    for name in ("htmx.min.js", "uPlot.iife.min.js", "uPlot.min.css", "console.css", "console.js"):
        answer = await console.client.get(f"/console/static/{name}")
        size += len(await answer.read())
        again = await console.client.get(f"/console/static/{name}", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status == 304
    assert size < 110_000
    for name in ("SUMS", "..%2fapp.py", "%2e%2e%2fapp.py", ""):
        assert (await console.client.get(f"/console/static/{name}", allow_redirects=False)).status == 404


async def test_pages_that_are_asked_for_at_once_do_not_wait_for_each_other(console: Shop, lag: Lag) -> None:
    console.services["payments"].hanging = True
    started = time.monotonic()
    await asyncio.gather(*(console.get("/console/lanes") for _ in range(10)))
    assert lag.elapsed(started) < 2.0
