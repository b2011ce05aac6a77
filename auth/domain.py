"""Credentials, signing keys, access tokens, and refresh tokens that are valid once."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from shared.web import tokens

ADMIN_NAME = "admin"
USERNAME = r"^[a-z0-9][a-z0-9._-]{2,31}$"

GRACE_SECONDS = 60
"""For so long after an access token expires, its key and its ended session are kept, because clocks differ."""

_SECRET_BYTES = 32
_FIRST_VISITOR = 2**62


@dataclass(frozen=True, slots=True)
class Credential:
    """A user who can log in, and the hash of their password."""

    user_id: int
    username: str
    password_hash: str
    roles: list[str]


@dataclass(frozen=True, slots=True)
class Key:
    """A key that signs access tokens."""

    kid: str
    private: Ed25519PrivateKey

    def published(self) -> dict[str, Any]:
        """Its public half, as a JWK (RFC 8037)."""
        jwk = OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return jwk | {"kid": self.kid, "use": "sig", "alg": tokens.ALGORITHM}


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh token: the id of its session, and a secret that only the newest token of the session has."""

    session_id: UUID
    secret: str

    @classmethod
    def new(cls, session_id: UUID | None = None) -> "Refresh":
        """A token with a random secret, for a new session or for `session_id`."""
        return cls(session_id or uuid4(), secrets.token_urlsafe(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "Refresh | None":
        """Parse a token that a client sent. Returns None if it has another form."""
        session_id, _, secret = text.partition(".")
        try:
            return cls(UUID(hex=session_id), secret)
        except ValueError:
            return None

    @property
    def text(self) -> str:
        return f"{self.session_id.hex}.{self.secret}"

    @property
    def digest(self) -> bytes:
        """The hash that the database stores. The secret is too long to be guessed from its hash."""
        return hashlib.sha256(self.secret.encode()).digest()


def new_visitor() -> Credential:
    """A visitor, who cannot log in and is stored nowhere. No registered user has such a high id."""
    return Credential(_FIRST_VISITOR + secrets.randbelow(_FIRST_VISITOR), "", "", [])


def new_key() -> tuple[str, bytes]:
    """A new key: its name, and the raw 32 bytes of its private half."""
    return secrets.token_hex(8), Ed25519PrivateKey.generate().private_bytes_raw()


def access_token(key: Key, user: Credential, session_id: UUID, now: datetime, seconds: int) -> str:
    """Create a signed token with the user's id and roles, valid for `seconds`."""
    issued_at = int(now.timestamp())
    claims = {
        "iss": tokens.ISSUER,
        "aud": tokens.AUDIENCE,
        "sub": str(user.user_id),
        "roles": user.roles,
        "sid": session_id.hex,
        "iat": issued_at,
        "exp": issued_at + seconds,
    }
    return tokens.sign(key.private, key.kid, claims)


def slowed(kind: str, name: str) -> bytes:
    """The key of an account or address in the table `throttles`, hashed so that the table reveals no names."""
    return hashlib.sha256(f"{kind}:{name}".encode(errors="backslashreplace")).digest()
