"""What a login is made of: keys that sign, access tokens that say who, refresh tokens that are good once."""

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

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Credential:
    """Who may log in, and with which password."""

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
        """Give its public half, as a JWK (RFC 8037)."""
        jwk = OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return jwk | {"kid": self.kid, "use": "sig", "alg": tokens.ALGORITHM}


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh token: which session it is of, and a secret that only the newest token of the session has."""

    session_id: UUID
    secret: str

    @classmethod
    def new(cls, session_id: UUID | None = None) -> "Refresh":
        """Make one that nobody can guess."""
        return cls(session_id or uuid4(), secrets.token_urlsafe(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "Refresh | None":
        """Read what a client sent back."""
        session_id, _, secret = text.partition(".")
        try:
            return cls(UUID(hex=session_id), secret)
        except ValueError:
            return None

    @property
    def text(self) -> str:
        """What the client keeps."""
        return f"{self.session_id.hex}.{self.secret}"

    @property
    def digest(self) -> bytes:
        """What the database keeps: of a secret this long, nobody can find it again."""
        return hashlib.sha256(self.secret.encode()).digest()


def new_key() -> tuple[str, bytes]:
    """Make a key: its name, and the raw 32 bytes of its private half."""
    return secrets.token_hex(8), Ed25519PrivateKey.generate().private_bytes_raw()


def access_token(key: Key, user: Credential, session_id: UUID, now: datetime, seconds: int) -> str:
    """Say, signed, who the caller is, for so many seconds."""
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
    """Name an account or an address in the table of failures, which is not to tell who tried what."""
    return hashlib.sha256(f"{kind}:{name}".encode(errors="backslashreplace")).digest()
