"""Rows, search words and queues of the console's store."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from console.telemetry import rows, words
from console.telemetry.pending import Pending
from console.telemetry.records import Line, Span

TRACE, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HOSTILE = [
    '"',
    "*",
    "a AND",
    "NOT",
    "(a OR b",
    "body:a",
    "NEAR(a b)",
    "a*",
    "^a",
    "-a",
    '""""',
    "'; drop table lines; --",
    "...",
    "\0",
    "\ud800",
    "\u202e",
    "a\0b",
    "{}[]",
    "a" * 100_000,
    "a " * 100_000,
    "a." * 100_000,
    "\N{PILE OF POO}",
]


@pytest.fixture
def index() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as conn:
        conn.execute("create virtual table words using fts5 (body, content='', columnsize=0)")
        yield conn


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_syntax_of_a_search(index: sqlite3.Connection, text: str) -> None:
    query = words.query(text)
    if query is not None:
        index.execute("select rowid from words where words match ?", (query,)).fetchall()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("deadlock", True),
        ("DETECTED deadlock", True),
        ("deadlock absent", False),
        ("deadlock OR absent", False),
        ("dead*", False),
        ("(deadlock)", True),
        ('"detected"', True),
        ("body:deadlock", False),
        ("orders.events", True),
        ("events.orders", False),
        ("!!!", False),
    ],
)
def test_words_are_plain_and_must_all_occur(index: sqlite3.Connection, text: str, found: bool) -> None:
    index.execute("insert into words (rowid, body) values (1, 'deadlock detected in orders.events')")
    assert bool(index.execute("select 1 from words where words match ?", (words.query(text),)).fetchall()) is found


@pytest.mark.parametrize("text", ["", "  \t\n", "\0"])
def test_no_word_is_no_condition(text: str) -> None:
    assert words.query(text) is None


def span(**changes: object) -> Span:
    fields = {
        "trace_id": TRACE,
        "span_id": SPAN_ID,
        "parent_id": None,
        "service": "orders",
        "name": "POST /v1/orders",
        "kind": "server",
        "start_ns": 1,
        "end_ns": 2,
        "status": "ok",
    }
    return Span(**(fields | changes))  # type: ignore[arg-type]


def test_a_span_comes_back_as_it_was() -> None:
    whole = span(
        parent_id=SPAN_ID, attributes={"quickbite.key": "17", "n": 1, "x": 1.5, "b": True}, links=[(TRACE, SPAN_ID)]
    )
    row = rows.of_span(whole)
    assert row is not None
    assert rows.to_span(tuple(row)) == whole


@pytest.mark.parametrize(
    "trace_id", ["", "0" * 32, "x" * 32, TRACE[:-1], TRACE + "0", "\N{ARABIC-INDIC DIGIT ONE}" * 32]
)
def test_a_span_without_a_valid_id_has_no_row(trace_id: str) -> None:
    assert rows.of_span(span(trace_id=trace_id)) is None


def test_a_hostile_span_is_cut_to_a_row_that_sqlite_takes() -> None:
    million = "x" * 10**6
    row = rows.of_span(
        span(
            name="a\0b\ud800" + million,
            end_ns=2**70,
            attributes={str(n): million for n in range(1000)} | {"nan": float("nan")},
            links=[(TRACE, SPAN_ID)] * 10_000,
        )
    )
    assert row is not None
    assert row.size < 400_000
    with closing(sqlite3.connect(":memory:")) as conn:
        assert conn.execute("select ?, ?", (row.name, row.end_ns)).fetchone()[1] == 2**63 - 1
    assert rows.to_span(tuple(row)).name.startswith("a\ufffdb?")


def test_a_span_never_ends_before_it_starts() -> None:
    row = rows.of_span(span(start_ns=5, end_ns=1))
    assert row is not None
    assert row.end_ns == 5


@pytest.mark.parametrize(
    "fields", [{"a": "\ud800"}, {"a": "x" * 10**6}, {"a": object()}, {1: 2}, {"a": float("nan")}, {"a": 2**200}]
)
def test_fields_that_are_no_json_or_too_large_cost_only_themselves(fields: dict[str, object]) -> None:
    row = rows.of_line(Line(1, 1, "orders", "error", "text", fields))
    assert rows.to_line(row[:10]).text == "text"
    assert row.size < 500_000


def test_fields_that_are_nested_too_deep_cost_only_themselves() -> None:
    deep: dict[str, object] = {}
    for _ in range(400):
        deep = {"a": deep}
    assert rows.to_line(rows.of_line(Line(1, 1, "orders", "error", "text", deep))[:10]).text == "text"


class Item:
    def __init__(self, size: int) -> None:
        self.size = size


def test_a_queue_is_bounded_in_rows_and_in_bytes() -> None:
    queue: Pending[Item] = Pending(3, 100)
    assert [queue.add(Item(40)) for _ in range(3)] == [True, True, False]
    assert [queue.add(Item(1)) for _ in range(2)] == [True, False]
    assert len(queue.take(10, 50)) == 2
    assert queue.add(Item(90))


def test_a_queue_returns_a_row_that_is_larger_than_asked_for() -> None:
    queue: Pending[Item] = Pending(3, 100)
    queue.add(Item(90))
    assert len(queue.take(10, 5)) == 1
