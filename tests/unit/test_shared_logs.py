import json
import logging
import subprocess
import sys

import pytest

from shared.process import logs
from tests.conftest import ROOT


@pytest.fixture
def once() -> logs.OncePer:
    return logs.OncePer("aiokafka", seconds=10)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    return now


def a_record(message: str, *args: object, name: str = "aiokafka.client") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, message, args, None)


def test_one_record_of_a_kind_passes_and_the_next_one_counts_the_suppressed(
    once: logs.OncePer, clock: list[float]
) -> None:
    passed = [once.filter(a_record("cannot connect to %s", n)) for n in range(5)]
    clock[0] += 11
    later = a_record("cannot connect to %s", 99)

    assert passed == [True, False, False, False, False]
    assert once.filter(later)
    assert later.getMessage() == "cannot connect to 99 [and 4 more like it]"


def test_other_kinds_and_other_loggers_pass(once: logs.OncePer, clock: list[float]) -> None:
    assert once.filter(a_record("one"))
    assert once.filter(a_record("two"))
    assert all(once.filter(a_record("x", name="shared.relay")) for _ in range(3))


def test_a_message_with_a_percent_sign_is_unchanged(once: logs.OncePer, clock: list[float]) -> None:
    once.filter(a_record("%s", "100 %"))
    once.filter(a_record("%s", "100 %"))
    clock[0] += 11
    later = a_record("%s", "100 %")
    once.filter(later)
    assert later.getMessage() == "100 % [and 1 more like it]"


def test_another_process_may_be_absent_for_a_minute_before_it_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [logs._STARTED_AT + logs.START_SECONDS - 1]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    assert logs.level_of_absence() == logging.INFO
    now[0] += 1
    assert logs.level_of_absence() == logging.WARNING


LOG_TWO = """
import logging, structlog
from shared.process import logs
logs.configure("INFO", "orders")
structlog.get_logger().warning("%s failed, trying again", "relay turn", error="x")
logging.getLogger("another").warning("%d of %d", 1, 2)
"""


def test_arguments_are_part_of_the_text_in_json_lines() -> None:
    command = [sys.executable, "-c", LOG_TWO]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603
    first, second = map(json.loads, done.stdout.splitlines())

    assert (first["event"], first["error"], first["service"]) == ("relay turn failed, trying again", "x", "orders")
    assert "positional_args" not in first
    assert second["event"] == "1 of 2"
