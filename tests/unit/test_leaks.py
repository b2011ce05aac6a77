"""The search for secrets in logs finds each kind of secret, and nothing in ordinary lines."""

import base64
import json
from pathlib import Path

import pytest

from tests import leaks
from tests.tokens import Mint

KEY = bytes(range(200, 232))
PLANTED = {
    "a signed token": Mint().header("7")["Authorization"].removeprefix("Bearer "),
    "a bearer token": "authorization: Bearer 4f8a.Zm9vYmFyYmF6cXV4",
    "a password in a URL": "cannot connect to postgresql://orders_user:orders@127.0.0.1:5433/quickbite",
    "a private key": "-----BEGIN PRIVATE KEY-----",
    "a hashed password": "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA",
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_is_found(tmp_path: Path, kind: str) -> None:
    (tmp_path / "orders.log.1").write_text(json.dumps({"event": f"x {PLANTED[kind]} y"}) + "\n")
    (complaint,) = leaks.found(tmp_path)
    assert complaint == f"orders.log.1 has {kind}"
    assert PLANTED[kind] not in complaint


@pytest.mark.parametrize(
    "line",
    [
        KEY,
        KEY.hex().encode(),
        base64.b64encode(KEY),
        base64.urlsafe_b64encode(KEY),
        repr(KEY).encode(),
        json.dumps({"key": repr(KEY)}).encode(),
    ],
)
def test_a_key_is_found_however_it_is_written(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "auth.log").write_bytes(line)
    assert leaks.found(tmp_path, keys=[KEY]) == ["auth.log has a secret of this run"]
    assert leaks.found(tmp_path, keys=[KEY[::-1]]) == []


def test_a_password_of_the_run_is_found(tmp_path: Path) -> None:
    (tmp_path / "postgres.log").write_text('{"message":"duration: 1 ms","detail":"$1 = \'correct horse battery\'"}')
    assert leaks.found(tmp_path, ["", "correct horse battery"]) == ["postgres.log has a secret of this run"]


def test_ordinary_lines_have_no_secret(tmp_path: Path) -> None:
    lines = [
        '{"event": "ready", "url": "http://127.0.0.1:8080/", "service": "orders"}',
        '{"event": "wrong password", "detail": "a valid token is required: Authorization: Bearer <token>"}',
        '{"event": "connected", "to": "postgresql://...@127.0.0.1/quickbite", "at": "2026-01-31T12:00:00+00:00"}',
        "[2026-01-31 12:00:00,123] INFO [broker-1] listening on PLAINTEXT://127.0.0.1:9092 (kafka.Server)",
    ]
    (tmp_path / "all.log").write_text("\n".join(lines))
    assert leaks.found(tmp_path) == []
