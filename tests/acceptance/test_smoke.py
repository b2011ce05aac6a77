"""`make smoke`, against a shop that works and against one that does not."""

import pytest

from tests.acceptance import smoke
from tests.acceptance.conftest import System


async def test_customers_shop_and_leave_nothing_behind(system: System) -> None:
    async with system.customers(system.gateway_url) as client:
        took = await smoke.visit(client, "burger")
        assert len(took) == smoke.CUSTOMERS
    assert [call.status for call in client.history if call.kind.startswith("DELETE /users/")] == 2 * smoke.CUSTOMERS * [
        204
    ]
    await system.settled()


async def test_an_order_that_does_not_end_is_found(system: System) -> None:
    await system.stop("payments")
    async with system.customers(system.gateway_url) as client:
        with pytest.raises(smoke.Wrong, match=r"the order after .* s: \('PENDING', None\)"):
            await smoke.visit(client, "burger", seconds=1)
    await system.start("payments")
    await system.settled()


async def test_a_product_that_is_not_offered_is_found(system: System) -> None:
    async with system.customers(system.gateway_url) as client:
        with pytest.raises(smoke.Wrong, match="unicorn is in the catalogue: False"):
            await smoke.visit(client, "unicorn")


async def test_the_command_ends_with_1_if_nothing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(smoke.typer.Exit):
        await smoke.asyncio.to_thread(smoke.main, "http://127.0.0.1:9")
    assert "GET /products/: None" in capsys.readouterr().err
