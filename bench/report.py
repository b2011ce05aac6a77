"""Prints the results of a benchmark: the rates, their ratio, and the audit at the end."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """A figure of a benchmark that has a limit: at least, or at most, `limit`."""

    benchmark: str
    label: str
    value: float
    limit: float
    better: Literal["more", "less"]

    @property
    def name(self) -> str:
        return f"{self.benchmark}: {self.label}"

    @property
    def is_within(self) -> bool:
        return self.value >= self.limit if self.better == "more" else self.value <= self.limit


_FIGURES: list[Figure] = []
_running = [""]


@dataclass(frozen=True)
class Rate:
    """`count` things in `seconds` seconds. Latencies and CPU are in seconds, and empty if they were not measured."""

    name: str
    count: int
    seconds: float
    latencies: Sequence[float] = ()
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    def __str__(self) -> str:
        text = f"  {self.name:<58} {self.per_second:>10,.0f} /s"
        if self.latencies:
            p50, p99 = (percentile(self.latencies, p) * 1e3 for p in (50, 99))
            text += f"   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms"
        if self.cpu_seconds:
            text += f"   {self.cpu_seconds / self.count * 1e6:6.1f} us CPU each"
        return text


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def show(title: str, *rates: Rate) -> None:
    print(f"\n{title}")
    for rate in rates:
        print(rate)


def begin(benchmark: str) -> None:
    """The figures from now on are those of this benchmark."""
    _running[0] = benchmark


def write(file: Path, version: str) -> None:
    """Write all figures of this run, with the machine and the version of the code."""
    machine = f"{os.cpu_count()} cores, {_processor()}"
    about = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "version": version, "machine": machine}
    file.write_text(json.dumps(about | {"figures": [asdict(figure) for figure in _FIGURES]}, indent=1) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def ratio(label: str, value: float, floor: float, aim: float) -> None:
    _FIGURES.append(Figure(_running[0], label, value, floor, "more"))
    met = "aim met" if value >= aim else "floor met" if value >= floor else "BELOW THE FLOOR"
    print(f"  {label}: {value:.2f} (floor {floor:g}, aim {aim:g}: {met})")


def most(label: str, value: float, unit: str, floor: float, aim: float) -> None:
    _FIGURES.append(Figure(_running[0], f"{label}, {unit}", value, floor, "less"))
    met = "aim met" if value <= aim else "limit met" if value <= floor else "ABOVE THE LIMIT"
    print(f"  {label}: {value:.2f} {unit} (at most {floor:g}, aim {aim:g}: {met})")


def audit(label: str, *counts: int) -> None:
    """All counts are counts of the same things in different places. If they differ, the benchmark is void and exits."""
    if len(set(counts)) != 1:
        raise SystemExit(f"AUDIT FAILED: {label}: {counts}")
    print(f"  audit: {label}: {counts[0]:,} everywhere")


def flat(label: str, value: float) -> None:
    print(f"  {label}: {value:.2f} ({'flat' if 0.9 <= value <= 1.1 else 'NOT FLAT'} to 10 %)")
