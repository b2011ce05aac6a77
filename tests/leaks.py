"""Finds tokens, passwords and keys in the logs of a run."""

import base64
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PATTERNS = {
    "a signed token": re.compile(rb"eyJ[\w-]{8,}\.[\w-]{8,}"),
    "a bearer token": re.compile(rb"(?i)\bbearer\s+[\w.~+/-]{12,}"),
    "a password in a URL": re.compile(rb"\b\w+://[^\s/:@\"']*:[^\s/@\"']+@"),
    "a private key": re.compile(rb"PRIVATE KEY-----"),
    "a hashed password": re.compile(rb"\$argon2id?\$"),
}


def found(folder: Path, texts: Iterable[str] = (), keys: Iterable[bytes] = ()) -> list[str]:
    """Search all files of `folder`. Returns a line for each kind of secret in each file, without the secret.

    `texts` are passwords and tokens that the run used, `keys` are private keys.
    """
    known = [text.encode() for text in texts if text]
    known += [written for key in keys for written in _written(key)]
    complaints = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        what = [name for name, pattern in PATTERNS.items() if pattern.search(content)]
        what += ["a secret of this run"] if any(secret in content for secret in known) else []
        complaints += [f"{file.name} has {name}" for name in what]
    return complaints


def _written(key: bytes) -> Iterator[bytes]:
    """The ways in which a program could write the bytes of a key into a log."""
    yield key
    yield key.hex().encode()
    yield base64.b64encode(key).rstrip(b"=")
    yield base64.urlsafe_b64encode(key).rstrip(b"=")
    yield repr(key)[2:-1].encode()
    yield repr(key)[2:-1].replace("\\", "\\\\").encode()  # in JSON
