"""Known weaknesses of the locked Python packages, from the index of PyPI or a service like it, through pip-audit.

What must stay true: a weakness that is found fails. An index that does not answer fails nothing, and one line says so.
Each question is answered within `SECONDS`, the first within `PROBE_SECONDS`, or counts as not answered.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts import locks
from parts.locks import Package

SECONDS, PROBE_SECONDS = 90, 20
_ANSWER_SECONDS = 5
ACCEPTED: dict[str, str] = {}
"""Weaknesses that do not concern QuickBite, by their ids: why."""


@dataclass(frozen=True, slots=True)
class Found:
    """The weaknesses, a line for each, and the packages that the index knew. If a question failed, `reason` is why."""

    weaknesses: tuple[str, ...] = ()
    audited: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    reason: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        if self.weaknesses:
            return self.weaknesses
        if self.reason:
            return (f"No Python package was audited: {self.reason}",)
        rest = f"; the index does not know {len(self.unknown)} others" if self.unknown else ""
        return (f"No known weakness in {len(self.audited)} Python packages{rest}.",)

    def __or__(self, other: "Found") -> "Found":
        return Found(
            tuple(dict.fromkeys(self.weaknesses + other.weaknesses)),
            self.audited | other.audited,
            self.unknown | other.unknown,
            self.reason or other.reason,
        )


def audit(files: Sequence[Path], osv_url: str = "", seconds: float = SECONDS) -> Found:
    """Ask about the packages of all locks, if the index answers the question about the first of them."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.txt")
        package = locks.packages(files[0])[0]
        hashes = "".join(f" --hash=sha256:{one}" for one in package.hashes)
        probe.write_text(f"{package.name}=={package.version}{hashes}\n")
        found = _ask(probe, osv_url, min(seconds, PROBE_SECONDS))
    for lock in () if found.reason else enough(files):
        found |= _ask(lock, osv_url, seconds)
    return found


def enough(files: Sequence[Path]) -> list[Path]:
    """The locks that have all packages of all locks: most are parts of another."""
    chosen, seen = [], set[Package]()
    for lock in sorted(files, key=lambda file: len(locks.packages(file)), reverse=True):
        if not seen.issuperset(found := locks.packages(lock)):
            chosen.append(lock)
            seen.update(found)
    return chosen


def _ask(lock: Path, osv_url: str, seconds: float) -> Found:
    # A lock has each package once. pip-audit refuses two locks with the same package.
    service = ["--vulnerability-service", "osv", "--osv-url", osv_url] if osv_url else []
    ignored = [argument for one in ACCEPTED for argument in ("--ignore-vuln", one)]
    quiet = ("--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", str(_ANSWER_SECONDS))
    command = [sys.executable, "-m", "pip_audit", *quiet, *service, *ignored, "--requirement", str(lock)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds)  # noqa: S603
    except subprocess.TimeoutExpired:
        return Found(reason=f"the index did not answer within {seconds:.0f} s")
    return judge(done.stdout, done.stderr)


def judge(output: str, errors: str) -> Found:
    """What the output of pip-audit means. It exits with 1 for a weakness, and also if nobody answers."""
    try:
        packages = json.loads(output)["dependencies"]
    except ValueError:
        return Found(reason=(errors.strip().splitlines() or ["pip-audit printed nothing"])[-1][:200])
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        return Found(reason="the index answers, but has no list of weaknesses")
    return Found(
        tuple(_line(package, weakness) for package in audited for weakness in package["vulns"]),
        frozenset(f"{package['name']} {package['version']}" for package in audited),
        frozenset(package["name"] for package in packages if "vulns" not in package),
    )


def _line(package: dict[str, Any], weakness: dict[str, Any]) -> str:
    mended = ", ".join(weakness["fix_versions"]) or "no release yet"
    return f"{package['name']} {package['version']} has the weakness {weakness['id']}, mended in: {mended}"
