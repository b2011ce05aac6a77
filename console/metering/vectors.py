"""Vectors: results by labels at one time, and what operators, aggregations and histograms make of them."""

import math
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from console.metering import ranges
from console.metering.language import COMPARISONS, Aggregation, BadExpression, Binary

_CACHED = 30_000
"""Labels do not change from step to step, so what is made of them is remembered."""

Labels: TypeAlias = frozenset[tuple[str, str]]
Vector: TypeAlias = dict[Labels, float]

_NAME = "__name__"
NOTHING: Labels = frozenset()


def with_scalar(operator: str, left: Vector | float, right: Vector | float) -> Vector:
    """A comparison keeps the samples of the vector for which it is true."""
    vector = left if isinstance(left, dict) else right
    assert isinstance(vector, dict)  # noqa: S101 - the caller has the other cases
    found: Vector = {}
    for labels, value in vector.items():
        a = value if isinstance(left, dict) else left
        b = value if isinstance(right, dict) else right
        if operator not in COMPARISONS:
            found[unnamed(labels)] = calculate(operator, a, b)
        elif _holds(operator, a, b):
            found[labels] = value
    return found


def matched(node: Binary, left: Vector, right: Vector) -> Vector:
    """One to one. The result of a comparison is the left side's value."""
    partners = _by_key(node, right)
    seen: set[Labels] = set()
    found: Vector = {}
    for labels, value in left.items():
        key = _key(node, labels)
        if key not in partners:
            continue
        if key in seen:
            raise BadExpression(f"several series of the left side match {dict(key)}")
        seen.add(key)
        is_comparison = node.operator in COMPARISONS
        if is_comparison and not _holds(node.operator, value, partners[key]):
            continue
        kept = key if node.on is not None or not is_comparison else _without(labels, node.ignoring)
        found[kept] = value if is_comparison else calculate(node.operator, value, partners[key])
    return found


def _by_key(node: Binary, vector: Vector) -> Vector:
    found: Vector = {}
    for labels, value in vector.items():
        key = _key(node, labels)
        if key in found:
            raise BadExpression(f"several series of the right side match {dict(key)}")
        found[key] = value
    return found


def combined(node: Binary, left: Vector | float, right: Vector | float) -> Vector:
    assert isinstance(left, dict)  # noqa: S101 - the parser refuses scalars here
    assert isinstance(right, dict)  # noqa: S101
    on_the_right = {_key(node, labels) for labels in right}
    match node.operator:
        case "and":
            return {labels: value for labels, value in left.items() if _key(node, labels) in on_the_right}
        case "unless":
            return {labels: value for labels, value in left.items() if _key(node, labels) not in on_the_right}
        case _:
            on_the_left = {_key(node, labels) for labels in left}
            return left | {labels: value for labels, value in right.items() if _key(node, labels) not in on_the_left}


def aggregated(node: Aggregation, vector: Vector) -> Vector:
    groups: dict[Labels, list[float]] = defaultdict(list)
    for labels, value in vector.items():
        key = _without(labels, (*node.labels, _NAME)) if node.without else _only(labels, node.labels)
        groups[key].append(value)
    combine = _COMBINE[node.operator]
    return {labels: combine(values) for labels, values in groups.items()}


_COMBINE: dict[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "max": max,
    "min": min,
    "count": len,
    "avg": lambda values: math.fsum(values) / len(values),
}


def quantiles(quantile: float, buckets: Vector) -> Vector:
    histograms: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, count in buckets.items():
        bound = _bound(labels)
        if bound is not None:
            histograms[_without(labels, ("le", _NAME))].append((bound, count))
    return {labels: ranges.quantile(quantile, sorted(found)) for labels, found in histograms.items()}


@lru_cache(_CACHED)
def _bound(labels: Labels) -> float | None:
    """The upper bound of a bucket. None if the series is no bucket."""
    try:
        return float(dict(labels).get("le", ""))
    except ValueError:
        return None


def calculate(operator: str, a: float, b: float) -> float:
    match operator:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case _ if b:
            return a / b
        case _:
            return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _holds(operator: str, a: float, b: float) -> bool:
    match operator:
        case "==":
            return a == b
        case "!=":
            return a != b
        case ">":
            return a > b
        case "<":
            return a < b
        case ">=":
            return a >= b
        case _:
            return a <= b


def _key(node: Binary, labels: Labels) -> Labels:
    return _only(labels, node.on) if node.on is not None else _without(labels, (*node.ignoring, _NAME))


@lru_cache(_CACHED)
def _only(labels: Labels, names: tuple[str, ...]) -> Labels:
    return frozenset(label for label in labels if label[0] in names)


@lru_cache(_CACHED)
def _without(labels: Labels, names: tuple[str, ...]) -> Labels:
    return frozenset(label for label in labels if label[0] not in names)


def unnamed(labels: Labels) -> Labels:
    return _without(labels, (_NAME,))
