"""The functions over the samples of one series: rates and extremes, and quantiles of histograms.

What must stay true: the arithmetic is Prometheus' own (`promql/functions.go`, `promql/quantile.go`).
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

Points: TypeAlias = Sequence[tuple[float, float]]
Function: TypeAlias = Callable[[Points, float, float], float | None]
"""A function of the samples between two times, the first of which is not included. None if there is no result."""

_TOLERANCE = 1e-12


def increase(points: Points, start: float, end: float) -> float | None:
    """By how much a counter grew, extrapolated to the ends of the range. A smaller value means a restart from 0."""
    return _grown(points, start, end, 1.0)


def rate(points: Points, start: float, end: float) -> float | None:
    """The increase for each second."""
    return _grown(points, start, end, end - start)


def _grown(points: Points, start: float, end: float, per: float) -> float | None:
    if len(points) < 2:
        return None
    first_at, first = points[0]
    last_at, last = points[-1]
    grown, before = last - first, first
    for _, value in points:
        if value < before:
            grown += before
        before = value
    sampled = last_at - first_at
    between = sampled / (len(points) - 1)
    to_start, to_end = first_at - start, end - last_at
    if to_start >= between * 1.1:
        to_start = between / 2
    if grown > 0 and first >= 0:
        to_start = min(to_start, sampled * (first / grown))  # a counter was never below 0
    if to_end >= between * 1.1:
        to_end = between / 2
    return grown * ((sampled + to_start + to_end) / sampled / per)


def _simple(combine: Callable[[list[float]], float]) -> Function:
    return lambda points, _start, _end: combine([value for _, value in points]) if points else None


FUNCTIONS: dict[str, Function] = {
    "increase": increase,
    "rate": rate,
    "max_over_time": _simple(max),
    "min_over_time": _simple(min),
    "avg_over_time": _simple(lambda values: math.fsum(values) / len(values)),
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
