"""Evaluates PromQL over `Series`. The language is in `language.py`.

What must stay true: the results are Prometheus' own. The same test file runs through `promtool test rules`.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

from console.metering import ranges
from console.metering.language import (
    COMPARISONS,
    SETS,
    Aggregation,
    BadExpression,
    Binary,
    Call,
    Node,
    Number,
    Selector,
    parse,
)

LOOKBACK_SECONDS = 300.0
_MAX_SECONDS = 2.0
"""How long one query may take. It runs in the event loop, so its pages and scrapes wait for it."""

_CACHED = 30_000
"""Labels do not change from step to step, so what is made of them is remembered."""

Labels: TypeAlias = frozenset[tuple[str, str]]
Vector: TypeAlias = dict[Labels, float]

_NAME = "__name__"
_NOTHING: Labels = frozenset()


@dataclass(frozen=True, slots=True)
class Sample:
    """One result at one time. The name of the series is in `labels` as `__name__`, if the expression keeps it."""

    labels: dict[str, str]
    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Line:
    """One result at many times: pairs of time and value. Times without a value are left out."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class Track(Protocol):
    """One series."""

    labels: Mapping[str, str]

    def before(self, at: float, lookback: float) -> float | None:
        """The newest value in the `lookback` seconds up to `at`, or None."""

    def between(self, after: float, until: float) -> list[tuple[float, float]]:
        """All samples later than `after` and not later than `until`."""

    def growth(self, after: float, until: float) -> ranges.Growth | None:
        """How a counter grew in these samples, or None if there are fewer than two."""


class Source(Protocol):
    """Where the samples are."""

    def select(self, name: str) -> Iterable[Track]:
        """The series of this name."""


def instant(expression: str, source: Source, at: float) -> list[Sample]:
    """Evaluate at one time. A scalar is one sample without labels. Raises `BadExpression`."""
    found = _Evaluation(source).value(parse(expression), at)
    vector = found if isinstance(found, dict) else {_NOTHING: found}
    return [Sample(dict(sorted(labels)), value, at) for labels, value in vector.items()]


def stepped(expression: str, source: Source, times: Sequence[float]) -> list[Line]:
    """Evaluate at each of the times. Raises `BadExpression`, also if it takes too long."""
    node, evaluation = parse(expression), _Evaluation(source)
    lines: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    until = time.monotonic() + _MAX_SECONDS
    for at in times:
        if time.monotonic() > until:
            raise BadExpression(f"the query takes over {_MAX_SECONDS:.0f} s: choose a larger step")
        found = evaluation.value(node, at)
        for labels, value in (found if isinstance(found, dict) else {_NOTHING: found}).items():
            lines[labels].append((at, value))
    return [Line(dict(sorted(labels)), points) for labels, points in lines.items()]


class _Evaluation:
    """One query. It looks for the series of each selector once, also if it is evaluated at many times."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._selected: dict[Selector, list[tuple[Labels, Track]]] = {}

    def value(self, node: Node, at: float) -> Vector | float:
        match node:
            case Number():
                return node.value
            case Selector():
                found = ((labels, track.before(at, LOOKBACK_SECONDS)) for labels, track in self._select(node))
                return {labels: value for labels, value in found if value is not None}
            case Aggregation():
                return _aggregated(node, self._vector(node.inner, at))
            case Binary():
                return self._binary(node, at)
            case Call():
                return self._call(node, at)

    def _select(self, node: Selector) -> list[tuple[Labels, Track]]:
        if node not in self._selected:
            self._selected[node] = [
                (frozenset(track.labels.items()), track)
                for track in self._source.select(node.name)
                if all(matcher.accepts(track.labels.get(matcher.label, "")) for matcher in node.matchers)
            ]
        return self._selected[node]

    def _vector(self, node: Node, at: float) -> Vector:
        found = self.value(node, at)
        if not isinstance(found, dict):
            raise BadExpression("a vector is needed here")
        return found

    def _scalar(self, node: Node, at: float) -> float:
        found = self.value(node, at)
        if isinstance(found, dict):
            raise BadExpression("a scalar is needed here")
        return found

    def _call(self, node: Call, at: float) -> Vector | float:
        match node.function, node.arguments:
            case "time", _:
                return at
            case "vector", (inner,):
                return {_NOTHING: self._scalar(inner, at)}
            case "absent", (inner,):
                return {} if self._vector(inner, at) else {_labels_of_absent(inner): 1.0}
            case "clamp_min", (inner, least):
                bound = self._scalar(least, at)
                return {_unnamed(labels): max(value, bound) for labels, value in self._vector(inner, at).items()}
            case "histogram_quantile", (quantile, buckets):
                return _quantiles(self._scalar(quantile, at), self._vector(buckets, at))
            case function, (Selector() as inner,):
                return self._over_range(function, inner, at)
            case _:
                raise BadExpression(f"{node.function} cannot be used like this")

    def _over_range(self, function: str, inner: Selector, at: float) -> Vector:
        seconds = inner.range_seconds or 0.0
        start, found = at - seconds, Vector()
        if function in ranges.OVER_TIME:
            combine = ranges.OVER_TIME[function]
            for labels, track in self._select(inner):
                if points := track.between(start, at):
                    found[_unnamed(labels)] = combine([value for _, value in points])
            return found
        per = seconds if function == "rate" else 1.0
        for labels, track in self._select(inner):
            if (growth := track.growth(start, at)) is not None:
                found[_unnamed(labels)] = ranges.increase(growth, start, at, per)
        return found

    def _binary(self, node: Binary, at: float) -> Vector | float:
        left, right = self.value(node.left, at), self.value(node.right, at)
        if node.operator in SETS:
            return _set(node, left, right)
        if isinstance(left, dict) and isinstance(right, dict):
            return _matched(node, left, right)
        if not isinstance(left, dict) and not isinstance(right, dict):
            return _calculate(node.operator, left, right)
        return _with_scalar(node.operator, left, right)


def _with_scalar(operator: str, left: Vector | float, right: Vector | float) -> Vector:
    """A comparison keeps the samples of the vector for which it is true."""
    vector = left if isinstance(left, dict) else right
    assert isinstance(vector, dict)  # noqa: S101 - the caller has the other cases
    found: Vector = {}
    for labels, value in vector.items():
        a = value if isinstance(left, dict) else left
        b = value if isinstance(right, dict) else right
        if operator not in COMPARISONS:
            found[_unnamed(labels)] = _calculate(operator, a, b)
        elif _holds(operator, a, b):
            found[labels] = value
    return found


def _matched(node: Binary, left: Vector, right: Vector) -> Vector:
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
        found[kept] = value if is_comparison else _calculate(node.operator, value, partners[key])
    return found


def _by_key(node: Binary, vector: Vector) -> Vector:
    found: Vector = {}
    for labels, value in vector.items():
        key = _key(node, labels)
        if key in found:
            raise BadExpression(f"several series of the right side match {dict(key)}")
        found[key] = value
    return found


def _set(node: Binary, left: Vector | float, right: Vector | float) -> Vector:
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


def _aggregated(node: Aggregation, vector: Vector) -> Vector:
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


def _quantiles(quantile: float, buckets: Vector) -> Vector:
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


def _calculate(operator: str, a: float, b: float) -> float:
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


def _unnamed(labels: Labels) -> Labels:
    return _without(labels, (_NAME,))


def _labels_of_absent(node: Node) -> Labels:
    """The labels that the missing series would have for certain."""
    if not isinstance(node, Selector):
        return _NOTHING
    equal = [(m.label, m.value) for m in node.matchers if m.operator == "=" and m.value]
    others = [m.label for m in node.matchers if m.operator != "="]
    return frozenset(pair for pair in equal if pair[0] not in others)
