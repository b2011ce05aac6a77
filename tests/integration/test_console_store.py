"""The console's store on real SQLite files: searching, bounds, broken files, restarts."""

import asyncio
import os
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from console.telemetry import store
from console.telemetry.records import Line, Position, Span, Wanted
from console.telemetry.store import Telemetry
from tests.builders import eventually

NOW = time.time_ns()
marks = count()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def line(text: str, **changes: Any) -> Line:
    fields: dict[str, Any] = {"id": 0, "at_ns": NOW, "service": "orders", "level": "info", "text": text}
    return Line(**(fields | changes))


def span(number: int, trace: int = 1, **changes: Any) -> Span:
    fields: dict[str, Any] = {
        "trace_id": f"{trace:032x}",
        "span_id": f"{number:016x}",
        "parent_id": f"{1:016x}" if number > 1 else None,
        "service": "orders",
        "name": f"span {number}",
        "kind": "internal",
        "start_ns": NOW + number,
        "end_ns": NOW + number + 1_000_000,
        "status": "ok",
    }
    return Span(**(fields | changes))


@asynccontextmanager
async def running(telemetry: Telemetry) -> AsyncIterator[Telemetry]:
    stop = asyncio.Event()
    task = asyncio.create_task(telemetry.run(stop))
    try:
        yield telemetry
    finally:
        stop.set()
        await task


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAUSE_SECONDS", 0.02)


@pytest.fixture
async def telemetry(tmp_path: Path) -> AsyncIterator[Telemetry]:
    async with running(Telemetry(tmp_path / "store")) as started:
        yield started


async def stored(telemetry: Telemetry, text: str) -> Line:
    async def found() -> Line | None:
        return next((line for line in await telemetry.lines(Wanted()) if line.text == text), None)

    return await eventually(found)


async def add(telemetry: Telemetry, lines: Sequence[Line]) -> None:
    mark = str(next(marks))
    assert telemetry.add_lines([*lines, line("the end", event_id=mark)]) == len(lines) + 1
    await eventually(lambda: telemetry.lines(Wanted(event_id=mark)))


def files(telemetry: Telemetry, pattern: str = "telemetry-*.sqlite") -> list[Path]:
    return sorted(telemetry._writer.files.folder.glob(pattern))


async def texts(telemetry: Telemetry, **wanted: Any) -> list[str]:
    return [line.text for line in await telemetry.lines(Wanted(**wanted)) if line.text != "the end"]


async def test_lines_are_found_by_each_condition(telemetry: Telemetry) -> None:
    second = 10**9
    await add(
        telemetry,
        [
            line("early", at_ns=NOW - 5 * second, key="17"),
            line("broken pipe", service="payments", level="error", trace_id=TRACE, fields={"error": "OutOfStock"}),
            line("late", at_ns=NOW + 5 * second, event_id="e1", level="warning"),
        ],
    )
    assert await texts(telemetry, text="PIPE") == ["broken pipe"]
    assert await texts(telemetry, text="outofstock") == ["broken pipe"]
    assert await texts(telemetry, service="payments") == ["broken pipe"]
    assert await texts(telemetry, level="warning") == ["late", "broken pipe"]
    assert await texts(telemetry, level="error") == ["broken pipe"]
    assert await texts(telemetry, key="17") == ["early"]
    assert await texts(telemetry, event_id="e1") == ["late"]
    assert await texts(telemetry, trace_id=TRACE.upper()) == ["broken pipe"]
    assert await texts(telemetry, trace_id="nonsense") == []
    assert await texts(telemetry, since_ns=NOW + 1) == ["late"]
    assert await texts(telemetry, until_ns=NOW - 1) == ["early"]
    assert await texts(telemetry, since_ns=NOW, until_ns=NOW) == ["broken pipe"]
    assert await texts(telemetry, text="broken", service="orders") == []


async def test_pages_of_a_search_have_each_line_once_newest_first(telemetry: Telemetry) -> None:
    await add(telemetry, [line(str(n), at_ns=NOW + n // 7, service="s") for n in range(100)])
    pages, before = [], None
    while page := await telemetry.lines(Wanted(service="s", limit=9, before_id=before)):
        pages += [line.text for line in page]
        before = page[-1].id
    assert pages == [str(n) for n in reversed(range(100))]


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "a\u202eb\u2066c", "a\0b", "\ud800", "x" * 10**6, "\x1b[31mred", "\ufffd\ufffe"],
)
async def test_hostile_text_is_stored_and_found(telemetry: Telemetry, text: str) -> None:
    await add(telemetry, [line(f"mark {text}", key=text, fields={"value": text})])
    (found,) = await telemetry.lines(Wanted(text="mark"))
    assert found.text == f"mark {text}"[: 64 * 1024].replace("\0", "\ufffd").replace("\ud800", "?")
    assert [line.id for line in await telemetry.lines(Wanted(key=text))] == [found.id]
    await telemetry.lines(Wanted(text=text, service=text, event_id=text, trace_id=text))
    await telemetry.traces(service=text, key=text)


async def test_numbers_out_of_range_are_no_error(telemetry: Telemetry) -> None:
    await add(telemetry, [line("x", at_ns=2**80), line("y", at_ns=-5)])
    found = await telemetry.lines(Wanted(since_ns=-(2**80), until_ns=2**80, before_id=2**80, limit=10**9))
    assert len(found) == 3
    assert await telemetry.lines(Wanted(limit=-1)) == []
    assert await telemetry.traces(min_ms=float("inf"), before_ns=-(2**80), limit=-3) == []


async def test_a_trace_is_sorted_and_a_span_that_comes_twice_is_stored_once(telemetry: Telemetry) -> None:
    spans = [span(3, status="error"), span(1, attributes={"quickbite.key": "17"}), span(2, service="payments")]
    assert telemetry.add_spans(spans) == 3
    await eventually(lambda: telemetry.trace(f"{1:032x}"))
    assert telemetry.add_spans(spans) == 3
    await add(telemetry, [])
    assert [s.name for s in await telemetry.trace(f"{1:032x}")] == ["span 1", "span 2", "span 3"]
    (summary,) = await telemetry.traces()
    assert (summary.root_name, summary.service, summary.spans, summary.errors) == ("span 1", "orders", 3, 1)
    assert (summary.key, summary.start_ns, summary.duration_ns) == ("17", NOW + 1, 1_000_002)


async def test_traces_are_found_by_each_condition(telemetry: Telemetry) -> None:
    telemetry.add_spans([span(1, 1, end_ns=NOW + 10**9), span(1, 2, status="error"), span(2, 3, service="payments")])
    telemetry.add_spans([span(9, 3, attributes={"quickbite.key": "17"})])
    await add(telemetry, [])

    async def found(**wanted: Any) -> list[int]:
        return [int(summary.trace_id, 16) for summary in await telemetry.traces(**wanted)]

    assert sorted(await found()) == [1, 2, 3]
    assert await found(min_ms=500) == [1]
    assert await found(errors_only=True) == [2]
    assert await found(service="payments") == [3]
    assert await found(key="17") == [3]
    assert await found(before_ns=NOW + 2) != [3]
    assert await found(limit=1) == [3]


async def test_a_trace_is_found_by_an_event_that_it_sent_or_handled(telemetry: Telemetry) -> None:
    event_id = f"{NOW // 10**6:012x}"
    event_id = f"{event_id[:8]}-{event_id[8:]}-7000-8000-00000000000a"
    sent = {"quickbite.key": "17", "messaging.message.id": event_id}
    telemetry.add_spans([span(1, 1), span(2, 1, attributes=sent), span(1, 2), span(1, 3, attributes=sent)])
    telemetry.add_spans([span(1, 4, attributes=sent, start_ns=NOW - 301 * 10**9)])  # too long before the event
    await add(telemetry, [])
    found = await telemetry.traces_of_event(event_id.upper())
    assert {int(one.trace_id, 16) for one in found} == {1, 3}
    assert {one.key for one in found} == {"17"}
    assert not await telemetry.traces_of_event(event_id.replace("000a", "000b"))


async def test_a_trace_that_continues_in_the_next_file_is_one_trace(tmp_path: Path) -> None:
    async with running(Telemetry(tmp_path, max_age_seconds=8)) as telemetry:
        telemetry.add_spans([span(1)])
        await eventually(lambda: telemetry.trace(f"{1:032x}"))
        old = files(telemetry)[0]
        telemetry._writer._close_file()  # the next batch begins a new file
        telemetry.add_spans([span(2)])

        async def both() -> bool:
            return len(await telemetry.trace(f"{1:032x}")) == 2

        await eventually(both)
        assert len(files(telemetry)) == 2
        assert old in files(telemetry)
        assert [(s.spans, s.root_name) for s in await telemetry.traces()] == [(2, "span 1")]


async def test_the_queues_are_bounded_and_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path)
    rows = store.QUEUE_ROWS
    assert telemetry.add_spans([span(n + 1) for n in range(rows + 5)]) == rows
    assert telemetry.add_lines([line("x")] * (rows + 7)) == rows
    assert telemetry.dropped == {"spans": 5, "lines": 7}
    assert not telemetry.has_room_for_spans()


async def test_the_queues_are_bounded_in_bytes(tmp_path: Path) -> None:
    telemetry = Telemetry(tmp_path)
    accepted = telemetry.add_lines([line("x" * 60_000)] * 1000)
    assert accepted * 60_000 < store.QUEUE_BYTES
    assert telemetry.dropped["lines"] == 1000 - accepted


async def test_files_are_bounded_in_size_and_the_newest_lines_are_kept(tmp_path: Path) -> None:
    limit = 2_000_000
    async with running(Telemetry(tmp_path, file_bytes=400_000, total_bytes=limit)) as telemetry:
        sizes = []
        for n in range(60):
            await add(telemetry, [line(f"{n} {'word ' * 20}", key=f"{n}-{m}") for m in range(300)])
            telemetry.add_spans([span(n * 300 + m + 1, n + 1) for m in range(300)])
            sizes.append(sum(path.stat().st_size for path in files(telemetry, "telemetry-*")))
        assert max(sizes) <= limit + 400_000
        assert sum(sizes) > 0
        assert await texts(telemetry, key="0-0") == []
        assert len(await telemetry.lines(Wanted(key="59-299"))) == 1
        assert len(files(telemetry)) > 1
    assert telemetry.dropped == {"spans": 0, "lines": 0}


async def test_a_file_that_was_written_too_long_ago_is_deleted(tmp_path: Path) -> None:
    async with running(Telemetry(tmp_path)) as telemetry:
        await add(telemetry, [line("old")])
        (old,) = files(telemetry)
        telemetry._writer._close_file()
        await add(telemetry, [line("new")])
        assert await texts(telemetry, text="old") == ["old"]
        day_ago = time.time() - 86_401
        os.utime(old, (day_ago, day_ago))
        await add(telemetry, [])
        assert old not in files(telemetry)
        assert await texts(telemetry) == ["new"]


async def test_a_store_that_keeps_nothing_begins_a_file_for_each_batch(tmp_path: Path) -> None:
    async with running(Telemetry(tmp_path, max_age_seconds=0)) as telemetry:
        for n in range(5):
            await add(telemetry, [line(str(n))])
            assert len(files(telemetry)) == 1


async def test_a_restart_continues_the_newest_file(tmp_path: Path) -> None:
    async with running(Telemetry(tmp_path)) as telemetry:
        telemetry.add_lines([line("before the stop")])  # stored although the store stops at once
    async with running(Telemetry(tmp_path)) as telemetry:
        await add(telemetry, [line("after", at_ns=NOW + 10**9)])
        assert await texts(telemetry) == ["after", "before the stop"]
        assert len(files(telemetry)) == 1


async def test_positions_are_committed_with_their_lines_and_follow_into_new_files(tmp_path: Path) -> None:
    async with running(Telemetry(tmp_path)) as telemetry:
        telemetry.add_lines(
            [line("a"), line("b")], [Position("x.log", "1", 10, b"h"), Position("x.log", "1", 20, b"h")]
        )
        await stored(telemetry, "b")
        telemetry._writer._close_file()
        await add(telemetry, [line("c")])
        files(telemetry)[0].unlink()
    async with running(Telemetry(tmp_path)) as telemetry:
        positions = await eventually(lambda: asyncio.sleep(0, telemetry.positions()))
        assert positions == {"x.log": Position("x.log", "1", 20, b"h")}


@pytest.mark.parametrize("damage", ["garbage", "truncated", "pages"])
async def test_a_broken_file_is_set_aside_and_storing_goes_on(tmp_path: Path, damage: str) -> None:
    async with running(Telemetry(tmp_path)) as telemetry:
        await add(telemetry, [line(f"first {n}") for n in range(500)])
    (path,) = files(telemetry)
    whole = path.read_bytes()
    match damage:
        case "garbage":
            path.write_bytes(b"no database " * 1000)
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case _:
            path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    async with running(Telemetry(tmp_path)) as telemetry:
        await add(telemetry, [line("second", service="new")])
        assert await texts(telemetry, service="new") == ["second"]
        assert [p.name for p in files(telemetry, "*.broken")] == [path.name + ".broken"]


async def test_a_file_that_breaks_while_it_is_used_is_set_aside(telemetry: Telemetry) -> None:
    await add(telemetry, [line(f"first {n}") for n in range(500)])
    (path,) = files(telemetry)
    path.write_bytes(b"\xff" * path.stat().st_size)
    for side in files(telemetry, "*-wal"):
        os.truncate(side, 0)

    async def set_aside() -> bool:
        telemetry.add_lines([line("what is written to the broken file is lost")])
        await telemetry.lines(Wanted())
        return path not in files(telemetry)

    await eventually(set_aside)
    await add(telemetry, [line("second", service="new")])
    assert await texts(telemetry, service="new") == ["second"]


async def test_a_file_that_a_reader_finds_broken_is_set_aside(telemetry: Telemetry) -> None:
    await add(telemetry, [line("first")])
    broken = telemetry._writer.files.folder / "telemetry-000000000000001.sqlite"
    broken.write_bytes(b"no database " * 1000)
    found = await telemetry.lines(Wanted())
    assert not found.complete
    assert len(found) == 2
    await add(telemetry, [])
    assert not broken.exists()
    assert (await telemetry.lines(Wanted())).complete


async def test_a_file_of_another_version_is_neither_read_nor_written(tmp_path: Path) -> None:
    async with running(Telemetry(tmp_path)) as telemetry:
        await add(telemetry, [line("old")])
    with closing(sqlite3.connect(files(telemetry)[0])) as conn:
        conn.execute("pragma user_version = 99")
    async with running(Telemetry(tmp_path)) as telemetry:
        await add(telemetry, [line("new")])
        assert await texts(telemetry) == ["new"]
        assert len(files(telemetry)) == 2


async def test_files_that_somebody_deletes_are_begun_again(telemetry: Telemetry) -> None:
    await add(telemetry, [line("first")])
    for path in files(telemetry, "telemetry-*"):
        path.unlink()
    telemetry.add_lines([line("second")])
    await stored(telemetry, "second")


async def test_on_a_full_disk_the_oldest_file_is_deleted_and_the_lines_are_stored(telemetry: Telemetry) -> None:
    await add(telemetry, [line("old")])
    (old,) = files(telemetry)
    telemetry._writer._close_file()
    await add(telemetry, [line("new")])
    conn = telemetry._writer._conn
    assert conn is not None
    (pages,) = conn.execute("pragma page_count").fetchone()
    conn.execute(f"pragma max_page_count = {pages}")  # SQLite then says that the disk is full
    telemetry.add_lines([line("much " * 10_000)])
    await eventually(lambda: texts(telemetry, text="much"))
    assert old not in files(telemetry)


@contextmanager
def files_may_not_grow() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_while_nothing_can_be_written_lines_are_counted_as_lost_and_the_store_lives(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ATTEMPTS", 3)
    await add(telemetry, [line("before")])
    with files_may_not_grow():
        telemetry.add_lines([line("lost")] * 100)
        await eventually(lambda: asyncio.sleep(0, telemetry.dropped["lines"] == 100))
    await add(telemetry, [line("after")])
    assert "lost" not in await texts(telemetry)


async def test_a_folder_belongs_to_one_process(telemetry: Telemetry) -> None:
    await add(telemetry, [line("mine")])
    other = Telemetry(telemetry._writer.files.folder)
    async with running(other):
        other.add_lines([line("later")])
        await asyncio.sleep(0.3)
        assert other.positions() is None
        assert await texts(other) == ["mine"]


async def test_a_search_that_takes_too_long_returns_what_it_has_and_says_so(telemetry: Telemetry) -> None:
    await add(telemetry, [line(f"word {n}") for n in range(3000)])
    telemetry._reader._seconds = -1.0
    assert not (await telemetry.lines(Wanted(text="word", service="none"))).complete
    telemetry._reader._seconds = 60.0
    assert (await telemetry.lines(Wanted(text="word", service="none"))).complete
