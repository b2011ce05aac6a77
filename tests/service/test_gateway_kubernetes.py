"""The gateway with the settings that it has in Kubernetes, where the console is only inside."""

from pathlib import Path

from tests.service.gateway import opened
from tests.unit.test_kubernetes_base import GATEWAY


async def test_the_console_is_no_page_of_the_gateway_and_the_shop_works(tmp_path: Path) -> None:
    async with opened(tmp_path, CONSOLE_UPSTREAM=GATEWAY["CONSOLE_UPSTREAM"]) as shop:
        for first in ("GET /console/", "POST /console/login", "DELETE /console/x"):
            answer = await shop.ask(first, token=None)
            assert (answer.status, answer.problem) == (404, "not-found")
        assert shop.seen == {}
        for first in ("GET /v1/orders", "GET /", "GET /products/"):
            assert (await shop.ask(first)).status == 200
