"""The functions over the samples of one series: rates and extremes, and quantiles of histograms.

What must stay true: the arithmetic is Prometheus' own (`promql/functions.go`, `promql/quantile.go`).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

Points: TypeAlias = Sequence[tuple[float, float]]


class Growth(NamedTuple):
    """How a counter grew between its first and its last sample in a range."""

    first_at: float
    last_at: float
    samples: int
    first: float
    grown: float


def growth(points: Points) -> Growth | None:
    """The growth over some samples. None if there are fewer than two. A smaller value means a restart from 0."""
    if len(points) < 2:
        return None
    (first_at, first), (last_at, last) = points[0], points[-1]
    return Growth(first_at, last_at, len(points), first, last - first + resets([value for _, value in points]))


def resets(values: Sequence[float]) -> float:
    """The sum of the counter's values just before each reset to 0."""
    return sum(before for before, after in pairwise(values) if after < before)


def increase(found: Growth, start: float, end: float, per: float = 1.0) -> float:
    """By how much a counter grew, extrapolated to the ends of the range, for each `1 / per` of it."""
    sampled = found.last_at - found.first_at
    between = sampled / (found.samples - 1)
    to_start, to_end = found.first_at - start, end - found.last_at
    if to_start >= between * 1.1:
        to_start = between / 2
    if found.grown > 0 and found.first >= 0:
        to_start = min(to_start, sampled * (found.first / found.grown))  # a counter was never below 0
    if to_end >= between * 1.1:
        to_end = between / 2
    return found.grown * ((sampled + to_start + to_end) / sampled / per)


_TOLERANCE = 1e-12

OVER_TIME: dict[str, Callable[[list[float]], float]] = {
    "max_over_time": max,
    "min_over_time": min,
    "avg_over_time": lambda values: math.fsum(values) / len(values),
}


def quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float:
    """The quantile of a histogram: pairs of upper bound and cumulative count, sorted. NaN if it is not known."""
    if math.isnan(q) or len(buckets) < 2 or buckets[-1][0] != math.inf:
        return math.nan
    if not 0 <= q <= 1:
        return math.copysign(math.inf, q - 0.5)
    bounds, counts = [bound for bound, _ in buckets], _growing([count for _, count in buckets])
    if not counts[-1]:
        return math.nan
    rank = q * counts[-1]
    index = next((n for n, count in enumerate(counts[:-1]) if count >= rank), len(counts) - 1)
    if index == len(counts) - 1:
        return bounds[-2]
    if index == 0 and bounds[0] <= 0:
        return bounds[0]
    start, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    inside = counts[index] - below
    return start + (bounds[index] - start) * ((rank - below) / inside)


def _growing(counts: list[float]) -> list[float]:
    """Buckets that were read at different times may shrink a little: use the count before."""
    found, most = [], counts[0]
    for count in counts:
        most = max(most, count) if not math.isclose(count, most, rel_tol=_TOLERANCE) else most
        found.append(most)
    return found
