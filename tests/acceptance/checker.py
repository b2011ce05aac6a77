"""The checker: what must be true of the whole system when the load is over and all faults are repaired.

It reads everything: the clients' history, every table, every topic from its first record, and the provider's own
ledger. There is one function per invariant, which returns complaints. `test_checker.py` proves that each finds errors.
"""

import asyncio
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
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
from shared.delivery.kafka import Brokers
from shared.delivery.outbox import DEAD_LETTER_SUFFIX
from tests.acceptance.client import Call, History
from tests.builders import as_record
from users import consumer as users

SERVICES = ("orders", "inventory", "payments")
"""The services that take part in the saga."""
CONSUMERS = (*SERVICES, "auth", "users")
PUBLISHERS = (*CONSUMERS, "products")
START = {sku: units for _, sku, _, _, units in CATALOGUE}
QUIET_SECONDS = 60.0

Row: TypeAlias = Any
Position: TypeAlias = tuple[str, int, int]
"""Topic, partition and offset of a record."""

# The handlers of each service. A service skips events of all other types.
_HANDLERS = {
    "orders": orders.HANDLERS,
    "inventory": inventory.HANDLERS,
    "payments": payments.handlers(Worker.__new__(Worker)),  # only the types are read
    "auth": auth.HANDLERS,
    "users": users.HANDLERS,
}
STATES = {model.__name__ for model in (*orders.STATES, *inventory.STATES)}
"""Types that are handled each time they come. They are not in the inbox."""
HANDLED = {
    service: {(topic, model.__name__) for model in _HANDLERS[service] for topic in [model.topic]}  # type: ignore[attr-defined]
    for service in CONSUMERS
}


@dataclass(frozen=True)
class Poison:
    """A record that a test wrote into a topic itself, and the services that must park it."""

    position: Position
    parked_by: frozenset[str]


@dataclass
class Evidence:
    """Everything that is known at the end of a run."""

    history: History = field(default_factory=list)
    is_history_complete: bool = True
    """True if every order and restock was requested by a call in the history."""
    poison: list[Poison] = field(default_factory=list)
    new_types: set[tuple[str, str]] = field(default_factory=set)
    """Topic and type of events that the next release writes. Each consumer of the topic handles or parks them."""
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
    """By kind of data: the rows of the service that owns them, and the copies in another service."""

    def provider_key(self, order_id: int) -> str:
        """The provider's idempotency key of an order."""
        row = self.payments.get(order_id) or self.orders.get(order_id) or {}
        return row.get("payment_reference") or f"order:{order_id}"

    @property
    def ours(self) -> list[Record]:
        """The records that the services themselves wrote."""
        injected = {one.position for one in self.poison}
        return [record for record in self.records if record[:3] not in injected]


def i1_accepted_orders_exist(evidence: Evidence) -> list[str]:
    """A key that was accepted has one order, with the requested body. A key that was only refused has no order."""
    found = []
    by_key = defaultdict(list)
    for row in evidence.orders.values():
        by_key[row["idempotency_key"]].append(row)
    calls = defaultdict(list)
    for call in evidence.history:
        if call.kind == "place":
            calls[call.key].append(call)
    for key, tries in calls.items():
        stored, accepted = by_key.get(key, []), {call.answer["id"] for call in tries if call.outcome == "ok"}
        if len(stored) > 1 or len(accepted) > 1:
            found.append(f"I1: key {key} has orders {[row['id'] for row in stored]}, accepted were {accepted}")
        if accepted and accepted != {row["id"] for row in stored}:
            found.append(f"I1: key {key} was accepted as {accepted}, but stored as {[row['id'] for row in stored]}")
        if stored and all(call.outcome == "failed" for call in tries):
            found.append(f"I1: key {key} was refused each time, but order {stored[0]['id']} exists")
        found += [
            f"I1: order {row['id']} is {dict(row)}, not {tries[0].body}" for row in stored if _differs(row, tries[0])
        ]
    unrequested = [row["id"] for key, rows in by_key.items() if key not in calls for row in rows]
    if not evidence.is_history_complete:
        unrequested = []
    return found + [f"I1: no client requested order {id_}" for id_ in unrequested]


def _differs(row: Row, call: Call) -> bool:
    body = call.body or {}
    requested = (body["userId"], body["sku"], body["quantity"], body.get("note", ""))
    return requested != (row["user_id"], row["sku"], row["quantity"], row["note"])


def i2_orders_are_final(evidence: Evidence) -> list[str]:
    """Every order is CONFIRMED or CANCELLED."""
    final = {"CONFIRMED", "CANCELLED"}
    return [f"I2: order {id_} is {row['status']}" for id_, row in evidence.orders.items() if row["status"] not in final]


_LEDGER_OF: dict[tuple[Any, Any], set[Any]] = {
    ("SUCCEEDED", None): {("capture",)},
    ("REFUNDED", None): {("capture", "refund")},
    ("FAILED", "payment_declined"): {("decline",)},
    ("FAILED", "deadline_passed"): {(), ("void",), ("capture", "refund")},
    ("CANCELLED", None): {(), ("void",), ("decline",), ("capture", "refund")},
}


def i3_money_is_right(evidence: Evidence) -> list[str]:
    """An order has at most one capture.

    The amount of a CONFIRMED order is kept; of any other order nothing is kept. Ledger and payments agree.
    """
    ledger: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.movements:
        ledger[row["key"]].append(row)
    unknown = ledger.keys() - {evidence.provider_key(id_) for id_ in evidence.payments}
    found = [f"I3: {key} is in the provider's ledger, but not in payments" for key in unknown]
    for id_, order in evidence.orders.items():
        moves = ledger.get(evidence.provider_key(id_), [])
        kinds = Counter(row["kind"] for row in moves)
        kept = sum(row["amount_cents"] * {"capture": 1, "refund": -1}.get(row["kind"], 0) for row in moves)
        due = order["amount_cents"] if order["status"] == "CONFIRMED" else 0
        if kinds["capture"] > 1 or kept != due:
            found.append(f"I3: order {id_} is {order['status']}, to pay {due}, kept {kept} by {dict(kinds)}")
    for id_, payment in evidence.payments.items():
        wanted = evidence.orders.get(id_, {}).get("payment_reference")
        if payment.get("payment_reference") != wanted and payment["amount_cents"]:  # a tombstone has none
            found.append(f"I3: order {id_} has another payment reference than its payment")
        kinds_in_order = tuple(
            row["kind"] for row in sorted(ledger[evidence.provider_key(id_)], key=lambda row: row["n"])
        )
        if kinds_in_order not in _LEDGER_OF.get((payment["status"], payment["reason"]), set()):
            found.append(
                f"I3: payment {id_} is {payment['status']} {payment['reason']}, the ledger has {kinds_in_order}"
            )
    return found


def i4_stock_is_conserved(evidence: Evidence) -> list[str]:
    """Initial stock plus restocks equals available + held + sold, and none of them is below 0.

    `held` and `sold` equal the sums of the reservations.
    """
    found = stock_complaints(evidence.stock) + _restock_complaints(evidence)
    for status, column in (("HELD", "held"), ("SOLD", "sold")):
        units = Counter[str]()
        for row in evidence.reservations.values():
            units[row["sku"]] += row["quantity"] if row["status"] == status else 0
        for row in evidence.stock:
            if row[column] != units[row["sku"]]:
                found.append(f"I4: {row['sku']} has {row[column]} {column}, reservations have {units[row['sku']]}")
    return found


def stock_complaints(stock: Iterable[Row]) -> list[str]:
    """The part of I4 that holds at every moment."""
    return [
        f"I4: {dict(row)} of {START.get(row['sku'], 0)}"
        for row in stock
        if row["available"] + row["held"] + row["sold"] != START.get(row["sku"], 0) + row["restocked"]
        or min(row["available"], row["held"], row["sold"]) < 0
    ]


def _restock_complaints(evidence: Evidence) -> list[str]:
    """Every restock was requested, and each key is applied once."""
    stored = {row["key"]: {"sku": row["sku"], "quantity": row["quantity"]} for row in evidence.restocks}
    requested = {call.key: call.body for call in evidence.history if call.kind == "restock"}
    accepted = {call.key: call.body for call in evidence.history if call.kind == "restock" and call.outcome == "ok"}
    found = [
        f"I4: restock {key} was accepted, but stored is {stored.get(key)}"
        for key in accepted
        if accepted[key] != stored.get(key)
    ]
    unrequested = [key for key in stored if stored[key] != requested.get(key)] if evidence.is_history_complete else []
    return found + [f"I4: no client requested restock {key}" for key in unrequested]


def i5_services_agree(evidence: Evidence) -> list[str]:
    """CONFIRMED: the stock is sold and paid. CANCELLED: no stock and no money is kept. Copies equal their originals."""
    found = []
    for id_, order in evidence.orders.items():
        reservation = evidence.reservations.get(id_, {}).get("status", "none")
        payment = evidence.payments.get(id_, {}).get("status", "none")
        done = reservation == "SOLD" and payment == "SUCCEEDED"
        nothing = reservation not in {"HELD", "SOLD", "CONFIRMED"} and payment not in {
            "PENDING",
            "SUCCEEDED",
            "REFUNDING",
        }
        if not {"CONFIRMED": done, "CANCELLED": nothing}.get(order["status"], False):
            found.append(f"I5: order {id_} is {order['status']}, reservation {reservation}, payment {payment}")
    missing = (evidence.reservations.keys() | evidence.payments.keys()) - evidence.orders.keys()
    found += [f"I5: order {id_} is in inventory or payments, but not in orders" for id_ in missing]
    for what, (owned, copied) in evidence.copies.items():
        differ = {key for key in owned.keys() | copied.keys() if owned.get(key) != copied.get(key)}
        found += [f"I5: {what} {key} is {owned.get(key)}, the copy is {copied.get(key)}" for key in differ]
    return found


_HISTORIES = {
    "orders.events": r"OrderCreated,Order(Confirmed|Cancelled)",
    "inventory.events": r"InventoryReserved(,InventoryReleased)?|InventoryRejected",
    "payments.events": r"PaymentSucceeded(,PaymentRefunded)?|PaymentFailed",
    "products.events": r"ProductCreated(,ProductChanged)*",
    "auth.events": r"UserRegistered",
}


def i6_histories_are_valid(evidence: Evidence) -> list[str]:
    """The events of a key are in one partition, with versions in order, without gaps, in a possible sequence."""
    found = []
    first: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
    for record in sorted(evidence.ours, key=lambda r: r[:3]):
        if record.topic in _HISTORIES:
            first[record.topic, (record.key or b"").decode()].setdefault(header(record, "ce_id"), record)
    for (topic, key), events in first.items():
        versions = [orjson.loads(record.value or b"")["version"] for record in events.values()]
        found_types = [header(record, "ce_type") for record in events.values()]
        types = ",".join(type_ for type_ in found_types if (topic, type_) not in evidence.new_types)
        if versions != list(range(1, len(versions) + 1)) or not re.fullmatch(_HISTORIES[topic], types):
            found.append(f"I6: {topic} of {key} has {types} with versions {versions}")
        if len({record.partition for record in events.values()}) > 1:
            found.append(f"I6: {topic} of {key} is in several partitions")
    for id_, order in evidence.orders.items():
        end = f"Order{order['status'].capitalize()}"
        if end not in {header(r, "ce_type") for r in first["orders.events", str(id_)].values()}:
            found.append(f"I6: order {id_} is {order['status']}, but has no {end}")
    return found


def i7_outbox_is_in_kafka(evidence: Evidence) -> list[str]:
    """Every outbox row is in Kafka, byte for byte, and every record in Kafka is in an outbox."""
    there = {header(record, "ce_id"): record for record in evidence.ours}
    rows = {str(row["event_id"]): row for row in evidence.outbox}
    found = [f"I7: {rows[id_]['type']} of {rows[id_]['key']} is not in Kafka" for id_ in rows.keys() - there.keys()]
    found += [f"I7: {there[id_][:3]} is in no outbox" for id_ in there.keys() - rows.keys()]
    for id_ in rows.keys() & there.keys():
        row, record = rows[id_], there[id_]
        if (row["topic"], row["key"].encode(), row["value"]) != (record.topic, record.key, record.value):
            found.append(f"I7: {record[:3]} differs from its outbox row")
    return found


def i8_each_event_is_handled_once(evidence: Evidence) -> list[str]:
    """Each consumer has handled each of its events once.

    The version of a row equals the number of events that were published for it.
    """
    found = []
    for service in CONSUMERS:
        topics = {topic for topic, _ in HANDLED[service]}
        types = HANDLED[service] | {new for new in evidence.new_types if new[0] in topics}
        due = {
            UUID(header(record, "ce_id"))
            for record in evidence.ours
            if (record.topic, header(record, "ce_type")) in types and header(record, "ce_type") not in STATES
        }
        poisoned = {row["event_id"] for row in evidence.parked if row["consumer"] == service}
        missing, extra = due - evidence.inbox[service], evidence.inbox[service] - due - poisoned
        if missing or extra:
            found.append(f"I8: {service} has not handled {len(missing)} {list(missing)[:3]}, has {len(extra)} unknown")
    published = Counter((row["topic"], row["key"]) for row in evidence.outbox)
    for topic, rows in (
        ("orders.events", evidence.orders),
        ("inventory.events", evidence.reservations),
        ("payments.events", evidence.payments),
    ):
        for id_, row in rows.items():
            if row["version"] != published[topic, str(id_)]:
                found.append(
                    f"I8: {topic} has {published[topic, str(id_)]} events of {id_}, whose version is {row['version']}"
                )
    return found


def i9_polls_never_go_back(evidence: Evidence) -> list[str]:
    """An accepted order is found, a final status never changes, and an accepted cancellation stays."""
    found = []
    polls: dict[int, list[Call]] = defaultdict(list)
    for call in evidence.history:
        if call.kind == "get" and call.order_id is not None and call.status in {200, 404}:
            polls[call.order_id].append(call)
    for id_, calls in polls.items():
        calls.sort(key=lambda call: call.started)
        for before, after in pairwise(calls):
            was, is_ = (call.answer.get("status") for call in (before, after))
            if before.ended <= after.started and was not in {is_, "PENDING"}:
                found.append(f"I9: order {id_} was {was} and became {is_}")
        row = evidence.orders.get(id_, {})
        ends = {call.answer.get("status") for call in calls} - {"PENDING"}
        if ends - {row.get("status")}:
            found.append(f"I9: order {id_} was seen {ends}, and is {row.get('status')}")
    for call in evidence.history:
        if call.kind == "cancel" and call.outcome == "ok" and call.order_id is not None:
            reason = evidence.orders.get(call.order_id, {}).get("reason")
            if reason != "cancelled_by_customer":
                found.append(f"I9: cancelling order {call.order_id} was accepted, but its reason is {reason}")
    return found


def i10_only_poison_is_parked(evidence: Evidence) -> list[str]:
    """Exactly the injected poison is parked, and events of new types. Each parked event has one dead letter."""
    expected = Counter((service, one.position) for one in evidence.poison for service in one.parked_by)
    expected += Counter(_unknown_to_a_release(evidence).values())
    parked = Counter((row["consumer"], _position(row)) for row in evidence.parked)
    found = [f"I10: {where} is parked and should not be" for where in parked - expected]
    found += [f"I10: {where} is not parked" for where in expected - parked]
    letters = Counter[tuple[str, Position]]()
    for record in {header(r, "ce_id"): r for r in evidence.ours if r.topic.endswith(DEAD_LETTER_SUFFIX)}.values():
        letter = orjson.loads(record.value or b"")
        letters[letter["consumer"], (letter["topic"], letter["partition"], letter["offset"])] += 1
    return found + [
        f"I10: {where} has {letters[where]} dead letters" for where in expected | letters if letters[where] != 1
    ]


def _unknown_to_a_release(evidence: Evidence) -> dict[tuple[str, UUID], tuple[str, Position]]:
    """Where the events of new types are parked that block nothing: one place for each consumer and event."""
    return {
        (row["consumer"], row["event_id"]): (row["consumer"], _position(row))
        for row in evidence.parked
        if (row["topic"], row["type"]) in evidence.new_types
        and (row["error"], row["blocks"]) == (f"unknown_type: {row['type']}", False)
    }


def _position(row: Row) -> Position:
    return row["topic"], row["partition"], row["offset"]


def i11_users_see_only_their_own_data(evidence: Evidence) -> list[str]:
    """Only its owner sees an order, a payment or a profile, alone or in a list."""
    found = []
    for call in evidence.history:
        if call.caller is None:
            continue
        shown = [call.answer, *call.answer.get("orders", []), *call.answer.get("users", [])]
        owners = {one["userId"] for one in shown if "userId" in one}
        owners |= {str(one["id"]) for one in shown if "display_name" in one}
        owners |= {evidence.orders.get(one["order_id"], {}).get("user_id") for one in shown if "order_id" in one}
        if owners - {call.caller}:
            found.append(f"I11: {call.kind} by {call.caller or 'nobody'} saw data of {owners}")
    return found


INVARIANTS: tuple[Callable[[Evidence], list[str]], ...] = (
    i1_accepted_orders_exist,
    i2_orders_are_final,
    i3_money_is_right,
    i4_stock_is_conserved,
    i5_services_agree,
    i6_histories_are_valid,
    i7_outbox_is_in_kafka,
    i8_each_event_is_handled_once,
    i9_polls_never_go_back,
    i10_only_poison_is_parked,
    i11_users_see_only_their_own_data,
)


def complaints(evidence: Evidence) -> list[str]:
    """The complaints of all invariants."""
    return [complaint for invariant in INVARIANTS for complaint in invariant(evidence)]


def header(record: Record, name: str) -> str:
    """The value of a header as text, or "" if the record does not have it."""
    return next(((value or b"").decode(errors="replace") for key, value in record.headers if key == name), "")


class Reader:
    """Reads topics from their first records, and the offsets of consumer groups. It joins no group."""

    def __init__(self, kafka: Brokers) -> None:
        self._consumer = AIOKafkaConsumer(**kafka.options(), enable_auto_commit=False, fetch_max_wait_ms=50)
        self._admin = AIOKafkaAdminClient(**kafka.options())

    async def __aenter__(self) -> "Reader":
        await self._consumer.start()
        await self._admin.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()
        await self._consumer.stop()

    async def ends(self, topics: Iterable[str]) -> dict[TopicPartition, int]:
        """The end offset of each partition."""
        described = await self._admin.describe_topics(list(topics))
        all_ = [TopicPartition(one["topic"], p["partition"]) for one in described for p in one["partitions"]]
        return dict(await self._consumer.end_offsets(all_))

    async def everything(self, topics: Iterable[str]) -> list[Record]:
        """Every record of these topics, in order within each partition."""
        ends = await self.ends(topics)
        self._consumer.assign(list(ends))
        await self._consumer.seek_to_beginning(*ends)
        records: list[Record] = []
        while any([await self._consumer.position(tp) < end for tp, end in ends.items()]):
            for some in (await self._consumer.getmany(timeout_ms=500)).values():
                records += [as_record(record) for record in some]
        return records

    async def lag(self, group: str, topics: Iterable[str]) -> int:
        """The number of records that the group has not read yet."""
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


async def gather(database_url: str, kafka: Brokers) -> Evidence:
    """Read all tables and topics."""
    evidence = Evidence()
    conn = await postgres.connect(database_url)
    try:
        evidence.orders = {row["id"]: row for row in await conn.fetch("select * from orders.orders")}
        evidence.reservations = {
            row["order_id"]: row for row in await conn.fetch("select * from inventory.reservations")
        }
        evidence.payments = {row["order_id"]: row for row in await conn.fetch("select * from payments.payments")}
        evidence.stock = await conn.fetch(_STOCK)
        evidence.restocks = await conn.fetch("select * from inventory.restocks")
        evidence.copies = {what: (await _by_key(conn, a), await _by_key(conn, b)) for what, (a, b) in _COPIES.items()}
        evidence.movements = await conn.fetch("select * from provider.movements")
        for service in PUBLISHERS:
            evidence.outbox += await conn.fetch(f"select event_id, topic, key, type, value from {service}.outbox")
            evidence.inbox[service] = {row[0] for row in await conn.fetch(f"select event_id from {service}.inbox")}
            evidence.parked += await conn.fetch(f"select * from {service}.parked")
    finally:
        await conn.close()
    async with Reader(kafka) as reader:
        evidence.records = await reader.everything([*TOPICS, *(topic + DEAD_LETTER_SUFFIX for topic in TOPICS)])
    return evidence


async def quiet(database_url: str, kafka: Brokers, seconds: float = QUIET_SECONDS) -> float:
    """Wait until no outbox row, consumer lag, order or payment is open; return the seconds that it took.

    Raises `AssertionError` after `seconds`: a system that is too slow has failed.
    """
    started, left = time.monotonic(), dict[str, int]()
    conn = await postgres.connect(database_url)
    try:
        async with Reader(kafka) as reader:
            while time.monotonic() < started + seconds:
                before = await _written(conn)
                left = await _open(conn)
                if not any(left.values()):
                    with suppress(KafkaError):  # a broker that has just restarted does not know its groups yet
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
    consumed = {service: {topic for topic, _ in HANDLED[service]} for service in CONSUMERS}
    return {f"lag of {service}": await reader.lag(service, topics) for service, topics in consumed.items()}


@asynccontextmanager
async def watching_stock(database_url: str, every_seconds: float = 0.1) -> AsyncIterator[list[str]]:
    """Check the stock again and again while Postgres answers; yield the complaints, which must stay empty."""
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
