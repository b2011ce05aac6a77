"""The sessions that ended while their access tokens are still valid, as a numbered list that every service follows.

What must stay true: a follower gets each ended session, from whichever process of auth it asks.
"""

import asyncio
import secrets
import time
from itertools import islice

from auth import store
from auth.domain import GRACE_SECONDS
from shared import errors, postgres
from shared.postgres import Pool
from shared.process.backoff import wait
from shared.web.verification import EndedSessions

MOST = 1000
"""So many sessions are in one answer."""

_MOST_WAITING = 1000


class Endings:
    """The sessions that `reload` has found. `auth/worker.py` calls it every half second.

    The sessions are numbered in the order in which this process found them. The numbers mean nothing to another
    process, so each process has a name. A follower that comes from another process gets the whole list.
    """

    def __init__(self, pool: Pool, access_seconds: int) -> None:
        self._pool, self._keep_seconds = pool, access_seconds + GRACE_SECONDS
        self._name = secrets.token_hex(4)
        self._forget_at: dict[str, float] = {}
        self._forgotten = 0
        self._read_at: float | None = None
        self._news = asyncio.Event()
        self._waiting = 0
        self._is_closed = False

    async def reload(self) -> None:
        """Find sessions that ended since the last call.

        A transaction may commit later than it says, but less than `GRACE_SECONDS`.
        """
        now = time.monotonic()
        since = self._keep_seconds if self._read_at is None else now - self._read_at + GRACE_SECONDS
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            found = await store.ended_sessions(conn, min(since, self._keep_seconds))
        new = {id_: now + self._keep_seconds - age for id_, age in found if id_ not in self._forget_at}
        self._forget_at.update(new)
        self._forget(now)
        self._read_at = now
        if new:
            self._wake()

    def is_over(self, session_id: str) -> bool:
        """True if the session was ended. Raises `Unavailable` while no ended sessions have been read."""
        if self._read_at is None:
            raise errors.Unavailable("sessions cannot be read right now")
        return session_id in self._forget_at

    async def follow(self, after: str, seconds: float) -> EndedSessions:
        """The sessions that follow `after`, at most `MOST`. If there are none, waits for them, at most `seconds`.

        Raises `Unavailable` while no ended sessions have been read, and when the process drains.
        """
        news, found = self._news, self._page(after)
        if not found.sessions and seconds and not self._is_closed:
            if self._waiting >= _MOST_WAITING:
                raise errors.Unavailable("too many are waiting")
            self._waiting += 1
            try:
                await wait(news, seconds)
            finally:
                self._waiting -= 1
            found = self._page(after)
        if self._is_closed or self._read_at is None:
            raise errors.Unavailable("sessions cannot be read right now")
        return found

    def close(self) -> None:
        """End all waits now: the process drains."""
        self._is_closed = True
        self._wake()

    def _page(self, after: str) -> EndedSessions:
        name, _, number = after.partition("-")
        skipped = max(0, int(number) - self._forgotten) if name == self._name else 0
        page = list(islice(self._forget_at, skipped, skipped + MOST))
        following = f"{self._name}-{self._forgotten + skipped + len(page)}"
        return EndedSessions(sessions=page, next=following, keep_seconds=self._keep_seconds)

    def _forget(self, now: float) -> None:
        while self._forget_at and self._forget_at[oldest := next(iter(self._forget_at))] <= now:
            del self._forget_at[oldest]
            self._forgotten += 1

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
