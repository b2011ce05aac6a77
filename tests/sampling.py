"""Calls something again and again, in a thread of its own, while a test runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def sampled(sample: Callable[[], None], every_seconds: float, name: str) -> Iterator[None]:
    """Call `sample` so often until the end of the block. The thread has this name."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_seconds):
            sample()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
