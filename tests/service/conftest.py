"""Services over HTTP: only their API, or all their parts, on a database for one test or one module."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import DummyCookieJar, TCPConnector, web
from aiohttp.test_utils import TestClient, TestServer

from local import ports
from shared.web.health import TASKS
from tests.conftest import Database, copied_from
from tests.service.gateway import Shop, opened
from tests.tokens import Mint, publishing

NO_KAFKA = "127.0.0.1:9"

Client = TestClient[Any, Any]
Serve = Callable[..., Awaitable[Client]]


class Production(TestServer):
    """A test server that, as in production, finishes a request when its client disconnects."""

    async def _make_runner(self, **settings: Any) -> web.AppRunner:
        return web.AppRunner(self.app, **settings | {"handler_cancellation": False})


@asynccontextmanager
async def serving(service: str, database_url: str, **changes: Any) -> AsyncIterator[Client]:
    """Run a service on its own port; only its API, unless `changes` of its settings choose other parts.

    The client keeps no cookies, so that each of its requests comes from a device that auth does not know.
    """
    app, config = import_module(f"{service}.app"), import_module(f"{service}.config")
    port = changes.pop("port", None) or ports.free_block(1)
    chosen = {"database_url": database_url, "only": ["api"], "kafka_bootstrap_servers": NO_KAFKA}
    if service == "auth":
        keys = f"http://127.0.0.1:{port}/auth/jwks.json"
        chosen |= {"admin_password": "password", "only": ["api", "worker"], "auth_jwks_url": keys}
    settings = config.Settings(**chosen | changes)
    unlimited = TCPConnector(limit=0)  # with the default of 100, requests would wait in the client
    as_json = {"Content-Type": "application/json"}
    served = app.create_app(settings)
    server, no_cookies = Production(served, port=port), DummyCookieJar()
    async with TestClient(server, cookie_jar=no_cookies, connector=unlimited, headers=as_json) as client:
        yield client
        served[TASKS].start_draining()  # as in production, requests that wait are answered before the server stops


@pytest.fixture
def mint() -> Mint:
    """Creates the tokens that services from `serve` accept."""
    return Mint()


@pytest.fixture
async def serve(database: Database, mint: Mint) -> AsyncIterator[Serve]:
    """Start services on the test's database: `client = await serve("products")`; they accept the mint's tokens."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(publishing(mint))

        async def start(service: str, **changes: Any) -> Client:
            keys = {} if service == "auth" else {"auth_jwks_url": url}
            return await stack.enter_async_context(serving(service, database.url_for(service), **changes | keys))

        yield start


@pytest.fixture
async def serve_orders(database: Database) -> AsyncIterator[Serve]:
    """Start orders without tokens on the test's database: `client = await serve_orders(only=["api", "worker"])`."""
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> Client:
            return await stack.enter_async_context(
                serving("orders", database.url_for("orders"), **{"require_token": False} | changes)
            )

        yield start


@pytest.fixture
async def orders(serve_orders: Serve) -> Client:
    """A client of the orders API, on the test's own database."""
    return await serve_orders()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders_for_all(template: Database) -> AsyncIterator[Client]:
    """A client of the orders API on one database for a whole module, for tests that ignore rows of other tests."""
    async with copied_from(template) as made, serving("orders", made.url_for("orders"), require_token=False) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop_for_all(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """A gateway, for the whole module."""
    async with opened(tmp_path_factory.mktemp("gateway")) as shop:
        yield shop


@pytest_asyncio.fixture(loop_scope="module")
async def shop(shop_for_all: Shop) -> Shop:
    """The gateway of the module, whose upstreams have seen nothing."""
    for upstream in shop_for_all.upstreams.values():
        await upstream.reset()
    return shop_for_all
