"""Sets the passwords of the roles, as SCRAM verifiers: no statement and no log has a password (RFC 5802)."""

import hashlib
import hmac
import os
import secrets
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg

from shared.process.secret import rewrite

ITERATIONS = 4096  # as Postgres itself
FORMER = "postgres"
"""The superuser's password in databases of earlier releases."""

# A verifier is no password, but nobody needs to read it either.
_UNLOGGED = {"log_min_error_statement": "panic", "log_min_duration_statement": "-1"}


def verifier(password: str) -> str:
    """What Postgres stores of a password of ASCII characters. Each call uses another salt."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [b64encode(part).decode() for part in (salt, stored, server)]
    return "SCRAM-SHA-256${}:{}${}:{}".format(ITERATIONS, *encoded)


async def replace_former(url: str) -> None:
    """Set the superuser's password to the one in `url`. Nothing is done if the superuser has this password already.

    Otherwise the superuser must have the password of an earlier release. Raises `InvalidPasswordError` if not.
    """
    try:
        conn = await asyncpg.connect(url, timeout=10)
    except asyncpg.InvalidPasswordError:
        conn = await asyncpg.connect(url, password=FORMER, timeout=10, server_settings=_UNLOGGED)
        await conn.execute(f"alter role current_user password '{verifier(unquote(urlsplit(url).password or ''))}'")
    await conn.close()


async def rotate(url: str, role: str, file: Path) -> None:
    """Give a role a new password, and write it to its file. Processes read the file at each new connection.

    Both change within milliseconds. A process that connects in between tries again. Open connections stay.
    """
    conn = await asyncpg.connect(url, timeout=10, server_settings=_UNLOGGED)
    try:
        password = secrets.token_urlsafe(32)
        async with conn.transaction():
            await conn.execute(f"alter role {role} password '{verifier(password)}'")
            rewrite(file, password)
    finally:
        await conn.close()


async def set_all(url: str, verifiers: Mapping[str, str]) -> None:
    """Set the password of each section's role."""
    conn = await asyncpg.connect(url, timeout=10, server_settings=_UNLOGGED)
    try:
        for section, stored in verifiers.items():
            await conn.execute(f"alter role {section}_user password '{stored}'")
    finally:
        await conn.close()
