"""The tail of log files: real files that grow, are renamed, truncated and deleted, and restarts in between."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import structlog
from structlog.processors import JSONRenderer

from console.telemetry import following, logs, store
from console.telemetry.logs import Tail
from console.telemetry.records import Line, Wanted
from console.telemetry.store import Telemetry
from tests.builders import eventually


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store, logs):
        monkeypatch.setattr(module, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(logs, "BUSY_SECONDS", 0.001)
    monkeypatch.setattr(logs, "LOOK_SECONDS", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "logs"
    made.mkdir()
    return made


@asynccontextmanager
async def tailing(folder: Path) -> AsyncIterator[Telemetry]:
    """A store and a tail, which stop at the end of the block as at a restart."""
    telemetry, stop, stop_store = Telemetry(folder.parent / "store"), asyncio.Event(), asyncio.Event()
    storing = asyncio.create_task(telemetry.run(stop_store))
    tail = asyncio.create_task(Tail(folder, telemetry).run(stop, lambda: None))
    yield telemetry
    stop.set()
    await tail
    stop_store.set()
    await storing


def write(path: Path, lines: Iterable[object], end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(map(str, lines)) + end)


async def every(telemetry: Telemetry) -> list[Line]:
    found: list[Line] = []
    while page := await telemetry.lines(Wanted(limit=1000, before_id=found[-1].id if found else None)):
        found += page
    return found[::-1]


async def expect(telemetry: Telemetry, texts: Iterable[object]) -> None:
    """Wait for exactly these lines, in any order."""
    wanted = sorted(map(str, texts))

    async def there() -> bool:
        return len(await every(telemetry)) >= len(wanted)

    await eventually(there)
    assert sorted(line.text for line in await every(telemetry)) == wanted


async def test_lines_that_are_added_arrive_with_the_name_of_the_process(folder: Path) -> None:
    write(folder / "orders.log", [orjson.dumps({"event": "one", "level": "error", "order_id": 17}).decode()])
    async with tailing(folder) as telemetry:
        await expect(telemetry, ["one"])
        write(folder / "orders.log", ["two"])
        write(folder / "payments.log", ["three"])
        await expect(telemetry, ["one", "two", "three"])
        (line,) = await telemetry.lines(Wanted(key="17"))
        assert (line.service, line.level) == ("orders", "error")
        assert [line.text for line in await telemetry.lines(Wanted(service="payments"))] == ["three"]


async def test_the_lines_of_a_file_keep_their_order(folder: Path) -> None:
    write(folder / "x.log", [f"2026-01-31T12:00:00Z {n:05d}" for n in range(3000)])
    async with tailing(folder) as telemetry:
        await expect(telemetry, [f"{n:05d}" for n in range(3000)])
        assert [line.text for line in await every(telemetry)] == [f"{n:05d}" for n in range(3000)]


async def test_a_line_is_taken_when_it_is_complete(folder: Path) -> None:
    write(folder / "x.log", ["first", "sec"], end="")
    async with tailing(folder) as telemetry:
        await expect(telemetry, ["first"])
        write(folder / "x.log", ["ond"])
        await expect(telemetry, ["first", "second"])


async def test_a_restart_neither_loses_nor_doubles_a_line(folder: Path) -> None:
    for round_ in range(5):
        async with tailing(folder) as telemetry:
            write(folder / "x.log", [f"{round_} {n}" for n in range(700)])  # the stop comes at any point of it
        write(folder / "x.log", [f"{round_} while stopped", "half "], end="")
        write(folder / "x.log", [f"{round_}"])
    async with tailing(folder) as telemetry:
        numbered = [f"{r} {n}" for r in range(5) for n in range(700)]
        await expect(
            telemetry, [*numbered, *(f"{r} while stopped" for r in range(5)), *(f"half {r}" for r in range(5))]
        )


async def test_a_kill_neither_loses_nor_doubles_a_line(folder: Path, tmp_path: Path) -> None:
    """A copy of the store's files, made while it writes, is what a kill leaves."""
    write(folder / "x.log", range(5000))
    async with tailing(folder) as telemetry:

        async def some() -> bool:
            return 0 < len(await every(telemetry)) < 5000

        await eventually(some)
        telemetry._writing.submit(lambda: shutil.copytree(tmp_path / "store", tmp_path / "copy")).result()
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "copy").rename(tmp_path / "store")
    async with tailing(folder) as telemetry:
        await expect(telemetry, range(5000))


async def test_a_file_that_is_renamed_is_read_to_its_end(folder: Path) -> None:
    path = folder / "x.log"
    write(path, ["1"])
    async with tailing(folder) as telemetry:
        await expect(telemetry, [1])
        with path.open("a") as old:
            old.write("2\n")
            path.rename(folder / "x.log.1")
            write(path, ["4"])
            old.write("3\nno end")
        await expect(telemetry, ["1", "2", "3", "no end", "4"])
        path.rename(folder / "x.log.1")
        write(path, ["5"])
        await expect(telemetry, ["1", "2", "3", "no end", "4", "5"])


async def test_files_that_were_renamed_while_the_tail_was_stopped_are_read(folder: Path) -> None:
    path = folder / "x.log"
    write(path, ["1"])
    async with tailing(folder) as telemetry:
        await expect(telemetry, [1])
    write(path, ["2"])
    path.rename(folder / "x.log.2")
    write(folder / "x.log.1", ["3"])
    write(path, ["4"])
    for seconds, name in enumerate(("x.log.2", "x.log.1", "x.log")):
        os.utime(folder / name, (1_800_000_000 + seconds,) * 2)
    async with tailing(folder) as telemetry:
        await expect(telemetry, [1, 2, 3, 4])
    async with tailing(folder) as telemetry:
        write(path, ["5"])
        await expect(telemetry, [1, 2, 3, 4, 5])


async def test_a_file_that_is_truncated_is_read_from_its_start(folder: Path) -> None:
    write(folder / "x.log", ["long line before"])
    async with tailing(folder) as telemetry:
        await expect(telemetry, ["long line before"])
        os.truncate(folder / "x.log", 0)
        write(folder / "x.log", ["new"])
        await expect(telemetry, ["long line before", "new"])


async def test_a_file_that_is_truncated_and_begins_with_the_same_lines_is_read_from_its_start(folder: Path) -> None:
    write(folder / "x.log", ["start " * 100] * 3)
    async with tailing(folder) as telemetry:
        await expect(telemetry, ["start " * 100] * 3)
        (folder / "x.log").write_text("start " * 100 + "\n")
        await expect(telemetry, ["start " * 100] * 4)


async def test_a_file_that_is_truncated_and_grows_beyond_its_old_size_is_read_from_its_start(folder: Path) -> None:
    write(folder / "x.log", ["old"])
    async with tailing(folder) as telemetry:
        await expect(telemetry, ["old"])
    (folder / "x.log").write_text("new and longer\n")  # the same inode
    async with tailing(folder) as telemetry:
        await expect(telemetry, ["old", "new and longer"])


async def test_a_file_that_is_deleted_and_written_again_is_read_again(folder: Path) -> None:
    write(folder / "x.log", ["1"])
    async with tailing(folder) as telemetry:
        await expect(telemetry, [1])
        (folder / "x.log").unlink()
        write(folder / "x.log", ["2"])
        await expect(telemetry, [1, 2])


async def test_a_long_line_is_cut_and_the_next_one_is_whole(folder: Path) -> None:
    limit = following.LINE_BYTES
    async with tailing(folder) as telemetry:
        write(folder / "first.log", ["first"])
        await expect(telemetry, ["first"])
        write(folder / "x.log", ["a" * 3_000_000, "b", "c" * (limit + 1), "d" * limit, "e"])
        await expect(telemetry, ["first", "a" * limit, "b", "c" * limit, "d" * limit, "e"])


async def test_a_long_line_of_a_new_file_is_cut_also_across_a_restart(folder: Path) -> None:
    limit = following.LINE_BYTES
    async with tailing(folder) as telemetry:
        write(folder / "first.log", ["first"])
        await expect(telemetry, ["first"])
        write(folder / "x.log", ["a" * 300_000], end="")
        await expect(telemetry, ["first", "a" * limit])
    async with tailing(folder) as telemetry:
        write(folder / "x.log", ["a" * 300_000, "b"])
        await expect(telemetry, ["first", "a" * limit, "b"])


async def test_of_a_large_file_the_last_part_is_read_at_the_first_run(folder: Path) -> None:
    write(folder / "x.log", [f"{n:099d}" for n in range(20_000)])
    async with tailing(folder) as telemetry:
        await expect(telemetry, [f"{n:099d}" for n in range(10_001, 20_000)])


async def test_a_tail_that_is_too_far_behind_leaves_lines_out_and_counts_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "BEHIND_BYTES", 100_000)
    monkeypatch.setattr(following, "FIRST_BYTES", 10_000)
    async with tailing(folder) as telemetry:
        write(folder / "first.log", ["first"])
        await expect(telemetry, ["first"])
        write(folder / "new", [f"{n:099d}" for n in range(5000)])
        (folder / "new").rename(folder / "x.log")
        await expect(telemetry, ["first", *(f"{n:099d}" for n in range(4901, 5000))])
        assert telemetry.dropped["lines"] == 4901


async def test_bytes_that_are_no_text_do_no_harm(folder: Path) -> None:
    (folder / "x.log").write_bytes(b'\xff\xfe\x00bad\r\n\n   \n<script>\x1b[31m\n{"event": "\\u0000ok"}\n')
    async with tailing(folder) as telemetry:
        await expect(telemetry, ["\ufffd\ufffd\ufffdbad", "<script>\x1b[31m", "\ufffdok"])


async def test_what_is_no_file_or_cannot_be_read_does_not_stop_the_others(folder: Path) -> None:
    (folder / "a.log").mkdir()
    (folder / "b.log").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "c.log")
    write(folder / "d.log", ["fine"])
    async with tailing(folder) as telemetry:
        await expect(telemetry, ["fine"])


async def test_a_folder_that_comes_later_is_read(tmp_path: Path) -> None:
    async with tailing(tmp_path / "logs") as telemetry:
        (tmp_path / "logs").mkdir()
        write(tmp_path / "logs" / "x.log", ["late"])
        await expect(telemetry, ["late"])


async def test_lines_wait_in_their_files_while_the_store_has_no_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LINES", 100)
    write(folder / "x.log", range(3000))
    telemetry, stop = Telemetry(folder.parent / "store"), asyncio.Event()
    monkeypatch.setattr(telemetry._lines, "_max_rows", 3050)
    tail = Tail(folder, telemetry)
    await telemetry._open()  # nothing is stored until it runs
    reading = asyncio.create_task(tail.run(stop, lambda: None))
    await eventually(lambda: asyncio.sleep(0, len(telemetry._lines) == 3000))
    write(folder / "x.log", range(3000, 3200))
    await asyncio.sleep(0.2)
    assert len(telemetry._lines) == 3000
    stop_store = asyncio.Event()
    storing = asyncio.create_task(telemetry.run(stop_store))
    await expect(telemetry, range(3200))
    assert telemetry.dropped["lines"] == 0
    stop.set()
    await reading
    stop_store.set()
    await storing


async def test_the_consoles_own_lines_about_lost_lines_do_not_multiply(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (folder / "console.log").open("a")
    monkeypatch.setattr(store, "log", structlog.wrap_logger(structlog.WriteLogger(own), [JSONRenderer()]))
    async with tailing(folder) as telemetry:
        for n in range(30):
            telemetry.count_dropped("lines", 1)  # as if the line about the line before was lost too
            write(folder / "x.log", [n])
            await eventually(lambda n=n: telemetry.lines(Wanted(service="x", text=str(n))))
        assert len(await telemetry.lines(Wanted(service="console"))) == 1
    own.close()
