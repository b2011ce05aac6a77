"""The locks of the Python packages: exact versions, and the SHA-256 of each file that pip may install."""

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
_PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)((?:.*\\\n)*.*)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Package:
    """A package of PyPI in one version. `hashes` are those of its files: one per platform, or the source."""

    name: str
    version: str
    hashes: tuple[str, ...]


def files() -> list[Path]:
    """All locks of the project. The one of the example comes last."""
    return [*sorted((PROJECT / "requirements").glob("*.txt")), PROJECT / "examples" / "shipping" / "requirements.txt"]


def packages(lock: Path) -> list[Package]:
    """What a lock has."""
    found = _PACKAGE.findall(lock.read_text())
    return [Package(name, version, tuple(_HASH.findall(rest))) for name, version, rest in found]
