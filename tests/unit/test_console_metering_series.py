"""The samples in memory: what a scrape says is found again, and memory is bounded."""

import math
import random

import pytest

from console.metering import exposition, ranges
from console.metering.series import WINDOW_SECONDS, Series


def value(series: Series, expression: str, at: float) -> float | None:
    found = series.query(expression, at)
    return found[0].value if found else None


def test_a_series_ends_at_the_scrape_without_it_and_begins_again() -> None:
    series = Series()
    series.add("t", 0.0, [("a", "1"), ("b", "2")])
    series.add("t", 5.0, [("b", "2")])
    series.add("t", 10.0, [("a", "1"), ("b", "2")])
    assert [value(series, "a", at) for at in (0.0, 4.9, 5.0, 9.9, 10.0)] == [1, 1, None, None, 1]
    assert value(series, "avg_over_time(a[1m])", 12.0) == 1
    assert value(series, "b", 10.0) == 2


def test_a_sample_older_than_five_minutes_is_not_found() -> None:
    series = Series()
    series.add("t", 0.0, [("a", "1")])
    assert value(series, "a", 299.9) == 1
    assert value(series, "a", 300.0) is None


@pytest.mark.parametrize("gaps", [0.0, 0.001, 0.1])
def test_random_samples_are_found_again_whatever_changes(gaps: float) -> None:
    """The stored changes mean the same as all samples, also after old ones were dropped."""
    chosen = random.Random(3)
    series, truth = Series(), dict[str, list[tuple[float, float]]]()
    for n in range(3000):
        at = 5.0 * n
        lines = [(f"m{i}", str(chosen.choice([1, 1, 1, 2, 3]))) for i in range(4) if chosen.random() > gaps]
        series.add("t", at, lines)
        for name, text in lines:
            truth.setdefault(name, []).append((at, float(text)))
    now = 5.0 * 2999
    for name, samples in truth.items():
        for _ in range(50):
            until = now - chosen.uniform(0, 3000)
            after = until - chosen.uniform(1, 2000)
            wanted = [v for at, v in samples if after < at <= until]
            (track,) = series.select(name)
            assert [v for _, v in track.between(after, until)] == wanted
            assert track.growth(after, until) == ranges.growth(track.between(after, until))


def test_samples_older_than_the_window_are_dropped_and_ended_series_with_them() -> None:
    series = Series()
    series.add("t", 0.0, [("old", "1"), ("a", "0")])
    for n in range(1, 2000):
        series.add("t", n * 10.0, [("a", str(n))])
    assert series.count == 1
    assert list(series.select("old")) == []
    (track,) = series.select("a")
    assert len(track.values) <= WINDOW_SECONDS / 10 + 40
    assert value(series, "a", 19_990.0) == 1999


def test_a_value_that_does_not_change_costs_nothing_more() -> None:
    series = Series()
    series.add("t", 0.0, [("a", "1")])
    before = series.bytes
    for n in range(1, 100):
        series.add("t", n * 5.0, [("a", "1")])
    assert series.bytes - before == 99 * 8  # the times of the scrapes
    assert len(series.query("a", 495.0)) == 1


def test_more_series_than_the_limit_are_refused_and_counted() -> None:
    series = Series(max_series=3)
    for at in (0.0, 5.0):
        series.add("t", at, [(f'a{{x="{n}"}}', "1") for n in range(5)])
    assert len(series.query("a", 5.0)) == 3
    assert series.refused == {"series": 4}


def test_samples_that_need_too_much_memory_make_the_window_shorter() -> None:
    limit = 150_000
    series = Series(max_bytes=limit)
    for n in range(1440):
        series.add("t", n * 5.0, [(f"m{i}", str(n * 7 + i)) for i in range(50)])
        assert series.bytes <= limit
    assert 60 < series.window_seconds < WINDOW_SECONDS
    assert value(series, "m3", 1439 * 5.0) == 1439 * 7 + 3


def test_a_clock_that_is_set_back_does_not_break_the_order_of_samples() -> None:
    series = Series()
    for at, text in ((100.0, "1"), (50.0, "2"), (51.0, "3")):
        series.add("t", at, [("a", text)])
    assert value(series, "a", 101.0) == 3


@pytest.mark.parametrize(
    "line", ["no value", "a{b=c} 1", 'a{b="c} 1', "a 1 1700000000", "a one", "{} 1", f'a{{b="{"x" * 3000}"}} 1', "a{ 1"]
)
def test_a_line_that_is_no_sample_is_counted_and_the_others_are_stored(line: str) -> None:
    series = Series()
    series.add("t", 0.0, exposition.lines(f"# HELP x y\n{line}\ngood 1\n\n"))
    assert series.refused["lines"] == 1
    assert value(series, "good", 0.0) == 1


def test_labels_are_read_as_prometheus_writes_them() -> None:
    assert exposition.labels(r'a{b="x\"y\\z\n",c="{ }, =",}') == {"__name__": "a", "b": 'x"y\\z\n', "c": "{ }, ="}
    assert exposition.labels("a{}") == {"__name__": "a"}
    assert list(exposition.lines('a_created{b="c"} 1\norders_created_total 2\na_created 3\nx{y="a_created "} 4')) == [
        ("orders_created_total", "2"),
        ('x{y="a_created "}', "4"),
    ]


def test_values_that_are_no_finite_numbers_are_stored() -> None:
    series = Series()
    series.add("t", 0.0, [("up", "+Inf"), ("down", "-Inf"), ("odd", "NaN")])
    assert (value(series, "up", 0.0), value(series, "down", 0.0), value(series, "odd", 0.0)) == (
        math.inf,
        -math.inf,
        None,
    )


def test_all_samples_of_a_target_get_its_labels_and_the_targets_end_alone() -> None:
    series = Series()
    for service in ("a", "b"):
        series.add(service, 0.0, [("up", "1"), ("x", "1")], {"service": service})
    series.add("a", 5.0, [("up", "0")], {"service": "a"})
    assert {s.labels["service"]: s.value for s in series.query("up", 5.0)} == {"a": 0, "b": 1}
    assert [s.labels["service"] for s in series.query("x", 5.0)] == ["b"]
