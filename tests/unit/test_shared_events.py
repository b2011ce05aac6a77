import string
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.orders import OrderCreated
from contracts.products import ProductChanged
from shared import tracing
from shared.delivery import events, inbox
from shared.delivery.events import Record, Undecodable
from tests.builders import order_confirmed, order_created, record

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=200)
orders = st.builds(
    order_created,
    order_id=st.integers(1, 2**63 - 1),
    version=st.integers(1, 2**31 - 1),
    user_id=text,
    sku=text,
    note=text,
    quantity=st.integers(1, 2**31 - 1),
    product=st.dictionaries(text, st.none() | st.booleans() | text | st.lists(text, max_size=3), max_size=5),
    amount_cents=st.none() | st.integers(0, 2**63 - 1),
    expires_at=st.datetimes(timezones=st.just(UTC)),
)


@given(orders)
def test_an_event_is_the_same_after_encoding_and_decoding(order: OrderCreated) -> None:
    assert events.decode(record(order), OrderCreated).event == order


@given(text.filter(lambda sku: len(sku) <= 100))
def test_a_key_of_any_text_is_the_same_after_encoding_and_decoding(sku: str) -> None:
    changed = ProductChanged(version=1, product_id=1, sku=sku, name="", price_cents=1, currency="EUR", active=True)
    assert events.decode(record(changed), ProductChanged).key == sku


@given(st.binary(max_size=300), st.binary(max_size=20), st.binary(max_size=40))
def test_any_bytes_are_an_event_or_undecodable(value: bytes, key: bytes, id_: bytes) -> None:
    strange = Record("orders.events", 0, 0, 0, key, value, [("ce_type", b"OrderCreated"), ("ce_id", id_)])
    with pytest.raises(Undecodable):
        events.decode(strange, OrderCreated)


def test_headers_are_cloudevents_in_binary_mode() -> None:
    encoded = events.encode(order_confirmed(17))
    headers = events.headers(events.static_headers(encoded.type, "/quickbite/orders"), b"17", encoded.head)

    assert dict(headers) == {
        "ce_type": b"OrderConfirmed",
        "ce_source": b"/quickbite/orders",
        "ce_specversion": b"1.0",
        "content-type": b"application/json",
        "ce_id": str(encoded.event_id).encode(),
        "ce_time": events.time_of(encoded.head).encode(),
        "ce_subject": b"17",
    }
    assert len(headers) == 7
    assert datetime.now(UTC) - datetime.fromisoformat(events.time_of(encoded.head)) < timedelta(minutes=1)


def test_an_event_has_the_same_headers_each_time_it_is_sent() -> None:
    encoded = events.encode(order_confirmed(17))
    static = events.static_headers(encoded.type, "/s")
    assert events.headers(static, b"17", encoded.head) == events.headers(static, b"17", encoded.head)
    assert len(static) == 4


def test_only_events_of_its_key_get_a_trace() -> None:
    with tracing.carrying({"17": TRACE}):
        traced, plain = events.encode(order_confirmed(17)), events.encode(order_confirmed(18))

    assert dict(events.headers([], b"17", traced.head))["traceparent"] == TRACE.encode()
    assert "traceparent" not in dict(events.headers([], b"18", plain.head))
    assert not events.encode(order_confirmed(17)).head.endswith(TRACE.encode())


def test_the_traces_of_a_batch_are_found_by_key() -> None:
    good = record(order_confirmed(17))
    traced = good._replace(headers=[*good.headers, ("traceparent", TRACE.encode())])
    received = [events.decode(r, type(order_confirmed())) for r in (traced, record(order_confirmed(18)))]
    assert events.traceparents_of(received) == {"17": TRACE}


@given(st.text(string.printable))
def test_the_hash_fits_a_positive_postgres_integer(key: str) -> None:
    assert 0 <= events.hash_of(key) < 2**31


def test_event_ids_sort_by_creation_time() -> None:
    made = [events.encode(order_confirmed()).event_id for _ in range(1000)]
    assert made == sorted(made)
    assert all(inbox.acceptable(id_) for id_ in made)


def id_at(moment: datetime, version: int = 7) -> UUID:
    return UUID(int=int(moment.timestamp() * 1000) << 80 | version << 76 | 0b10 << 62)


@pytest.mark.parametrize(
    ("age", "accepted"),
    [
        (timedelta(0), True),
        (timedelta(days=8), True),
        (timedelta(days=10), False),
        (timedelta(hours=-23), True),
        (timedelta(hours=-25), False),
    ],
)
def test_an_id_is_acceptable_while_the_inbox_covers_its_time(age: timedelta, accepted: bool) -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert inbox.acceptable(id_at(now - age), now) is accepted


def test_an_id_of_another_version_is_not_acceptable() -> None:
    now = datetime.now(UTC)
    assert not inbox.acceptable(id_at(now, version=4), now)
