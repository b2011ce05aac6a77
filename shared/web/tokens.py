"""Access tokens: JWTs (as in RFC 9068), signed with Ed25519, with the caller's id and roles.

What must stay true: the caller is known from the token alone, and only if its signature is valid. Only Ed25519 is
tried, whatever algorithm the token's header names. Its name is `Ed25519` (RFC 9864); `EdDSA` is the former name.
"""

import re
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm

from ..errors import Unauthenticated

ISSUER = "quickbite/auth"
AUDIENCE = "quickbite"
ALGORITHM = "Ed25519"
ALGORITHMS = (ALGORITHM, "EdDSA")
"""A token may have one of these names. The second can go when no token of a former release is valid any more."""
TYPE = "at+jwt"
ADMIN = "admin"
MAX_LENGTH = 4096
LEEWAY_SECONDS = 5

jwt.register_algorithm(ALGORITHM, OKPAlgorithm())  # PyJWT 2.15 knows only the former name

_SHAPE = re.compile(r"[\w-]+\.[\w-]+\.[\w-]{86}", re.ASCII)
"""Header, claims and a signature of 64 bytes, in base64url without padding. A token has only one spelling."""

_REQUIRED = ["iss", "aud", "sub", "exp", "iat", "sid", "roles"]


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: a user, or `TRUSTED` if the service requires no token."""

    user_id: str
    roles: frozenset[str] = frozenset()
    session_id: str = ""
    expires_at: int = 0

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.roles

    def may_see(self, user_id: str | None) -> bool:
        """True if the caller may see what belongs to this user."""
        return self.is_admin or (user_id is not None and user_id == self.user_id)


TRUSTED = Caller("", frozenset({ADMIN}))
"""The caller without a token, at a service that requires none. No user has this id."""


def key_id(token: str) -> str | None:
    """The name of the key that signed a token (`kid`), if the token has the right form. Raises `Unauthenticated`."""
    if len(token) > MAX_LENGTH:
        raise Unauthenticated(f"the token is longer than {MAX_LENGTH} characters")
    if not _SHAPE.fullmatch(token):
        raise Unauthenticated("the token cannot be read")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError):
        raise Unauthenticated("the token cannot be read") from None
    is_ours = header.get("alg") in ALGORITHMS and str(header.get("typ")).lower() == TYPE
    if not is_ours or "crit" in header:
        raise Unauthenticated("the token is not an access token of this shop")
    return header.get("kid")


def public_key(jwk: dict[str, Any]) -> Ed25519PublicKey:
    """The key in a JWK. Raises `jwt.InvalidKeyError`."""
    key = OKPAlgorithm.from_jwk(jwk)
    if not isinstance(key, Ed25519PublicKey):
        raise jwt.InvalidKeyError("not the public half of an Ed25519 key")
    return key


def read(token: str, key: Ed25519PublicKey) -> Caller:
    """The caller in a token, if `key` has signed it and it is valid now. Raises `Unauthenticated`."""
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
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


def sign(key: Ed25519PrivateKey, kid: str, claims: dict[str, Any]) -> str:
    """Sign claims with the private half of a published key."""
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": kid, "typ": TYPE})
