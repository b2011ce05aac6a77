"""Credentials, signing keys, access tokens, refresh tokens that are valid once, known devices, and wrong passwords."""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv6Address, IPv6Network, ip_address
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
class Sender:
    """Where a request comes from. `device` is the device token that it has, or empty."""

    address: str = ""
    device: str = ""
    user_agent: str = ""

    @property
    def digest(self) -> bytes:
        """The hash by which a repeated request of the same device is known. An address may change in between."""
        return hashlib.sha256(f"{self.device}\n{self.user_agent}".encode()).digest()


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
class Session:
    """A session as its user sees it."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    user_agent: str


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh token: the id of its session, and a secret that only the newest token of the session has."""

    session_id: UUID
    secret: str

    @classmethod
    def new(cls) -> "Refresh":
        """A token with a random secret, for a new session."""
        return cls(uuid4(), secrets.token_urlsafe(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "Refresh | None":
        """Parse a token that a client sent. Returns None if it has another form."""
        session_id, _, secret = text.partition(".")
        found = read_session_id(session_id)
        return cls(found, secret) if found else None

    def successor(self, salt: bytes) -> "Refresh":
        """The token that follows this one. It cannot be computed from the salt alone, nor from this token alone."""
        secret = hmac.digest(self.secret.encode(), salt, "sha256")
        return Refresh(self.session_id, urlsafe_b64encode(secret).decode().rstrip("="))

    @property
    def text(self) -> str:
        return f"{self.session_id.hex}.{self.secret}"

    @property
    def digest(self) -> bytes:
        """The hash that the database stores. The secret is too long to be guessed from its hash."""
        return hashlib.sha256(self.secret.encode()).digest()


def read_session_id(text: str) -> UUID | None:
    """The id of a session that a client sent, or None if it has another form."""
    try:
        return UUID(hex=text)
    except ValueError:
        return None


def new_salt() -> bytes:
    """Random bytes for `Refresh.successor`."""
    return secrets.token_bytes(_SECRET_BYTES)


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


def device_token(user: Credential, device_id: str = "") -> str:
    """The token of a device that has logged in: a random id, and its HMAC with the hash of the user's password.

    So nothing is stored, the token is of no use for another account, and a new password makes it worthless.
    """
    device_id = device_id or secrets.token_urlsafe(16)
    mac = hmac.digest(user.password_hash.encode(), f"device {user.user_id} {device_id}".encode(), "sha256")
    return f"{device_id}.{urlsafe_b64encode(mac).decode().rstrip('=')}"


def known_device(user: Credential | None, token: str) -> str | None:
    """The id of the device, if `device_token` made this token for this user."""
    device_id = token.partition(".")[0]
    is_known = user and device_id and hmac.compare_digest(device_token(user, device_id).encode(), token.encode())
    return device_id if is_known else None


@dataclass(frozen=True, slots=True)
class Bucket:
    """Counts wrong passwords. `free` of them cause no wait, and one is forgotten every `leak_seconds`."""

    key: bytes
    free: int
    leak_seconds: float


def slowed(kind: str, name: str) -> bytes:
    """The key of an account, address or device in the table `throttles`, hashed so that the table reveals no names."""
    return hashlib.sha256(f"{kind}:{name}".encode(errors="backslashreplace")).digest()


def network(address: str) -> str:
    """What counts as one address. That is the /64 of an IPv6 address, because one customer has all of it."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    return str(found.ipv4_mapped or IPv6Network((int(found), 64), strict=False))
