"""The signing keys in memory."""

from typing import Any

from auth import domain, store
from auth.domain import Key
from shared import errors, postgres
from shared.postgres import Pool


class Keyring:
    """The keys that `reload` read last. `auth/worker.py` calls it every second."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._published: list[Key] = []
        self._signing: Key | None = None

    async def reload(self) -> None:
        """Read the keys. Creates the first key if there is none."""
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            found = await store.keys(conn)
        if not found:
            async with postgres.transaction(self._pool) as conn:
                await store.add_first_key(conn, *domain.new_key())
                found = await store.keys(conn)
        self._published = [key for key, _ in found]
        self._signing = next((key for key, signs in found if signs), None)

    @property
    def signing(self) -> Key:
        """The key that signs now. Raises `Unavailable` while no keys have been read."""
        if self._signing is None:
            raise errors.Unavailable("the keys cannot be read right now")
        return self._signing

    def published(self) -> dict[str, Any]:
        """All public keys, as a JWK set. Raises `Unavailable` while no keys have been read."""
        if not self._published:
            raise errors.Unavailable("the keys cannot be read right now")
        return {"keys": [key.published() for key in self._published]}
