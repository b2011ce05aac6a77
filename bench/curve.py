"""Draws the curve of a load test: the delay of an order, and the orders that end, over the orders that are offered."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 420, 220, 60, 40, 90
_STYLE = (
    "text{font:12px sans-serif;fill:#555}.grid{stroke:#ccc;stroke-width:.5}.even{stroke:#999;stroke-dasharray:4 3}"
    "polyline{fill:none;stroke-width:2}.a{stroke:#2563eb}.b{stroke:#d97706}.ta{fill:#2563eb}.tb{fill:#d97706}"
    "@media(prefers-color-scheme:dark){text{fill:#aaa}.grid{stroke:#444}}"
)


@dataclass(frozen=True)
class Point:
    """What became of `offered` orders a second. Times are in seconds, from POST to CONFIRMED."""

    offered: int
    p50: float
    p99: float
    confirmed: float
    refused: float
    slowest: float


def table(points: Sequence[Point]) -> str:
    """The points as a table in Markdown."""
    head = "| offered a second | CONFIRMED a second | refused a second | p50 | p99 | slowest answer |"
    rows = [
        f"| {p.offered:,} | {p.confirmed:,.0f} | {p.refused:,.0f} | {_ms(p.p50)} | {_ms(p.p99)} | {_ms(p.slowest)} |"
        for p in points
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def svg(points: Sequence[Point]) -> str:
    """Two charts with logarithmic axes. In the second, the dashed line is what was offered."""
    size = f'width="{2 * (_WIDTH + _GAP)}" height="{_TOP + _HEIGHT + 40}"'
    offered = [float(point.offered) for point in points]
    delays = _chart("seconds from POST to CONFIRMED", offered, [[p.p50 for p in points], [p.p99 for p in points]])
    ends = _chart("orders CONFIRMED a second", offered, [[p.confirmed for p in points]], even=True)
    legend = f'<text class="ta" x="{_LEFT + 260}" y="22">p50</text><text class="tb" x="{_LEFT + 300}" y="22">p99</text>'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{_STYLE}</style>", legend]
    parts += ["<g>", *delays, "</g>", f'<g transform="translate({_WIDTH + _GAP} 0)">', *ends, "</g>", "</svg>", ""]
    return "\n".join(parts)


def _chart(
    title: str, offered: Sequence[float], lines: Sequence[Sequence[float]], *, even: bool = False
) -> Iterator[str]:
    values = [value for line in lines for value in line if value > 0] + (list(offered) if even else [])
    x = _scale(offered, _LEFT, _LEFT + _WIDTH)
    y = _scale(values, _TOP + _HEIGHT, _TOP)
    yield f'<text x="{_LEFT}" y="22">{title}</text>'
    for mark in _marks(offered):
        yield f'<line class="grid" x1="{x(mark)}" x2="{x(mark)}" y1="{_TOP}" y2="{_TOP + _HEIGHT}"/>'
        yield f'<text x="{x(mark)}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{mark:,.0f}/s</text>'
    for mark in _marks(values):
        yield f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y(mark)}" y2="{y(mark)}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y(mark) + 4}" text-anchor="end">{mark:g}</text>'
    if even:
        yield f'<polyline class="even" points="{_points(x, y, offered, offered)}"/>'
    for name, line in zip("ab", lines, strict=False):
        yield f'<polyline class="{name}" points="{_points(x, y, offered, line)}"/>'


_Scale = Callable[[float], float]


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    low, high = math.log10(_marks(values)[0]), math.log10(_marks(values)[-1])
    return lambda value: round(start + (end - start) * (math.log10(value) - low) / (high - low), 1)


def _marks(values: Sequence[float]) -> list[float]:
    """The powers of ten around the values, at least two."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _points(x: _Scale, y: _Scale, offered: Sequence[float], line: Sequence[float]) -> str:
    return " ".join(f"{x(at)},{y(value)}" for at, value in zip(offered, line, strict=True) if value > 0)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms"
