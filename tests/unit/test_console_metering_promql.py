"""PromQL: results are Prometheus' own, and what is not supported is refused."""

import math
import random
from typing import Any

import promql_parser
import pytest
import yaml

from console.metering import language, ranges
from console.metering.language import BadExpression
from console.metering.series import Series
from tests import promtool
from tests.conftest import ROOT

FILE = ROOT / "tests" / "promql_test.yaml"
(TEST,) = yaml.safe_load(FILE.read_text())["tests"]
CHECKS: list[dict[str, Any]] = TEST["promql_expr_test"]


@pytest.fixture(scope="module")
def series_at() -> dict[float, Series]:
    """The samples as they were at each time of the file."""
    found = {}
    for at in {language.seconds(check["eval_time"]) for check in CHECKS}:
        replay = promtool.Replay(TEST)
        replay.until(at)
        found[at] = replay.series
    return found


def sample(labels: dict[str, str], value: float) -> tuple[list[tuple[str, str]], float]:
    return sorted(labels.items()), value


def expected(one: dict[str, Any]) -> tuple[list[tuple[str, str]], float]:
    name, _, rest = one["labels"].partition("{")
    pairs = [pair.split("=", 1) for pair in rest.removesuffix("}").split(", ") if pair]
    labels = {label: text.strip('"').replace("\\\\", "\\") for label, text in pairs}
    return sample({"__name__": name, **labels} if name else labels, one["value"])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check['expr']} at {check['eval_time']}")
def test_an_expression_has_prometheus_result(check: dict[str, Any], series_at: dict[float, Series]) -> None:
    at = language.seconds(check["eval_time"])
    found = series_at[at].query(check["expr"], at)
    assert sorted(sample(one.labels, one.value) for one in found) == sorted(map(expected, check["exp_samples"]))


@pytest.mark.skipif(promtool.PATH is None, reason=promtool.MISSING)
def test_prometheus_agrees_with_the_file() -> None:
    assert promtool.failures(FILE) == ""


def test_the_file_uses_all_that_is_supported() -> None:
    nodes = [node for check in CHECKS for node in language.walk(language.parse(check["expr"]))]
    used = {node.function for node in nodes if isinstance(node, language.Call)}
    used |= {node.operator for node in nodes if isinstance(node, language.Aggregation | language.Binary)}
    signs = {*language.COMPARISONS, *language.SETS, "+", "-", "*", "/"}
    assert used == {*language.FUNCTIONS, *language.AGGREGATIONS, *signs}
    matchers = {matcher.operator for node in nodes if isinstance(node, language.Selector) for matcher in node.matchers}
    assert matchers == {"=", "!=", "=~", "!~"}


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("topk(3, up)", "the function topk is not supported"),
        ("up[5m]", "must be within a function"),
        ("up offset 5m", "offset is not supported"),
        ("up @ 5", "@ is not supported"),
        ("rate(up[5m:1m])", "subqueries are not supported"),
        ("max_over_time((up)[5m:1m])", "subqueries are not supported"),
        ("up > bool 3", "bool is not supported"),
        ("up * on (x) group_left up", "group_left is not supported"),
        ("1 > 2", "needs bool"),
        ("up ^ 2", "not supported"),
        ("up % 2", "not supported"),
        ("1 and up", "needs vectors"),
        ("rate(up)", "rate needs a range"),
        ("rate(up[1m], 2)", "takes 1 arguments"),
        ("sum(1)", "sum needs a vector"),
        ("clamp_min(up, up)", "clamp_min needs a scalar"),
        ("histogram_quantile(0.5, up[5m])", "needs a vector"),
        ("1 + on (x) up", "need vectors on both sides"),
        ('up{a=~"("}', "is not a pattern"),
        ('{a="b"}', "unexpected {"),
        ("up{a=b}", "expected a text"),
        ("up{a}", "expected =, !=, =~ or !~"),
        ("Inf", "unexpected Inf"),
        ("", "unexpected the end"),
        ("up up", "unexpected up"),
        ("up;", "cannot read ';'"),
        ("sum by (a", "expected )"),
        ("(" * 60 + "1" + ")" * 60, "at most 50 deep"),
        ("1+" * 3000 + "1", "at most 4000 characters"),
    ],
)
def test_what_is_wrong_or_not_supported_is_refused_with_the_reason(expression: str, reason: str) -> None:
    with pytest.raises(BadExpression) as raised:
        language.parse(expression)
    assert reason in str(raised.value)


def test_a_text_that_is_accepted_is_also_accepted_by_prometheus_parser() -> None:
    """Random texts from the language's words: what this parser accepts and Prometheus refuses would be a difference."""
    words = [
        "up",
        "age{a='b'}",
        "sum",
        "by",
        "(a)",
        "(",
        ")",
        "max",
        "rate",
        "increase",
        "[1m]",
        "2",
        "1.5",
        "+",
        "-",
        "*",
        "/",
        ">",
        "==",
        "and",
        "or",
        "unless",
        "on",
        "(a)",
        "absent",
    ]
    chosen, accepted = random.Random(7), 0
    for _ in range(20_000):
        text = " ".join(chosen.choices(words, k=chosen.randint(1, 7)))
        try:
            language.parse(text)
        except BadExpression:
            continue
        accepted += 1
        promql_parser.parse(text)
    assert accepted > 500


@pytest.mark.parametrize("side", ["left", "right"])
def test_several_series_of_one_side_that_match_are_an_error(side: str) -> None:
    series = Series()
    series.add("t", 1.0, [('many{a="1"}', "1"), ('many{a="2"}', "2"), ("one", "1")])
    expression = "many + on (b) one" if side == "left" else "one + on (b) many"
    with pytest.raises(BadExpression, match=f"several series of the {side} side"):
        series.query(expression, 1.0)


def test_a_quantile_that_is_not_known_is_not_a_number() -> None:
    inf = math.inf
    assert math.isnan(ranges.quantile(0.5, []))
    assert math.isnan(ranges.quantile(0.5, [(1.0, 3.0), (2.0, 3.0)]))
    assert math.isnan(ranges.quantile(0.5, [(1.0, 0.0), (inf, 0.0)]))
    assert ranges.quantile(-1, [(1.0, 1.0), (inf, 1.0)]) == -inf
    assert ranges.quantile(2, [(1.0, 1.0), (inf, 1.0)]) == inf


def test_zero_divided_by_zero_is_not_a_number() -> None:
    series = Series()
    series.add("t", 1.0, [("zero", "0")])
    (found,) = series.query("zero / zero", 1.0)
    assert math.isnan(found.value)
    assert series.query("zero / zero > 0", 1.0) == []


def test_a_range_of_times_has_a_line_for_each_series() -> None:
    series = Series()
    for n in range(5):
        lines = [('up{a="x"}', str(n)), *([('up{a="y"}', "7")] if n < 3 else [])]
        series.add("t", 10.0 * n, lines)
    found = {line.labels["a"]: line.points for line in series.range("up", 0.0, 40.0, 10.0)}
    assert found == {
        "x": [(0.0, 0.0), (10.0, 1.0), (20.0, 2.0), (30.0, 3.0), (40.0, 4.0)],
        "y": [(0.0, 7.0), (10.0, 7.0), (20.0, 7.0)],
    }


@pytest.mark.parametrize(("end", "step"), [(10_000.0, 1.0), (10.0, 0.0), (10.0, -1.0)])
def test_a_range_of_too_many_steps_is_refused(end: float, step: float) -> None:
    with pytest.raises(BadExpression, match="at most 2000 steps"):
        Series().range("up", 0.0, end, step)
