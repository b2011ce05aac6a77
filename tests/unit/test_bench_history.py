"""The figures of the benchmarks become a history, and a picture of it."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import history, report
from bench.report import Figure

SVG = "{http://www.w3.org/2000/svg}"


def run(at: str, *figures: Figure) -> dict[str, Any]:
    return {"at": at, "version": "0.2.0", "machine": "x", "figures": [vars(figure) for figure in figures]}


def ratio(value: float) -> Figure:
    return Figure("create", "ratio <1>", value, 3, "more")


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314  # we wrote it


def test_a_benchmark_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_FIGURES", [])
    report.begin("create")
    report.ratio("ratio", 5.9, 3, 5)
    report.most("p99", 83, "ms", 100, 40)
    report.write(tmp_path / "results.json", "0.2.0")
    written = json.loads((tmp_path / "results.json").read_text())
    assert [Figure(**one) for one in written["figures"]] == [
        Figure("create", "ratio", 5.9, 3, "more"),
        Figure("create", "p99, ms", 83, 100, "less"),
    ]
    assert written["version"] == "0.2.0"
    assert "cores" in written["machine"]


def test_each_run_is_a_line_of_the_history_and_a_point_of_the_chart(tmp_path: Path) -> None:
    for n, value in enumerate((5.0, 2.0, 4.0)):
        results = tmp_path / "results.json"
        results.write_text(json.dumps(run(f"2026-12-0{n + 1}", ratio(value))))
        history.main(results, tmp_path / "history")
    history.main(results, tmp_path / "history")  # the same run again

    lines = (tmp_path / "history" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["figures"][0]["value"] for line in lines] == [5.0, 2.0, 4.0]
    root = parsed((tmp_path / "history" / "history.svg").read_text())
    assert [point.get("class") for point in root.iter(f"{SVG}circle")] == ["good", "bad", "good"]
    (line,) = root.iter(f"{SVG}polyline")
    heights = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert heights[0] < heights[2] < heights[1]  # a large value is high up
    assert [text.text for text in root.iter(f"{SVG}text")] == ["create: ratio <1>: 4 (at least 3)"]


def test_a_new_figure_and_one_that_is_gone_do_not_stop_the_history() -> None:
    gone = Figure("old", "gone", 1, 1, "more")
    other = Figure("x", "p99, ms", 0, 0, "less")
    root = parsed(history.svg([run("a", gone, ratio(5)), run("b", ratio(4), other)]))
    assert len(list(root.iter(f"{SVG}polyline"))) == 2
