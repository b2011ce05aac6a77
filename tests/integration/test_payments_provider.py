import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from payments.domain import Captured, Declined, GivenBack, NoAnswer
from payments.provider import Faults, SimulatedProvider
from shared import postgres
from shared.postgres import Pool


@pytest.fixture
async def ledger(payments_db: Any) -> AsyncIterator[Pool]:
    async with postgres.pool(payments_db.provider_url, size=4, name="test") as opened:
        yield opened


@pytest.fixture
async def provider(payments_db: Any) -> AsyncIterator[SimulatedProvider]:
    made = SimulatedProvider(payments_db.provider_url)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(made.run(stop))
        yield made
        stop.set()


async def kinds(ledger: Pool, key: str = "order:1") -> list[str]:
    return [row[0] for row in await ledger.fetch("select kind from movements where key = $1 order by n", key)]


async def test_one_key_is_charged_once_by_1000_charges_at_the_same_time(
    ledger: Pool, provider: SimulatedProvider
) -> None:
    answers = await asyncio.gather(*[provider.charge("order:1", 1700, "EUR") for _ in range(1000)])
    assert len(set(answers)) == 1
    assert await provider.get("order:1") == answers[0]
    assert await kinds(ledger) == ["capture"]


async def test_a_void_refunds_an_earlier_charge_and_prevents_a_later_one(
    ledger: Pool, provider: SimulatedProvider
) -> None:
    charged = await provider.charge("order:1", 1700, "EUR")
    assert isinstance(charged, Captured)
    for call in (provider.void("order:1"), provider.charge("order:1", 1700, "EUR"), provider.void("order:1")):
        assert await call == GivenBack(charged.ref)
    assert await kinds(ledger) == ["capture", "refund"]

    for call in (provider.void("order:2"), provider.charge("order:2", 1700, "EUR")):
        assert await call == GivenBack(None)
    assert await kinds(ledger, "order:2") == ["void"]


async def test_charges_and_voids_at_the_same_time_keep_no_money(ledger: Pool, provider: SimulatedProvider) -> None:
    keys = [f"order:{n}" for n in range(300)]
    voids = [provider.void(key) for key in keys]
    charges = [provider.charge(key, 1, "EUR") for key in keys for _ in range(2)]
    await asyncio.gather(*charges[:300], *voids, *charges[300:])
    net = "select sum(case kind when 'capture' then amount_cents when 'refund' then -amount_cents else 0 end)"
    assert await ledger.fetchval(f"{net} from movements") == 0
    assert len(await ledger.fetch("select distinct key from movements")) == 300


async def test_a_decline_is_final_and_nothing_is_refunded(ledger: Pool, provider: SimulatedProvider) -> None:
    for amount in (50_001, 1):
        assert await provider.charge("order:1", amount, "EUR") == Declined()
    assert await provider.void("order:1") == Declined()
    assert await kinds(ledger) == ["decline"]
    assert isinstance(await provider.charge("order:2", 50_000, "EUR"), Captured)


async def test_an_unknown_key_has_no_outcome(provider: SimulatedProvider) -> None:
    assert await provider.get("order:1") is None
    with pytest.raises(NoAnswer):
        await provider.refund("order:1")


async def test_a_simulated_fault_loses_the_answer_after_the_charge(payments_db: Any, ledger: Pool) -> None:
    stop = asyncio.Event()
    failing = SimulatedProvider(payments_db.provider_url, faults=Faults(error_ratio=1.0))
    silent = SimulatedProvider(payments_db.provider_url, faults=Faults(timeout_ratio=1.0, double_ratio=1.0))
    async with asyncio.TaskGroup() as group:
        group.create_task(failing.run(stop))
        group.create_task(silent.run(stop))
        with pytest.raises(NoAnswer):
            await failing.charge("order:1", 1, "EUR")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await silent.charge("order:2", 1, "EUR")
        stop.set()
    assert [await kinds(ledger, key) for key in ("order:1", "order:2")] == [["capture"]] * 2
