"""One process: its tasks, its signals, its end.

What must stay true: any task that ends, ends the process (the supervisor starts it again), SIGTERM loses nothing, and
a process whose loop or whose tasks hang says so on `/livez`.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import structlog
import uvloop
from aiohttp import web
from pydantic import ValidationError

from shared.process import configuration as config
from shared.process import logs

log = structlog.get_logger()

S = TypeVar("S", bound=config.Settings)

LINGER_SECONDS = 0.3
"""How long connections that are kept alive may bring a last request, which is answered with `Connection: close`.

To close them at once loses what their other end, such as nginx, is sending at that moment (seen: 1 to 5 a restart).
"""
DRAIN_SECONDS = 3.5
HANG_SECONDS = 30.0

Beat = Callable[[], None]
Task = Callable[[asyncio.Event, Beat], Coroutine[Any, Any, None]]
"""A loop: it runs until the event is set, and beats at each turn, also at one that failed."""


class Tasks:
    """The background tasks of a process, named and watched; the first to end before its time is `ended`."""

    def __init__(self) -> None:
        self.stop, self.ended = asyncio.Event(), asyncio.Event()
        self.draining = False
        self._beats: dict[str, float] = {}

    def start(self, name: str, loop: Task) -> Callable[[], Coroutine[Any, Any, None]]:
        """Start a loop; returns a function that stops it and waits for it, to be called when the process drains."""
        stop = asyncio.Event()
        self._beats[name] = time.monotonic()
        task = asyncio.create_task(loop(stop, lambda: self._beats.update({name: time.monotonic()})), name=name)
        task.add_done_callback(self._on_end)

        async def end() -> None:
            self._beats.pop(name, None)
            self.draining = True
            stop.set()
            await asyncio.wait([task], timeout=DRAIN_SECONDS)
            while not task.done():  # one cancel is not always enough on 3.11
                task.cancel()
                await asyncio.wait([task], timeout=0.5)

        return end

    def hanging(self) -> list[str]:
        """Name the tasks that have not taken a turn for `HANG_SECONDS`."""
        now = time.monotonic()
        return [name for name, beat in self._beats.items() if now - beat > HANG_SECONDS]

    def _on_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self.draining or error is not None:
            log.error("task ended, and the process with it", task=task.get_name(), exc_info=error)
            self.ended.set()


TASKS = web.AppKey("TASKS", Tasks)


def run(create_app: Callable[[Any], web.Application], settings_type: type[config.Settings], service: str) -> None:
    """Run a service until SIGTERM or until one of its tasks ends; exits 0 in the first case, 1 in the second."""
    settings = read(settings_type, service, sys.argv[1:])
    logs.configure(settings.log_level, service)
    factory = uvloop.new_event_loop if settings.event_loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        sys.exit(runner.run(_serve(create_app(settings), settings)))


def read(settings_type: type[S], service: str, arguments: list[str]) -> S:
    """Read the settings from the environment and the command line; a wrong one ends the process with a line."""
    try:
        return settings_type(_cli_parse_args=arguments, _cli_prog_name=f"python -m {service}")
    except ValidationError as error:
        sys.exit(config.complaint(error))


async def _serve(app: web.Application, settings: config.Settings) -> int:
    tasks = app[TASKS]
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, tasks.stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    try:
        door = socket.create_server((settings.host, settings.port), backlog=1024, reuse_port=True)
        site = web.SockSite(runner, door.dup(), backlog=1024)
        await site.start()
        log.info("ready", port=settings.port, pid=os.getpid())
        spare_collections()
        with _watchdog(loop):
            ends = [asyncio.create_task(event.wait()) for event in (tasks.stop, tasks.ended)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            log.info("draining")
            tasks.draining = True
            await site.stop()
            if runner.server is not None:
                await _take_in(door, runner.server)
            await asyncio.sleep(LINGER_SECONDS)
    finally:
        await runner.cleanup()
    log.info("stopped")
    return 1 if tasks.ended.is_set() else 0


async def _take_in(door: socket.socket, server: Callable[[], asyncio.BaseProtocol]) -> None:
    """Close the listening socket, but serve what the kernel has accepted for it: it would reset those connections."""
    waiting = []
    door.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            waiting.append(door.accept()[0])
    door.close()
    for connection in waiting:
        await asyncio.get_running_loop().connect_accepted_socket(server, connection)


def spare_collections() -> None:
    """Make garbage collection rare: what exists now stays, and batches make much that is no garbage (20 % of CPU)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@contextmanager
def _watchdog(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """End the process when its event loop does not turn for `HANG_SECONDS`: a hung process helps nobody."""
    turned = threading.Event()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(HANG_SECONDS / 3):
            turned.clear()
            loop.call_soon_threadsafe(turned.set)
            if not turned.wait(HANG_SECONDS) and not over.is_set():
                log.critical("the event loop does not turn; ending the process")
                os._exit(70)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
