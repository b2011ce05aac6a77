"""Access tokens for tests, signed with test keys that are published over HTTP as auth publishes its keys."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from shared.web import tokens

USER, OTHER, ADMIN = "7", "8", "1"


class Mint:
    """Creates valid tokens and, with `changes`, invalid ones."""

    def __init__(self, kid: str = "test") -> None:
        self.kid, self.key = kid, Ed25519PrivateKey.generate()

    def token(self, user_id: str = USER, *roles: str, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token that is valid for an hour; a claim of None is left out."""
        now = int(time.time())
        claims = {
            "iss": tokens.ISSUER,
            "aud": tokens.AUDIENCE,
            "sub": user_id,
            "roles": list(roles),
            "sid": "a session",
            "iat": now,
            "exp": now + 3600,
        } | changes
        kept = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": self.kid, "typ": tokens.TYPE} | (header or {})
        return jwt.encode(kept, self.key, algorithm=tokens.ALGORITHM, headers=headers)

    def header(self, user_id: str = USER, *roles: str, **changes: Any) -> dict[str, str]:
        """The header of a request with such a token."""
        return {"Authorization": f"Bearer {self.token(user_id, *roles, **changes)}"}

    @property
    def admin(self) -> dict[str, str]:
        """The header of an administrator's request."""
        return self.header(ADMIN, tokens.ADMIN)

    def published(self) -> dict[str, Any]:
        """The public key, as a JWK set."""
        jwk = OKPAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [jwk | {"kid": self.kid, "use": "sig", "alg": tokens.ALGORITHM}]}


@asynccontextmanager
async def publishing(mint: Mint) -> AsyncIterator[str]:
    """Serve the mint's keys over HTTP; yield the URL."""

    async def keys(_: web.Request) -> web.Response:
        return web.json_response(mint.published())

    app = web.Application()
    app.router.add_get("/auth/jwks.json", keys)
    async with TestServer(app) as server:
        yield str(server.make_url("/auth/jwks.json"))
