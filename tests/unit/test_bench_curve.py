"""The curve of a load test: its table and its picture."""

from xml.etree import ElementTree as ET

from bench.curve import Point, svg, table

POINTS = [
    Point(1, 0.05, 0.08, 1.0, 0.0, 0.01),
    Point(100, 0.06, 0.2, 100.0, 0.0, 0.1),
    Point(6000, 5.0, 9.0, 2500.0, 1000.0, 2.0),
]


def test_the_table_has_a_row_for_each_point() -> None:
    assert table(POINTS).splitlines()[2:] == [
        "| 1 | 1 | 0 | 50 ms | 80 ms | 10 ms |",
        "| 100 | 100 | 0 | 60 ms | 200 ms | 100 ms |",
        "| 6,000 | 2,500 | 1,000 | 5,000 ms | 9,000 ms | 2,000 ms |",
    ]


def test_a_larger_value_is_higher_and_more_load_is_further_right() -> None:
    lines = ET.fromstring(svg(POINTS)).iter("{http://www.w3.org/2000/svg}polyline")  # noqa: S314 - it is ours
    drawn = {
        line.get("class"): [tuple(map(float, p.split(","))) for p in line.get("points", "").split()] for line in lines
    }
    for points in drawn.values():
        assert len(points) == len(POINTS)
        assert points == sorted(points, key=lambda point: (point[0], -point[1]))


def test_a_rate_at_which_nothing_ended_has_no_point() -> None:
    assert "nan" not in svg([*POINTS, Point(9000, 0.0, 0.0, 0.0, 9000.0, 1.0)])
