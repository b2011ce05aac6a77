"""The storefront's memory: the events of an order, its bounds, and who is woken."""

import time

import pytest

from shared.delivery.events import Record
from storefront import memory
from storefront.memory import Memory
from tests.builders import order_confirmed, order_created, record


def of_key(key: bytes | None) -> Record:
    return record(order_created())._replace(key=key)


def test_the_events_of_each_order_are_kept_in_the_order_of_arrival() -> None:
    kept = Memory()
    first, other, second = record(order_created(1)), record(order_created(2)), record(order_confirmed(1))
    kept.add([first, other])
    kept.add([second])
    assert (kept.of(1), kept.of(2), kept.of(3)) == ([first, second], [other], [])


def test_the_oldest_orders_are_forgotten_first() -> None:
    kept = Memory(orders=2)
    kept.add(record(order_created(id_)) for id_ in (1, 2, 3))
    kept.add([record(order_confirmed(2))])
    assert [len(kept.of(id_)) for id_ in (1, 2, 3)] == [0, 2, 1]


def test_memory_is_bounded_in_bytes() -> None:
    kept = Memory(bytes_=30_000)
    kept.add(record(order_created(id_, note="x" * 9_000)) for id_ in range(1, 10))
    assert [id_ for id_ in range(1, 10) if kept.of(id_)] == [7, 8, 9]
    assert kept._bytes <= 30_000
    kept.add([record(order_created(10, note="x" * 40_000))])
    assert (kept._bytes, len(kept._of)) == (0, 0)


def test_one_order_cannot_fill_the_memory() -> None:
    kept = Memory()
    kept.add(record(order_confirmed(1, version)) for version in range(1, 100))
    assert len(kept.of(1)) == memory.EVENTS


@pytest.mark.parametrize("key", [None, b"", b"burger", b"-1", b"\xc2\xb2", b"9" * 20, b"1.5"])
def test_a_key_that_is_no_order_id_is_left_out(key: bytes | None) -> None:
    kept = Memory()
    kept.add([of_key(key)])
    assert not kept._of


async def test_only_the_watchers_of_an_order_are_woken_by_its_events() -> None:
    kept = Memory()
    with kept.watching(1) as mine, kept.watching(2) as other, kept.watching(1) as also:
        kept.add([record(order_created(1))])
        assert (mine.is_set(), other.is_set(), also.is_set()) == (True, False, True)
        kept.wake()
        assert other.is_set()
    assert not kept._watched


def test_orders_are_forgotten_after_a_day() -> None:
    kept = Memory()
    long_ago = int((time.time() - memory.SECONDS - 1) * 1000)
    kept.add([record(order_created(1))._replace(timestamp_ms=long_ago), record(order_created(2))])
    assert [bool(kept.of(id_)) for id_ in (1, 2)] == [False, True]
    kept._of[2][0] = kept._of[2][0]._replace(timestamp_ms=long_ago)
    kept.add([])
    assert (kept._bytes, len(kept._of)) == (0, 0)
