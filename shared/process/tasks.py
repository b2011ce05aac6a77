"""The background tasks of a process, and how the process ends.

What must stay true: if any task ends, the process ends, and its supervisor starts it again. A process whose event loop
hangs ends itself. `Tasks.hanging` names the tasks that hang.
"""

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from .loop import Beat

log = structlog.get_logger()

DRAIN_SECONDS = 3.5
"""How long one task may take to finish its work after its `stop` is set."""
DRAIN_ALL_SECONDS = 8.0
"""How long all tasks together may take, from the moment when the process starts to drain."""
HANG_SECONDS = 30.0
"""A task or an event loop that takes no turn for so long hangs."""

Loop = Callable[[asyncio.Event, Beat], Coroutine[Any, Any, None]]
"""A task's function `run(stop, beat)`. It works until `stop` is set."""


class Tasks:
    """Named and watched tasks. `stop` asks the process to end; `ended` is set when a task has ended too early."""

    def __init__(self) -> None:
        self.stop, self.ended = asyncio.Event(), asyncio.Event()
        self.draining = False
        self._drain_by = float("inf")
        self._when_draining: list[Callable[[], None]] = []
        self._beats: dict[str, float] = {}

    def start(self, name: str, loop: Loop) -> Callable[[], Coroutine[Any, Any, None]]:
        """Start a task. Returns a function that stops the task and waits for it."""
        stop = asyncio.Event()
        self._beats[name] = time.monotonic()
        task = asyncio.create_task(loop(stop, lambda: self._beats.update({name: time.monotonic()})), name=name)
        task.add_done_callback(self._on_end)

        async def end() -> None:
            self._beats.pop(name, None)
            self.draining = True
            stop.set()
            await asyncio.wait([task], timeout=max(0.0, min(DRAIN_SECONDS, self._drain_by - time.monotonic())))
            while not task.done():  # one cancel is not always enough on Python 3.11
                task.cancel()
                await asyncio.wait([task], timeout=0.5)

        return end

    def hanging(self) -> list[str]:
        """The names of the tasks that have had no turn for `HANG_SECONDS`."""
        now = time.monotonic()
        return [name for name, beat in self._beats.items() if now - beat > HANG_SECONDS]

    def when_draining(self, call: Callable[[], None]) -> None:
        """Call `call` when the process starts to drain, for example to answer requests that wait."""
        self._when_draining.append(call)

    def stop_on_signals(self) -> None:
        """Set `stop` when the process gets SIGTERM or SIGINT."""
        for signal_ in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_, self.stop.set)

    async def until_stopped(self) -> None:
        """Return when `stop` is set or a task has ended. Watches the event loop meanwhile."""
        loop = asyncio.get_running_loop()
        collect_garbage_rarely()
        with _watchdog(loop):
            ends = [asyncio.create_task(event.wait()) for event in (self.stop, self.ended)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self.start_draining()

    def start_draining(self) -> None:
        """Mark the process as draining, and make the calls of `when_draining`."""
        self.draining, self._drain_by = True, time.monotonic() + DRAIN_ALL_SECONDS
        for call in self._when_draining:
            call()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self.draining or error is not None:
            log.error("task ended, and the process with it", task=task.get_name(), exc_info=error)
            self.ended.set()


def collect_garbage_rarely() -> None:
    """Freeze the objects that exist after the start, and collect rarely: scanning live batches cost 20 % of CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@contextmanager
def _watchdog(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """End the process if its event loop makes no turn for `HANG_SECONDS`."""
    turned = threading.Event()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(HANG_SECONDS / 3):
            turned.clear()
            loop.call_soon_threadsafe(turned.set)
            if not turned.wait(HANG_SECONDS) and not over.is_set():
                log.critical("the event loop hangs; the process ends itself")
                os._exit(70)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
