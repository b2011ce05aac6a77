"""`python -m bench.rivals singly|minimal`: what the orders service is measured against, on the same aiohttp."""

import sys
from typing import Any

import asyncpg
from aiohttp import web as aio

from orders import api
from orders.app import create_app
from orders.config import Settings
from orders.domain import Request
from orders.service import Door, Placed
from shared.process import run as runtime
from shared.web import requests as web


class Singly:
    """Stands in for the door: the same work, in a transaction per request."""

    def __init__(self, app: aio.Application) -> None:
        self._app, self._door = app, Door(60)

    async def submit(self, request: Request, _seconds: float) -> Placed:
        async with self._app[web.POOL].acquire() as conn, conn.transaction():
            (placed,) = await self._door.place(conn, [request])
        if isinstance(placed, Exception):
            raise placed
        return placed


def singly(settings: Settings) -> aio.Application:
    """The orders service, but for its door."""
    app = create_app(settings)

    async def replace_door(app: aio.Application) -> None:
        app[api.PLACE] = Singly(app).submit

    app.on_startup.append(replace_door)
    return app


def minimal(settings: Settings) -> aio.Application:
    """The least that stores an order: one INSERT a request, no event, no checks."""

    async def create(request: aio.Request) -> aio.Response:
        data: dict[str, Any] = await request.json()
        sql = (
            "insert into orders (user_id, sku, quantity, note, product, expires_at) "
            "values ($1, $2, $3, $4, '{}', now() + interval '60 s') returning id"
        )
        row = [data[name] for name in ("userId", "sku", "quantity", "note")]
        return aio.json_response({"id": await request.app[web.POOL].fetchval(sql, *row)}, status=202)

    async def connect(app: aio.Application) -> None:
        app[web.POOL] = await asyncpg.create_pool(settings.database_url, min_size=16, max_size=16)

    app = web.application()
    app.router.add_post("/v1/orders", create)
    app.on_startup.append(connect)
    return app


if __name__ == "__main__":
    rival = sys.argv.pop(1)
    runtime.run({"singly": singly, "minimal": minimal}[rival], Settings, "orders")
