"""When orders are refused because too many are open: only if they end too slowly, or if there are very many."""

import asyncio
from typing import Any, cast

import pytest

from orders import pressure as module
from orders.pressure import Pressure
from shared.errors import Refused

DEADLINE = 60.0


@pytest.fixture
def pressure() -> Pressure:
    return Pressure(cast("Any", None), DEADLINE, 500_000)


def accepts(pressure: Pressure) -> bool:
    try:
        pressure.check()
    except Refused:
        return False
    return True


def test_at_first_every_order_is_accepted(pressure: Pressure) -> None:
    assert accepts(pressure)
    pressure.decide(0.0, 400_000, 0)
    assert accepts(pressure)


def test_while_nothing_ends_orders_are_accepted_up_to_a_number(pressure: Pressure) -> None:
    for second in range(100):
        pressure.decide(float(second), 4_000 * second, 0)
        assert accepts(pressure)
    pressure.decide(200.0, 500_000, 0)
    assert not accepts(pressure)


@pytest.mark.parametrize(("open_", "accepted"), [(47_000, True), (49_000, False)])
def test_while_orders_end_a_new_one_must_end_within_most_of_its_deadline(
    pressure: Pressure, open_: int, accepted: bool
) -> None:
    for second in range(30):
        pressure.decide(float(second), open_, 1_000)
    assert accepts(pressure) == accepted


def test_orders_are_accepted_again_when_the_backlog_is_gone(pressure: Pressure) -> None:
    for second in range(10):
        pressure.decide(float(second), 90_000, 1_000)
    with pytest.raises(Refused, match="a new order would wait 90 s"):
        pressure.check()
    for second in range(10, 90):
        pressure.decide(float(second), 90_000 - 1_000 * second, 1_000)
    assert accepts(pressure)


def test_orders_that_were_written_late_count_as_no_end(pressure: Pressure) -> None:
    for second in range(10):
        pressure.decide(float(second), 1_000 * second, -50)
    assert accepts(pressure)


def test_a_burst_in_a_quiet_shop_is_accepted(pressure: Pressure) -> None:
    for minute in range(10):
        pressure.decide(60.0 * minute, 1, 1)  # an order a minute, and each ends
    pressure.decide(600.0, 200, 1)
    assert accepts(pressure)
    pressure.decide(601.0, 300, 1)  # the first of them ends
    assert accepts(pressure)
    pressure.decide(602.0, 200, 290)
    assert accepts(pressure)


def test_a_rate_that_was_measured_long_ago_counts_no_more(pressure: Pressure) -> None:
    for second in range(10):
        pressure.decide(float(second), 90_000, 1_000)
    assert not accepts(pressure)
    pressure.decide(100.0, 90_000, 1_000)
    assert accepts(pressure)


def test_an_outage_that_begins_under_load_refuses_nothing(pressure: Pressure) -> None:
    for second in range(10):
        pressure.decide(float(second), 200, 100)
    for second in range(10, 40):
        pressure.decide(float(second), 200 + 100 * (second - 10), 0)
        assert accepts(pressure)


def test_while_orders_give_way_to_requests_their_rate_from_before_counts_but_not_for_long(pressure: Pressure) -> None:
    for second in range(10):
        pressure.decide(float(second), 20_000, 1_000)
    pressure._is_busy = lambda: True
    for second in range(10, 20):
        pressure.decide(float(second), 20_000, 100)
        assert accepts(pressure)
    for second in range(20, 40):
        pressure.decide(float(second), 20_000, 100)
    assert not accepts(pressure)
    pressure._is_busy = lambda: False
    for second in range(40, 60):
        pressure.decide(float(second), 20_000, 1_000)
    assert accepts(pressure)


async def test_it_looks_on_while_orders_are_refused_although_nobody_asks(
    pressure: Pressure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.01)
    looks, stop = 0, asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            pressure.decide(100.0, 0, 0)
            asyncio.get_running_loop().call_later(0.1, stop.set)

    monkeypatch.setattr(pressure, "look", look)
    pressure.decide(0.0, 500_000, 0)
    assert not accepts(pressure)
    await pressure.run(stop)
    assert looks == 3
    assert accepts(pressure)
