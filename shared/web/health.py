"""The routes that every process has: health checks and metrics."""

from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from ..process.tasks import Tasks

TASKS = web.AppKey("TASKS", Tasks)


def add_routes(app: web.Application) -> None:
    """Add `/healthz`, `/livez` and `/metrics`, and the application's `TASKS`."""
    app[TASKS] = Tasks()
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/livez", _livez)
    app.router.add_get("/metrics", _metrics)


async def _healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def _livez(request: web.Request) -> web.Response:
    """503 if a task hangs."""
    hanging = request.app[TASKS].hanging()
    return web.Response(status=503 if hanging else 200, text=f"hanging: {hanging}" if hanging else "ok")


async def readyz(request: web.Request) -> web.Response:
    """503 while the process drains. Only for a process that needs nothing else to be ready."""
    draining = request.app[TASKS].draining
    return web.Response(status=503 if draining else 200, text="draining" if draining else "ok")


async def _metrics(request: web.Request) -> web.Response:
    """OpenMetrics with exemplars if `Accept` asks for it, otherwise Prometheus' plain text."""
    encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
    return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type, "Vary": "Accept"})
