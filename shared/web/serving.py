"""Runs the HTTP server of a process that has pages. A service has its own server, see `shared/service.py`."""

import asyncio

import structlog
import uvloop
from aiohttp import web

from ..process.tasks import DRAIN_SECONDS
from .health import TASKS

log = structlog.get_logger()


def run(app: web.Application, host: str, port: int) -> int:
    """Serve until SIGTERM or until a task ends. Returns 0 in the first case, 1 in the second."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(app, host, port))


async def _serve(app: web.Application, host: str, port: int) -> int:
    tasks = app[TASKS]
    tasks.stop_on_signals()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        log.info("ready", port=port)
        await tasks.until_stopped()
        log.info("draining")
    finally:
        await runner.cleanup()
    return 1 if tasks.ended.is_set() else 0
