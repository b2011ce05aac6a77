"""Hashing of passwords, in a few threads of low priority, so that many logins slow down only logins, not orders."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from auth.domain import Credential
from shared import errors

T = TypeVar("T")

_MAX_WAITING = 32
_TURN_SECONDS = 1.5
_NICE = 10


class Passwords:
    """Argon2id with 19 MiB and two passes, as OWASP's Password Storage Cheat Sheet recommends. A hash takes 30 ms."""

    def __init__(self, at_once: int) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._threads = ThreadPoolExecutor(at_once, "passwords", initializer=_lower_priority)
        self._turns = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._unknown_users_hash = self._hasher.hash(os.urandom(16).hex())

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, at most 1.5 s and in a queue of at most 32. Raises `TooMany`."""
        if self._waiting >= _MAX_WAITING:
            raise errors.TooMany("too many log in at once", 1)
        self._waiting += 1
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise errors.TooMany("too many log in at once", 1) from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def hash(self, password: str) -> str:
        """Hash a password, with its own salt."""
        return await self._in_thread(self._hasher.hash, password)

    async def is_right(self, known: Credential | None, password: str) -> bool:
        """Compare a password with a credential. Without a credential this takes as long, and returns False."""

        def compare() -> bool:
            try:
                return self._hasher.verify(known.password_hash if known else self._unknown_users_hash, password)
            except VerifyMismatchError:
                return False

        return await self._in_thread(compare) and known is not None

    async def _in_thread(self, work: Callable[..., T], *arguments: str) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _lower_priority() -> None:
    if sys.platform != "linux":  # on other systems the call would change the priority of the whole process
        return
    thread = threading.get_native_id()
    with suppress(PermissionError):  # some sandboxes forbid it; then many logins slow down orders
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE))
