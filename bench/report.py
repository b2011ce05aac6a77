"""Prints the results of a benchmark: the rates, their ratio, and the audit at the end."""

from collections.abc import Sequence
from dataclasses import dataclass


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


def ratio(label: str, value: float, floor: float, aim: float) -> None:
    met = "aim met" if value >= aim else "floor met" if value >= floor else "BELOW THE FLOOR"
    print(f"  {label}: {value:.2f} (floor {floor:g}, aim {aim:g}: {met})")


def most(label: str, value: float, unit: str, floor: float, aim: float) -> None:
    met = "aim met" if value <= aim else "limit met" if value <= floor else "ABOVE THE LIMIT"
    print(f"  {label}: {value:.2f} {unit} (at most {floor:g}, aim {aim:g}: {met})")


def audit(label: str, *counts: int) -> None:
    """All counts are counts of the same things in different places. If they differ, the benchmark is void and exits."""
    if len(set(counts)) != 1:
        raise SystemExit(f"AUDIT FAILED: {label}: {counts}")
    print(f"  audit: {label}: {counts[0]:,} everywhere")


def flat(label: str, value: float) -> None:
    print(f"  {label}: {value:.2f} ({'flat' if 0.9 <= value <= 1.1 else 'NOT FLAT'} to 10 %)")
