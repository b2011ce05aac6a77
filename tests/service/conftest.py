"""The orders service over HTTP: only its door, or the whole of it, on a database of a test's or a module's own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from aiohttp import TCPConnector, web
from aiohttp.test_utils import TestClient, TestServer

from orders.app import create_app
from orders.config import Settings
from tests.conftest import Database

NO_KAFKA = "127.0.0.1:9"

Client = TestClient[Any, Any]
Serve = Callable[..., Awaitable[Client]]


class Production(TestServer):
    """A test server that, as the real one, lets a handler go on when its client hangs up."""

    async def _make_runner(self, **settings: Any) -> web.AppRunner:
        return web.AppRunner(self.app, **settings | {"handler_cancellation": False})


@asynccontextmanager
async def serving(database_url: str, **changes: Any) -> AsyncIterator[Client]:
    """Run the orders service on a port of its own; only its door, unless `changes` say otherwise."""
    settings = Settings(
        **{"database_url": database_url, "only": ["api"], "kafka_bootstrap_servers": NO_KAFKA} | changes
    )
    unlimited = TCPConnector(limit=0)  # with the default of 100, requests would wait in the client
    async with TestClient(Production(create_app(settings)), connector=unlimited) as client:
        yield client


@pytest.fixture
async def serve_orders(database: Database) -> AsyncIterator[Serve]:
    """Start instances of the service on the test's database: `client = await serve_orders(only=["api", "worker"])`."""
    async with AsyncExitStack() as stack:

        async def serve(**changes: Any) -> Client:
            return await stack.enter_async_context(serving(database.url_for("orders"), **changes))

        yield serve


@pytest.fixture
async def orders(serve_orders: Serve) -> Client:
    """The door of the orders service, on the test's own database."""
    return await serve_orders()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders_for_all(template: Database) -> AsyncIterator[Client]:
    """The door on one database for a whole module, for tables of cases that do not care what others left behind."""
    made = Database(f"module_{uuid4().hex[:12]}", template.port)
    conn = await asyncpg.connect(Database("postgres", template.port).admin_url)
    await conn.execute(f"create database {made.name} template {template.name} strategy file_copy")
    async with serving(made.url_for("orders")) as client:
        yield client
    await conn.execute(f"drop database {made.name} with (force)")
    await conn.close()
