"""The checker: what must be true of the whole system when the load is over and what was broken has been healed.

It looks at everything there is: the clients' history, every table, every topic from its first record, and the
provider's own ledger. One function per invariant; each returns complaints, and `test_checker.py` proves that it can.
"""

import asyncio
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias
from uuid import UUID

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from auth import consumer as auth
from contracts.catalogue import TOPICS
from inventory import consumer as inventory
from migrations.seed import CATALOGUE
from orders import consumer as orders
from payments import consumer as payments
from payments.worker import Worker
from shared import postgres
from shared.delivery.events import Record
from shared.delivery.outbox import DEAD_LETTER_SUFFIX
from tests.acceptance.client import Call, History
from tests.builders import as_record
from users import consumer as users

SERVICES = ("orders", "inventory", "payments")
"""Those that have a part in the saga."""
CONSUMERS = (*SERVICES, "auth", "users")
PUBLISHERS = (*CONSUMERS, "products")
START = {sku: units for _, sku, _, _, units in CATALOGUE}
QUIET_SECONDS = 60.0

Row: TypeAlias = Mapping[str, Any]
Place: TypeAlias = tuple[str, int, int]
"""Topic, partition and offset of a record."""

# What each service handles of each topic it listens to; the rest it skips.
_HANDLERS = {
    "orders": orders.HANDLERS,
    "inventory": inventory.HANDLERS,
    "payments": payments.handlers(Worker.__new__(Worker)),  # only asked for its types
    "auth": auth.HANDLERS,
    "users": users.HANDLERS,
}
LISTENS = {
    service: {(topic, model.__name__) for model in _HANDLERS[service] for topic in [model.topic]}  # type: ignore[attr-defined]
    for service in CONSUMERS
}


@dataclass(frozen=True)
class Poison:
    """A record that a test put into a topic by itself, and which services must park it."""

    place: Place
    parked_by: frozenset[str]


@dataclass
class Facts:
    """All there is to know at the end of a run."""

    history: History = field(default_factory=list)
    is_history_complete: bool = True
    """Whether every order and restock was asked for by a call in the history."""
    poison: list[Poison] = field(default_factory=list)
    orders: dict[int, Row] = field(default_factory=dict)
    reservations: dict[int, Row] = field(default_factory=dict)
    payments: dict[int, Row] = field(default_factory=dict)
    stock: list[Row] = field(default_factory=list)
    restocks: list[Row] = field(default_factory=list)
    movements: list[Row] = field(default_factory=list)
    outbox: list[Row] = field(default_factory=list)
    inbox: dict[str, set[UUID]] = field(default_factory=lambda: {service: set() for service in CONSUMERS})
    parked: list[Row] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    copies: dict[str, tuple[Row, Row]] = field(default_factory=dict)
    """What one service owns and what another has of it, by what it is."""

    @property
    def ours(self) -> list[Record]:
        """The records that the services themselves wrote."""
        injected = {one.place for one in self.poison}
        return [record for record in self.records if record[:3] not in injected]


def i1_accepted_orders_exist(facts: Facts) -> list[str]:
    """Who was told 202 has an order with that body, one key one order; who was told "refused" has none."""
    found = []
    by_key = defaultdict(list)
    for row in facts.orders.values():
        by_key[row["idempotency_key"]].append(row)
    calls = defaultdict(list)
    for call in facts.history:
        if call.kind == "place":
            calls[call.key].append(call)
    for key, tries in calls.items():
        there, told = by_key.get(key, []), {call.answer["id"] for call in tries if call.outcome == "ok"}
        if len(there) > 1 or len(told) > 1:
            found.append(f"I1: key {key} made orders {[row['id'] for row in there]}, told {told}")
        if told and told != {row["id"] for row in there}:
            found.append(f"I1: key {key} was told 202 for {told}, there is {[row['id'] for row in there]}")
        if there and all(call.outcome == "failed" for call in tries):
            found.append(f"I1: key {key} was refused each time, and order {there[0]['id']} exists")
        found += [
            f"I1: order {row['id']} is {dict(row)}, not {tries[0].body}" for row in there if _differs(row, tries[0])
        ]
    strangers = [row["id"] for key, rows in by_key.items() if key not in calls for row in rows]
    if not facts.is_history_complete:
        strangers = []
    return found + [f"I1: nobody asked for order {id_}" for id_ in strangers]


def _differs(row: Row, call: Call) -> bool:
    body = call.body or {}
    asked = (body["userId"], body["sku"], body["quantity"], body.get("note", ""))
    return asked != (row["user_id"], row["sku"], row["quantity"], row["note"])


def i2_orders_are_final(facts: Facts) -> list[str]:
    """Every order is CONFIRMED or CANCELLED."""
    final = {"CONFIRMED", "CANCELLED"}
    return [f"I2: order {id_} is {row['status']}" for id_, row in facts.orders.items() if row["status"] not in final]


_LEDGER_OF = {
    ("SUCCEEDED", None): {("capture",)},
    ("REFUNDED", None): {("capture", "refund")},
    ("FAILED", "payment_declined"): {("decline",)},
    ("FAILED", "deadline_passed"): {(), ("void",), ("capture", "refund")},
    ("CANCELLED", None): {(), ("void",), ("decline",), ("capture", "refund")},
}


def i3_money_is_right(facts: Facts) -> list[str]:
    """At most one capture an order; kept is the amount if CONFIRMED, else nothing; ledger and payments agree."""
    ledger: dict[str, list[Row]] = defaultdict(list)
    for row in facts.movements:
        ledger[row["key"]].append(row)
    unknown = ledger.keys() - {f"order:{id_}" for id_ in facts.payments}
    found = [f"I3: the provider has {key}, payments does not" for key in unknown]
    for id_, order in facts.orders.items():
        moves = ledger.get(f"order:{id_}", [])
        kinds = Counter(row["kind"] for row in moves)
        kept = sum(row["amount_cents"] * {"capture": 1, "refund": -1}.get(row["kind"], 0) for row in moves)
        due = order["amount_cents"] if order["status"] == "CONFIRMED" else 0
        if kinds["capture"] > 1 or kept != due:
            found.append(f"I3: order {id_} is {order['status']}, to pay {due}, kept {kept} by {dict(kinds)}")
    for id_, payment in facts.payments.items():
        kinds_in_order = tuple(row["kind"] for row in sorted(ledger[f"order:{id_}"], key=lambda row: row["n"]))
        if kinds_in_order not in _LEDGER_OF.get((payment["status"], payment["reason"]), set()):
            found.append(
                f"I3: payment {id_} is {payment['status']} {payment['reason']}, the ledger says {kinds_in_order}"
            )
    return found


def i4_stock_is_conserved(facts: Facts) -> list[str]:
    """What was there or came in is available, held or sold, none below 0; held and sold are what reservations say."""
    found = stock_complaints(facts.stock) + _restock_complaints(facts)
    for status, column in (("HELD", "held"), ("SOLD", "sold")):
        units = Counter[str]()
        for row in facts.reservations.values():
            units[row["sku"]] += row["quantity"] if row["status"] == status else 0
        for row in facts.stock:
            if row[column] != units[row["sku"]]:
                found.append(f"I4: {row['sku']} has {row[column]} {column}, reservations say {units[row['sku']]}")
    return found


def stock_complaints(stock: Iterable[Row]) -> list[str]:
    """The part of I4 that holds at every moment."""
    return [
        f"I4: {dict(row)} of {START.get(row['sku'], 0)}"
        for row in stock
        if row["available"] + row["held"] + row["sold"] != START.get(row["sku"], 0) + row["restocked"]
        or min(row["available"], row["held"], row["sold"]) < 0
    ]


def _restock_complaints(facts: Facts) -> list[str]:
    """What came in is what was asked for, once a key."""
    there = {row["key"]: {"sku": row["sku"], "quantity": row["quantity"]} for row in facts.restocks}
    asked = {call.key: call.body for call in facts.history if call.kind == "restock"}
    told = {call.key: call.body for call in facts.history if call.kind == "restock" and call.outcome == "ok"}
    found = [
        f"I4: restock {key} was told 200, there is {there.get(key)}" for key in told if told[key] != there.get(key)
    ]
    strangers = [key for key in there if there[key] != asked.get(key)] if facts.is_history_complete else []
    return found + [f"I4: nobody asked for restock {key}" for key in strangers]


def i5_services_agree(facts: Facts) -> list[str]:
    """CONFIRMED: the stock is sold and the money taken. CANCELLED: nobody holds anything for it. Copies are right."""
    found = []
    for id_, order in facts.orders.items():
        reservation = facts.reservations.get(id_, {}).get("status", "none")
        payment = facts.payments.get(id_, {}).get("status", "none")
        done = reservation == "SOLD" and payment == "SUCCEEDED"
        nothing = reservation not in {"HELD", "SOLD", "CONFIRMED"} and payment not in {
            "PENDING",
            "SUCCEEDED",
            "REFUNDING",
        }
        if not {"CONFIRMED": done, "CANCELLED": nothing}.get(order["status"], False):
            found.append(f"I5: order {id_} is {order['status']}, reservation {reservation}, payment {payment}")
    strangers = (facts.reservations.keys() | facts.payments.keys()) - facts.orders.keys()
    found += [f"I5: order {id_} is known to others, not to orders" for id_ in strangers]
    for what, (owned, copied) in facts.copies.items():
        differ = {key for key in owned.keys() | copied.keys() if owned.get(key) != copied.get(key)}
        found += [f"I5: {what} {key} is {owned.get(key)}, copied {copied.get(key)}" for key in differ]
    return found


_HISTORIES = {
    "orders.events": r"OrderCreated,Order(Confirmed|Cancelled)",
    "inventory.events": r"InventoryReserved(,InventoryReleased)?|InventoryRejected",
    "payments.events": r"PaymentSucceeded(,PaymentRefunded)?|PaymentFailed",
    "products.events": r"ProductCreated(,ProductChanged)*",
    "auth.events": r"UserRegistered",
}


def i6_histories_are_valid(facts: Facts) -> list[str]:
    """Of each key: one partition, versions without gap, first occurrences in order, and a history that can be."""
    found = []
    first: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for record in sorted(facts.ours, key=lambda r: r[:3]):
        if record.topic in _HISTORIES:
            first[record.topic, (record.key or b"").decode()].setdefault(header(record, "ce_id"), record)
    for (topic, key), events in first.items():
        versions = [orjson.loads(record.value or b"")["version"] for record in events.values()]
        types = ",".join(header(record, "ce_type") for record in events.values())
        if versions != list(range(1, len(versions) + 1)) or not re.fullmatch(_HISTORIES[topic], types):
            found.append(f"I6: {topic} of {key} has {types} with versions {versions}")
        if len({record.partition for record in events.values()}) > 1:
            found.append(f"I6: {topic} of {key} is in several partitions")
    for id_, order in facts.orders.items():
        end = f"Order{order['status'].capitalize()}"
        if end not in {header(r, "ce_type") for r in first["orders.events", str(id_)].values()}:
            found.append(f"I6: order {id_} is {order['status']}, and no event says so")
    return found


def i7_outbox_is_in_kafka(facts: Facts) -> list[str]:
    """Every outbox row is in Kafka, byte for byte, and nothing is in Kafka that is in no outbox."""
    there = {header(record, "ce_id"): record for record in facts.ours}
    rows = {str(row["event_id"]): row for row in facts.outbox}
    found = [f"I7: {rows[id_]['type']} of {rows[id_]['key']} is not in Kafka" for id_ in rows.keys() - there.keys()]
    found += [f"I7: {there[id_][:3]} is in no outbox" for id_ in there.keys() - rows.keys()]
    for id_ in rows.keys() & there.keys():
        row, record = rows[id_], there[id_]
        if (row["topic"], row["key"].encode(), row["value"]) != (record.topic, record.key, record.value):
            found.append(f"I7: {record[:3]} differs from its outbox row")
    return found


def i8_effects_are_distinct_events(facts: Facts) -> list[str]:
    """Each consumer has handled every event that is its business, once: rows' versions count what was told of them."""
    found = []
    for service in CONSUMERS:
        due = {
            UUID(header(record, "ce_id"))
            for record in facts.ours
            if (record.topic, header(record, "ce_type")) in LISTENS[service]
        }
        poisoned = {row["event_id"] for row in facts.parked if row["consumer"] == service}
        missing, extra = due - facts.inbox[service], facts.inbox[service] - due - poisoned
        if missing or extra:
            found.append(f"I8: {service} has not handled {len(missing)} {list(missing)[:3]}, has {len(extra)} unknown")
    told = Counter((row["topic"], row["key"]) for row in facts.outbox)
    for topic, rows in (
        ("orders.events", facts.orders),
        ("inventory.events", facts.reservations),
        ("payments.events", facts.payments),
    ):
        for id_, row in rows.items():
            if row["version"] != told[topic, str(id_)]:
                found.append(
                    f"I8: {topic} told {told[topic, str(id_)]} times of {id_}, whose version is {row['version']}"
                )
    return found


def i9_polls_never_go_back(facts: Facts) -> list[str]:
    """An order that was accepted is found; once it was seen final it stays so; a cancel that was accepted holds."""
    found = []
    polls: dict[int, list[Call]] = defaultdict(list)
    for call in facts.history:
        if call.kind == "get" and call.order_id is not None and call.status in {200, 404}:
            polls[call.order_id].append(call)
    for id_, calls in polls.items():
        calls.sort(key=lambda call: call.started)
        for before, after in pairwise(calls):
            was, is_ = (call.answer.get("status") for call in (before, after))
            if before.ended <= after.started and was not in {is_, "PENDING"}:
                found.append(f"I9: order {id_} was {was} and became {is_}")
        row = facts.orders.get(id_, {})
        ends = {call.answer.get("status") for call in calls} - {"PENDING"}
        if ends - {row.get("status")}:
            found.append(f"I9: order {id_} was seen {ends}, and is {row.get('status')}")
    for call in facts.history:
        if call.kind == "cancel" and call.outcome == "ok" and call.order_id is not None:
            reason = facts.orders.get(call.order_id, {}).get("reason")
            if reason != "cancelled_by_customer":
                found.append(f"I9: cancelling order {call.order_id} was accepted, and it is cancelled for {reason}")
    return found


def i10_parked_is_the_poison(facts: Facts) -> list[str]:
    """Parked is what was injected, exactly, and each has a letter in its dead letter topic."""
    expected = Counter((service, one.place) for one in facts.poison for service in one.parked_by)
    parked = Counter((row["consumer"], (row["topic"], row["partition"], row["offset"])) for row in facts.parked)
    found = [f"I10: {where} is parked and should not be" for where in parked - expected]
    found += [f"I10: {where} is not parked" for where in expected - parked]
    letters = Counter[tuple[str, Place]]()
    for record in {header(r, "ce_id"): r for r in facts.ours if r.topic.endswith(DEAD_LETTER_SUFFIX)}.values():
        letter = orjson.loads(record.value or b"")
        letters[letter["consumer"], (letter["topic"], letter["partition"], letter["offset"])] += 1
    return found + [f"I10: {where} has {letters[where]} letters" for where in expected | letters if letters[where] != 1]


def i11_nobody_saw_anothers(facts: Facts) -> list[str]:
    """Orders, alone and in lists, payments and profiles were shown to their owners only."""
    found = []
    for call in facts.history:
        if call.caller is None:
            continue
        shown = [call.answer, *call.answer.get("orders", []), *call.answer.get("users", [])]
        owners = {one["userId"] for one in shown if "userId" in one}
        owners |= {str(one["id"]) for one in shown if "display_name" in one}
        owners |= {facts.orders.get(one["order_id"], {}).get("user_id") for one in shown if "order_id" in one}
        if owners - {call.caller}:
            found.append(f"I11: {call.kind} by {call.caller or 'nobody'} was shown what is of {owners}")
    return found


INVARIANTS: tuple[Callable[[Facts], list[str]], ...] = (
    i1_accepted_orders_exist,
    i2_orders_are_final,
    i3_money_is_right,
    i4_stock_is_conserved,
    i5_services_agree,
    i6_histories_are_valid,
    i7_outbox_is_in_kafka,
    i8_effects_are_distinct_events,
    i9_polls_never_go_back,
    i10_parked_is_the_poison,
    i11_nobody_saw_anothers,
)


def complaints(facts: Facts) -> list[str]:
    """All that is wrong."""
    return [complaint for invariant in INVARIANTS for complaint in invariant(facts)]


def header(record: Record, name: str) -> str:
    """A header of a record as text, or nothing."""
    return next(((value or b"").decode(errors="replace") for key, value in record.headers if key == name), "")


class Reader:
    """Reads topics from their first records, and how far consumer groups have come; belongs to no group itself."""

    def __init__(self, kafka: str) -> None:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False, fetch_max_wait_ms=50)
        self._admin = AIOKafkaAdminClient(bootstrap_servers=kafka)

    async def __aenter__(self) -> "Reader":
        await self._consumer.start()
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()
        await self._consumer.stop()

    async def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """Where each partition ends."""
        described = await self._admin.describe_topics(list(topics))
        all_ = [TopicPartition(one["topic"], p["partition"]) for one in described for p in one["partitions"]]
        return dict(await self._consumer.end_offsets(all_))

    async def everything(self, topics: Iterable[str]) -> list[Record]:
        """Every record there is, each partition in order."""
        ends = await self.ends(topics)
        self._consumer.assign(list(ends))
        await self._consumer.seek_to_beginning(*ends)
        records: list[Record] = []
        while any([await self._consumer.position(tp) < end for tp, end in ends.items()]):
            for some in (await self._consumer.getmany(timeout_ms=500)).values():
                records += [as_record(record) for record in some]
        return records

    async def lag(self, group: str, topics: Iterable[str]) -> int:
        """How many records the group has still to read."""
        ends = await self.ends(topics)
        done = await self._admin.list_consumer_group_offsets(group)
        return sum(end - (max(0, done[tp].offset) if tp in done else 0) for tp, end in ends.items())


_STOCK = """
select s.*, coalesce((select sum(quantity) from inventory.restocks r where r.sku = s.sku), 0)::bigint as restocked
  from inventory.stock s
"""
_PRODUCT = "jsonb_build_array(sku, name, price_cents, currency, active, version)"
_COPIES = {
    "product": (
        f"select id, {_PRODUCT} from products.products",
        f"select product_id, {_PRODUCT} from orders.products",
    ),
    "user": (
        "select user_id, case when disabled_at is null then username end from auth.credentials",
        "select user_id, case when deleted_at is null then username end from users.profiles",
    ),
}


async def _by_key(conn: postgres.Plain, query: str) -> Row:
    return {str(key): value for key, value in await conn.fetch(query)}


async def gather(database_url: str, kafka: str) -> Facts:
    """Read everything."""
    facts = Facts()
    conn = await postgres.connect(database_url)
    try:
        facts.orders = {row["id"]: row for row in await conn.fetch("select * from orders.orders")}
        facts.reservations = {row["order_id"]: row for row in await conn.fetch("select * from inventory.reservations")}
        facts.payments = {row["order_id"]: row for row in await conn.fetch("select * from payments.payments")}
        facts.stock = await conn.fetch(_STOCK)
        facts.restocks = await conn.fetch("select * from inventory.restocks")
        facts.copies = {what: (await _by_key(conn, a), await _by_key(conn, b)) for what, (a, b) in _COPIES.items()}
        facts.movements = await conn.fetch("select * from provider.movements")
        for service in PUBLISHERS:
            facts.outbox += await conn.fetch(f"select event_id, topic, key, type, value from {service}.outbox")
            facts.inbox[service] = {row[0] for row in await conn.fetch(f"select event_id from {service}.inbox")}
            facts.parked += await conn.fetch(f"select * from {service}.parked")
    finally:
        await conn.close()
    async with Reader(kafka) as reader:
        facts.records = await reader.everything([*TOPICS, *(topic + DEAD_LETTER_SUFFIX for topic in TOPICS)])
    return facts


async def quiet(database_url: str, kafka: str, seconds: float = QUIET_SECONDS) -> float:
    """Wait until outbox, lag, and open orders and payments are zero; returns how long it took.

    Longer than `seconds` is a failure by itself.
    """
    started, left = time.monotonic(), dict[str, int]()
    conn = await postgres.connect(database_url)
    try:
        async with Reader(kafka) as reader:
            while time.monotonic() < started + seconds:
                before = await _written(conn)
                left = await _open(conn)
                if not any(left.values()):
                    with suppress(KafkaError):  # a broker that has just come back does not know its groups yet
                        left = await _lags(reader)
                        if not any(left.values()) and before == await _written(conn):
                            return time.monotonic() - started
                await asyncio.sleep(0.2)
    finally:
        await conn.close()
    raise AssertionError(f"after {seconds:.0f} s there is still { {k: v for k, v in left.items() if v} }")


async def _written(conn: postgres.Plain) -> list[int]:
    return [await conn.fetchval(f"select last_value from {service}.outbox_id_seq") for service in PUBLISHERS]


async def _open(conn: postgres.Plain) -> dict[str, int]:
    found = {
        "orders": await conn.fetchval("select count(*) from orders.orders where status = 'PENDING'"),
        "payments": await conn.fetchval(
            "select count(*) from payments.payments where status in ('PENDING', 'REFUNDING')"
        ),
    }
    for service in PUBLISHERS:
        found[f"outbox of {service}"] = await conn.fetchval(
            f"select count(*) from {service}.outbox o join {service}.outbox_lanes l using (lane) "
            "where (o.xid, o.id) > (l.xid, l.id)"
        )
    return found


async def _lags(reader: Reader) -> dict[str, int]:
    listened = {service: {topic for topic, _ in LISTENS[service]} for service in CONSUMERS}
    return {f"lag of {service}": await reader.lag(service, topics) for service, topics in listened.items()}


@asynccontextmanager
async def watching_stock(database_url: str, every_seconds: float = 0.1) -> AsyncIterator[list[str]]:
    """Look at the stock all the time, whenever Postgres lets us; yields the complaints, which must stay empty."""
    found: list[str] = []

    async def watch() -> None:
        while True:
            with suppress(*postgres.ERRORS):
                conn = await postgres.connect(database_url)
                try:
                    while True:
                        found.extend(stock_complaints(await conn.fetch(_STOCK)))
                        await asyncio.sleep(every_seconds)
                finally:
                    conn.terminate()
            await asyncio.sleep(every_seconds)

    task = asyncio.create_task(watch())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
