"""Evaluates PromQL over `Series`. The language is in `language.py`.

What must stay true: the results are Prometheus' own. The same test file runs through `promtool test rules`.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from console.metering import ranges, vectors
from console.metering.language import (
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
from console.metering.vectors import NOTHING, Labels, Vector

LOOKBACK_SECONDS = 300.0
_MAX_SECONDS = 2.0
"""How long one query may take. It runs in the event loop, so its pages and scrapes wait for it."""


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
    vector = found if isinstance(found, dict) else {NOTHING: found}
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
        for labels, value in (found if isinstance(found, dict) else {NOTHING: found}).items():
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
                return vectors.aggregated(node, self._vector(node.inner, at))
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
                return {NOTHING: self._scalar(inner, at)}
            case "absent", (inner,):
                return {} if self._vector(inner, at) else {_labels_of_absent(inner): 1.0}
            case "clamp_min", (inner, least):
                bound = self._scalar(least, at)
                return {vectors.unnamed(labels): max(value, bound) for labels, value in self._vector(inner, at).items()}
            case "histogram_quantile", (quantile, buckets):
                return vectors.quantiles(self._scalar(quantile, at), self._vector(buckets, at))
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
                    found[vectors.unnamed(labels)] = combine([value for _, value in points])
            return found
        per = seconds if function == "rate" else 1.0
        for labels, track in self._select(inner):
            if (growth := track.growth(start, at)) is not None:
                found[vectors.unnamed(labels)] = ranges.increase(growth, start, at, per)
        return found

    def _binary(self, node: Binary, at: float) -> Vector | float:
        left, right = self.value(node.left, at), self.value(node.right, at)
        if node.operator in SETS:
            return vectors.combined(node, left, right)
        if isinstance(left, dict) and isinstance(right, dict):
            return vectors.matched(node, left, right)
        if not isinstance(left, dict) and not isinstance(right, dict):
            return vectors.calculate(node.operator, left, right)
        return vectors.with_scalar(node.operator, left, right)


def _labels_of_absent(node: Node) -> Labels:
    """The labels that the missing series would have for certain."""
    if not isinstance(node, Selector):
        return NOTHING
    equal = [(m.label, m.value) for m in node.matchers if m.operator == "=" and m.value]
    others = [m.label for m in node.matchers if m.operator != "="]
    return frozenset(pair for pair in equal if pair[0] not in others)
