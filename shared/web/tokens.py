"""Access tokens: JWTs in the manner of RFC 9068, signed with Ed25519, that say who calls and as what.

What must stay true: a caller is what the token says, and the token says it only if the signature is right; whatever
its own header names, no other algorithm is tried.
"""

import re
from dataclasses import dataclass
from typing import Any

import jwt

from shared.errors import Unauthenticated

ISSUER = "quickbite/auth"
AUDIENCE = "quickbite"
ALGORITHM = "EdDSA"
TYPE = "at+jwt"
ADMIN = "admin"
MAX_LENGTH = 4096
LEEWAY_SECONDS = 5

_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]{86}", re.ASCII)
"""Header, claims and the 64 bytes of a signature, in base64url without padding: a token has one spelling."""

_REQUIRED = ["iss", "aud", "sub", "exp", "iat", "sid", "roles"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request: a user, or, where a service asks for no token, `TRUSTED`."""

    user_id: str
    roles: frozenset[str] = frozenset()
    session_id: str = ""
    expires_at: int = 0

    @property
    def is_admin(self) -> bool:
        """Say whether they may see and change everything."""
        return ADMIN in self.roles

    def may_see(self, user_id: str | None) -> bool:
        """Say whether something that belongs to this user is theirs to see."""
        return self.is_admin or (user_id is not None and user_id == self.user_id)


TRUSTED = Caller("", frozenset({ADMIN}))
"""Whoever can reach a port that asks for no token; no user has this id."""


def key_id(token: str) -> str | None:
    """Tell which key a token names; only a token that could be one of ours gets that far. Raises `Unauthenticated`."""
    if len(token) > MAX_LENGTH:
        raise Unauthenticated(f"the token is longer than {MAX_LENGTH} characters")
    if not _SHAPE.fullmatch(token):
        raise Unauthenticated("the token cannot be read")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError):
        raise Unauthenticated("the token cannot be read") from None
    if (header.get("alg"), str(header.get("typ")).lower()) != (ALGORITHM, TYPE) or "crit" in header:
        raise Unauthenticated("the token is not an access token of this shop")
    return header.get("kid")


def read(token: str, key: jwt.PyJWK) -> Caller:
    """Give the caller that a token names, if this key has signed it and it is good now. Raises `Unauthenticated`."""
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            audience=AUDIENCE,
            leeway=LEEWAY_SECONDS,
            options={"require": _REQUIRED, "strict_aud": True},
        )
    except jwt.ExpiredSignatureError:
        raise Unauthenticated("the token has expired") from None
    except (jwt.InvalidTokenError, ValueError, OverflowError):
        raise Unauthenticated("the token is not valid") from None
    user_id, roles, session_id = claims["sub"], claims["roles"], claims["sid"]
    well_formed = isinstance(roles, list) and all(isinstance(text, str) for text in (*roles, session_id))
    if not well_formed or not user_id or not session_id or not isinstance(claims["exp"], int):
        raise Unauthenticated("the token is not valid")
    return Caller(user_id, frozenset(roles), session_id, claims["exp"])


def sign(key: Any, kid: str, claims: dict[str, Any]) -> str:
    """Make a token of claims, with the private half of a published key."""
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": kid, "typ": TYPE})
