"""What the console understands of log lines of every program."""

import random
import time

import orjson
import pytest

from console.telemetry.formats import parse
from console.telemetry.records import Line

NOW = time.time_ns()
AT = 1_769_860_800_123_000_000  # 2026-01-31 12:00:00.123 UTC
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def parsed(**fields: object) -> Line:
    return parse(orjson.dumps(fields), "orders", NOW)


def test_a_line_of_a_service_has_its_ids_in_columns_and_the_rest_in_fields() -> None:
    line = parsed(
        port=8080,
        event="order placed",
        service="orders",
        level="warning",
        logger="orders.api",
        trace_id=TRACE,
        span_id=SPAN,
        event_id="e1",
        order_id=17,
        timestamp="2026-01-31T12:00:00.123000Z",
    )
    assert (line.at_ns, line.service, line.level, line.text) == (AT, "orders", "warning", "order placed")
    assert (line.trace_id, line.span_id, line.event_id, line.key) == (TRACE, SPAN, "e1", "17")
    assert line.fields == {"port": 8080, "logger": "orders.api", "order_id": 17}


def test_the_key_wins_over_the_order_id() -> None:
    assert parsed(event="x", key="k1", order_id=17).key == "k1"


def test_a_service_with_another_name_than_the_file_stays_in_the_fields() -> None:
    assert parsed(event="x", service="payments").fields == {"service": "payments"}


@pytest.mark.parametrize("value", ["2026-01-31T12:00:00.123+00:00", "2026-01-31 13:00:00.123+01:00", "1769860800.123"])
def test_a_line_of_nginx_has_its_time_and_the_request_as_text(value: str) -> None:
    line = parsed(time=value, level="info", request="GET /v1/orders HTTP/1.1", status=200)
    assert (line.at_ns, line.text, line.fields) == (AT, "GET /v1/orders HTTP/1.1", {"status": 200})


def test_a_line_of_postgres_has_its_severity() -> None:
    line = parsed(timestamp="2026-01-31 12:00:00.123 UTC", error_severity="FATAL", message="shutting down", pid=7)
    assert (line.at_ns, line.level, line.text, line.fields) == (AT, "critical", "shutting down", {"pid": 7})


@pytest.mark.parametrize(
    ("text", "level", "shown"),
    [
        ("[2026-01-31T12:00:00,123Z] WARN Replica lags (kafka.Log)", "warning", "Replica lags (kafka.Log)"),
        ("2026-01-31 12:00:00.123 UTC [42] ERROR:  deadlock detected", "error", "deadlock detected"),
        ("2026-01-31 12:00:00.123Z [warn] 7#7: *1 no live upstreams", "warning", "7#7: *1 no live upstreams"),
        ("2026-01-31T12:00:00.123Z hello world", "info", "hello world"),
    ],
)
def test_a_text_with_a_time_and_a_level_is_understood(text: str, level: str, shown: str) -> None:
    line = parse(text.encode(), "kafka", NOW)
    assert (line.at_ns, line.level, line.text) == (AT, level, shown)


def test_a_time_without_a_zone_is_the_machines() -> None:
    line = parse(b"[2026-01-31 12:00:00,123] INFO text (logger)", "kafka", NOW)
    assert abs(line.at_ns - AT) <= 14 * 3600 * 10**9
    assert line.at_ns % 10**9 == 123_000_000


def test_a_stack_trace_has_the_level_and_the_time_of_the_line_before_it() -> None:
    first = parse(b"[2026-01-31T12:00:00,123Z] ERROR it broke (kafka.Log)", "kafka", NOW)
    second = parse(b"\tat kafka.Log.append(Log.scala:1)", "kafka", NOW, first)
    assert (second.level, second.at_ns) == ("error", AT)


def test_a_json_line_that_was_cut_keeps_its_level_and_ids() -> None:
    whole = orjson.dumps({"level": "error", "order_id": 17, "trace_id": TRACE, "note": '"level": "debug"' * 9000})
    line = parse(whole[: 64 * 1024], "orders", NOW)
    assert (line.level, line.key, line.trace_id) == ("error", "17", TRACE)
    assert line.text.startswith("{")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{}",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"event": null}',
        b'{"event": {"a": [1]}, "level": 7, "trace_id": [], "key": {}, "timestamp": {}}',
        b'{"timestamp": NaN}',
        b'{"timestamp": 1e999, "event": "x"}',
        b'{"timestamp": true, "event": "x"}',
        b'{"timestamp": "9999-99-99", "event": "x"}',
        b'{"timestamp": "9999-12-31T23:59:59Z", "event": "x"}',
        b'{"event": "\\ud800"}',
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b"{" * 100_000,
        b"2026-13-45 99:99:99 ERROR x",
        "{\u202eevil}".encode(),
    ],
)
def test_no_line_raises_and_a_time_that_makes_no_sense_is_now(raw: bytes) -> None:
    line = parse(raw, "orders", NOW)
    assert line.at_ns == NOW


def test_random_bytes_never_raise() -> None:
    chance = random.Random(7)
    start = orjson.dumps({"timestamp": "2026-01-31T12:00:00Z", "level": "info", "event": "x", "order_id": 17})
    for _ in range(3000):
        raw = bytearray(start)
        for _ in range(chance.randrange(6)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        assert parse(bytes(raw), "orders", NOW).service == "orders"
