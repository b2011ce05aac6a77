"""Logs as people read them."""

import io
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from shared.process import readable
from tests.conftest import ROOT

AT = "2026-01-31T12:00:00.123000Z"
SERVICE = {"event": "order placed", "level": "warning", "timestamp": AT, "service": "orders", "order_id": 17}
POSTGRES = {
    "timestamp": "2026-01-31 12:00:00.124 UTC",
    "error_severity": "ERROR",
    "message": "deadlock detected",
    "pid": 7,
    "line_num": 3,
    "query": "select 1",
}
NGINX = {"time": AT, "level": "info", "event": "GET /x 200", "method": "GET", "path": "/x", "status": 200, "bytes": 9}
KAFKA = "[2026-01-31 12:00:00,122 UTC] INFO started (kafka.server.KafkaRaftServer)"


def printed(*lines: str, colour: bool = False) -> list[str]:
    """What a reader of these lines sees, without the time."""
    source, sink = os.pipe()
    os.write(sink, "".join(f"{line}\n" for line in lines).encode())
    os.close(sink)
    out = io.StringIO()
    readable.show(source, out, colour=colour)
    os.close(source)
    return [line[13:] if line[2:3] == ":" else line for line in out.getvalue().splitlines()]


def tailed(name: str, *lines: object) -> list[str]:
    return [f"==> /a folder/{name}.log <==", *(one if isinstance(one, str) else json.dumps(one) for one in lines), ""]


def test_lines_of_all_programs_have_one_format_and_are_sorted_by_time() -> None:
    lines = [
        *tailed("postgres", POSTGRES),
        *tailed("orders", SERVICE),
        *tailed("kafka", KAFKA),
        *tailed("gateway", NGINX),
    ]
    assert printed(*lines) == [
        "info     kafka     started (kafka.server.KafkaRaftServer)",
        "warning  orders    order placed  order_id=17",
        "info     gateway   GET /x 200  bytes=9",
        "error    postgres  deadlock detected  query=select 1",
    ]


def test_the_prefix_of_compose_names_the_program() -> None:
    lines = [
        f"orders-1     | {json.dumps(SERVICE)}",
        f"db-1  | {json.dumps(POSTGRES)}",
        "migrate-1  | ",
        "topics-1  | done",
    ]
    assert printed(*lines) == [
        "warning  orders    order placed  order_id=17",
        "error    db        deadlock detected  query=select 1",
        "info     topics    done",
    ]


def test_a_traceback_is_below_its_line() -> None:
    line = {**SERVICE, "level": "error", "exception": "Traceback:\n  File x\nValueError: no"}
    assert printed(*tailed("orders", line)) == [
        "error    orders    order placed  order_id=17",
        *("    Traceback:", "      File x", "    ValueError: no"),
    ]


def test_only_the_level_of_a_coloured_line_is_marked() -> None:
    (line,) = printed(f"orders-1 | {json.dumps(SERVICE)}", colour=True)
    assert "\033[33mwarning \033[0m orders" in line


def test_no_line_moves_the_cursor() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\r\x7f\u202e"
    lines = tailed("orders", {**SERVICE, "event": hostile, hostile: hostile}, hostile)
    assert all(line.isprintable() for line in printed(*lines))


@pytest.mark.parametrize("line", ["", "{", "x" * 3_000_000, "==> <==", " | ", "\0"])
def test_no_line_is_an_error_and_a_long_one_is_cut(line: str) -> None:
    assert len("".join(readable_text(line))) < 10_000


def readable_text(line: str) -> list[str]:
    command = [sys.executable, "-m", "shared.process.readable"]
    done = subprocess.run(command, input=line, check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603
    assert done.stderr == ""
    assert "\033[" not in done.stdout
    return done.stdout.splitlines()


def test_a_line_is_shown_while_the_writer_is_still_alive() -> None:
    source, sink = os.pipe()
    seen: list[list[bytes]] = []
    reading = threading.Thread(target=lambda: seen.extend(readable.batches(source)))
    reading.start()
    os.write(sink, b"one\ntwo\nthr")
    until = time.monotonic() + 10
    while not seen and time.monotonic() < until:
        time.sleep(0.01)
    first = list(seen)
    os.write(sink, b"ee")
    os.close(sink)
    reading.join()
    os.close(source)
    assert first == [[b"one", b"two"]]
    assert seen == [[b"one", b"two"], [b"three"]]
