"""`python -m bench.rivals singly|minimal`: apps to compare the orders service with, on the same aiohttp."""

import sys
from dataclasses import replace
from typing import Any

import asyncpg
from aiohttp import web

from orders import api
from orders.app import create_app
from orders.config import Settings
from orders.domain import Request
from orders.placement import Placement
from orders.service import Placed
from shared import service
from shared.web import application, database


class Singly(Placement):
    """The same work without group commit: one transaction per request."""

    def __init__(self, app: web.Application, database_url: str) -> None:
        super().__init__(database_url, 60)
        self._app = app

    async def place(self, request: Request, seconds: float | None = None) -> Placed:
        async with self._app[database.POOL].acquire() as conn, conn.transaction():
            (placed,) = await self.write(conn, [request])
        if isinstance(placed, Exception):
            raise placed
        return placed


def singly(settings: Settings) -> web.Application:
    """The orders service without group commit."""
    app = create_app(settings)

    async def replace_placement(app: web.Application) -> None:
        app[api.BACKEND] = replace(app[api.BACKEND], placement=Singly(app, settings.database))

    app.on_startup.append(replace_placement)
    return app


def minimal(settings: Settings) -> web.Application:
    """The smallest app that stores an order: one INSERT per request, no event, no checks."""

    async def create(request: web.Request) -> web.Response:
        data: dict[str, Any] = await request.json()
        sql = (
            "insert into orders (user_id, sku, quantity, note, product, expires_at) "
            "values ($1, $2, $3, $4, '{}', now() + interval '60 s') returning id"
        )
        row = [data[name] for name in ("userId", "sku", "quantity", "note")]
        return web.json_response({"id": await request.app[database.POOL].fetchval(sql, *row)}, status=202)

    async def connect(app: web.Application) -> None:
        app[database.POOL] = await asyncpg.create_pool(settings.database, min_size=16, max_size=16)

    app = application.create()
    app.router.add_post("/v1/orders", create)
    app.on_startup.append(connect)
    return app


if __name__ == "__main__":
    rival = sys.argv.pop(1)
    service.run({"singly": singly, "minimal": minimal}[rival], Settings, "orders")
