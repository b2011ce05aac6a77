"""`make bench-history`: adds the figures of a run to those of earlier runs, and draws one chart for each figure.

What must stay true: `history.jsonl` has one line for each run, and nothing in it is ever changed.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any
from xml.sax.saxutils import escape

import typer

from bench.report import Figure

RUNS = 90
"""How many of the last runs a chart shows."""
_COLUMNS, _WIDTH, _HEIGHT, _MARGIN, _TOP = 2, 520, 120, 24, 34
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.limit{stroke:#999;stroke-dasharray:4 3}"
    ".line{fill:none;stroke:#2563eb;stroke-width:1.5}.good{fill:#2563eb}.bad{fill:#dc2626}"
)


def main(
    results: Annotated[Path, typer.Argument(help="The file that `make bench RESULTS=…` wrote.")],
    folder: Annotated[Path, typer.Argument(help="The folder of history.jsonl and history.svg.")],
) -> None:
    """Add a run to the history and draw it again."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "history.jsonl"
    runs = add(file.read_text().splitlines() if file.exists() else [], json.loads(results.read_text()))
    file.write_text("".join(f"{run}\n" for run in runs))
    (folder / "history.svg").write_text(svg([json.loads(run) for run in runs[-RUNS:]]))
    typer.echo(f"{len(runs)} runs in {file}")


def add(lines: Sequence[str], run: dict[str, Any]) -> list[str]:
    """The lines of the history with one more run. A run that is there is not added again."""
    line = json.dumps(run, sort_keys=True)
    return [*lines] if line in lines else [*lines, line]


def svg(runs: Sequence[dict[str, Any]]) -> str:
    """A chart for each figure of the last run, over all runs that have it."""
    series = [[Figure(**one) for one in run["figures"]] for run in runs]
    names = list(dict.fromkeys(figure.name for figure in series[-1]))
    rows = -(-len(names) // _COLUMNS)
    size = f'width="{_COLUMNS * _WIDTH}" height="{rows * (_HEIGHT + _TOP)}"'
    charts = []
    for n, name in enumerate(names):
        found = [figure for run in series for figure in run if figure.name == name]
        x, y = n % _COLUMNS * _WIDTH, n // _COLUMNS * (_HEIGHT + _TOP)
        charts.append(f'<g transform="translate({x} {y})">{"".join(_chart(found))}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{_STYLE}</style>\n' + "\n".join(charts) + "\n</svg>\n"
    )


def _chart(figures: Sequence[Figure]) -> Iterator[str]:
    """The parts of a chart: title, limit, line, a point for each run."""
    last = figures[-1]
    top = max([figure.value for figure in figures] + [last.limit]) * 1.05
    points = [(_x(n, len(figures)), _y(figure.value, top), figure) for n, figure in enumerate(figures)]
    limit, end = _y(last.limit, top), _WIDTH - _MARGIN
    bound = "at least" if last.better == "more" else "at most"
    yield f'<text x="{_MARGIN}" y="22">{escape(last.name)}: {last.value:.4g} ({bound} {last.limit:g})</text>'
    yield f'<line class="limit" x1="{_MARGIN}" x2="{end}" y1="{limit}" y2="{limit}"/>'
    yield f'<polyline class="line" points="{" ".join(f"{x},{y}" for x, y, _ in points)}"/>'
    for x, y, figure in points:
        kind = "good" if figure.is_within else "bad"
        yield f'<circle class="{kind}" cx="{x}" cy="{y}" r="2.5"><title>{figure.value:.4g}</title></circle>'


def _x(n: int, count: int) -> float:
    return round(_MARGIN + (_WIDTH - 2 * _MARGIN) * (n / max(1, count - 1)), 1)


def _y(value: float, top: float) -> float:
    return round(_TOP + (_HEIGHT - 10) * (1 - value / top), 1) if top else float(_TOP)


if __name__ == "__main__":
    typer.run(main)
