"""The dashboards in `deploy/dashboards/`, in Grafana's JSON: shop, delivery, one service, machine.

What must stay true: the console evaluates every expression too (`console/metering/language.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

FOLDER = "deploy/dashboards"
SUFFIX = ".json"
_COLUMNS, _HEIGHT = 3, 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_REQUESTS = "http_server_request_duration_seconds"
_OUR = '{http_route!~"/(healthz|livez|readyz|metrics)"}'
_OF = '{service="$service"}'


@dataclass(frozen=True)
class Panel:
    """A chart of some expressions, each with the text of its legend. `unit` is a name of Grafana's."""

    title: str
    unit: str
    lines: Sequence[tuple[str, str]]
    exemplars: bool = False


def _quantiles(histogram: str, by: str = "", matchers: str = "", legend: str = "") -> list[tuple[str, str]]:
    inner = f"sum by (le{by and ', ' + by}) (rate({histogram}_bucket{matchers}[1m]))"
    return [(f"histogram_quantile({q}, {inner})", f"{legend} p{q * 100:.0f}".strip()) for q in (0.5, 0.99)]


def _mean(histogram: str, by: str = "service", matchers: str = "") -> str:
    total, count = (f"sum by ({by}) (rate({histogram}_{part}{matchers}[1m]))" for part in ("sum", "count"))
    return f"{total} / {count}"


def _rate(counter: str, by: str = "service", matchers: str = "") -> str:
    return f"sum by ({by}) (rate({counter}{matchers}[1m]))"


def _max(gauge: str, by: str = "service", matchers: str = "") -> str:
    return f"max by ({by}) ({gauge}{matchers})"


_ONE, _TOPIC, _TYPE = "{{service}}", "{{service}} {{topic}}", "{{service}} {{type}}"

SHOP = [
    Panel(
        "Orders that end", "ops", [(_rate("order_duration_seconds_count", "outcome, reason"), "{{outcome}} {{reason}}")]
    ),
    Panel("Time to the end of an order", "s", _quantiles("order_duration_seconds", "outcome", legend="{{outcome}}")),
    Panel(
        "Oldest open order and payment",
        "s",
        [(_max("orders_oldest_open_seconds"), "order"), (_max("payments_oldest_open_seconds"), "payment")],
    ),
    Panel("Requests", "reqps", [(_rate(f"{_REQUESTS}_count", matchers=_OUR), _ONE)]),
    Panel("Time to an answer", "s", _quantiles(_REQUESTS, "service", _OUR, _ONE), exemplars=True),
    Panel(
        "Answers by status",
        "reqps",
        [(_rate(f"{_REQUESTS}_count", "http_response_status_code", _OUR), "{{http_response_status_code}}")],
    ),
    Panel(
        "Calls to the provider",
        "ops",
        [(_rate("payments_provider_calls_total", "call, outcome"), "{{call}} {{outcome}}")],
    ),
    Panel("Payments in quarantine", "short", [(_max("payments_quarantined_total"), _ONE)]),
    Panel("Canary orders", "s", _quantiles("canary_order_duration_seconds")),
]
DELIVERY = [
    Panel("Age of the oldest unhandled record", "s", [(_max("consumer_lag_seconds", "service, topic"), _TOPIC)]),
    Panel("Age of the oldest unpublished row", "s", [(_max("outbox_oldest_unpublished_seconds"), _ONE)]),
    Panel("Oldest open write transaction", "s", [("max(outbox_held_back_seconds)", "seconds")]),
    Panel("Unhandled records", "short", [("sum by (service, topic) (consumer_lag_records)", _TOPIC)]),
    Panel("Unpublished rows", "short", [(_max("outbox_unpublished_rows"), _ONE)]),
    Panel("Unpublished bytes", "bytes", [(_max("outbox_unpublished_bytes"), _ONE)]),
    Panel("Events published", "ops", [(_rate("outbox_published_total"), _ONE)]),
    Panel("Events read", "ops", [(_rate("consumer_events_total", "service, outcome"), "{{service}} {{outcome}}")]),
    Panel("Events in one transaction", "short", [(_mean("consumer_batch_events"), _ONE)]),
    Panel(
        "Parked events and keys",
        "short",
        [(_max("parked_events"), f"{_ONE} events"), (_max("parked_keys"), f"{_ONE} keys")],
    ),
    Panel("Age of the oldest parked event", "s", [(_max("parked_oldest_seconds"), _ONE)]),
    Panel(
        "Types that are paused, events that are held",
        "short",
        [
            (_max("consumer_type_paused", "service, type"), f"{_TYPE} paused"),
            (_max("consumer_held_events", "service, type"), f"{_TYPE} held"),
        ],
    ),
    Panel("Attempts that failed", "ops", [(_rate("consumer_retries_total", "service, type"), _TYPE)]),
    Panel(
        "Turns that failed",
        "ops",
        [(_rate("relay_failures_total"), f"{_ONE} relay"), (_rate("consumer_failures_total"), f"{_ONE} consumer")],
    ),
    Panel("Keys that Kafka refuses", "short", [(_max("outbox_stopped_keys"), _ONE)]),
    Panel("Lanes held", "short", [("sum by (service) (relay_lanes_held)", _ONE)]),
    Panel(
        "Rows in DEFAULT partitions",
        "short",
        [(_max("outbox_default_partition_rows", "service, table"), "{{service}} {{table}}")],
    ),
    Panel("Records deleted before they were read", "short", [(_max("consumer_missed_records_total"), _ONE)]),
]
SERVICE = [
    Panel(
        "Requests",
        "reqps",
        [
            (
                _rate(f"{_REQUESTS}_count", "http_route, http_request_method", _OF),
                "{{http_request_method}} {{http_route}}",
            )
        ],
    ),
    Panel("Time to an answer", "s", _quantiles(_REQUESTS, "http_route", _OF, "{{http_route}}"), exemplars=True),
    Panel(
        "Answers by status",
        "reqps",
        [(_rate(f"{_REQUESTS}_count", "http_response_status_code", _OF), "{{http_response_status_code}}")],
    ),
    Panel(
        "Connections of the pool",
        "short",
        [
            (_max("db_client_connection_count", "db_client_connection_state", _OF), "{{db_client_connection_state}}"),
            (_max("db_client_connection_max", matchers=_OF), "size"),
            (_max("db_client_connection_pending_requests", matchers=_OF), "waiting"),
        ],
    ),
    Panel(
        "Group commit: requests that wait", "short", [(_max("group_commit_waiting_requests", matchers=_OF), "waiting")]
    ),
    Panel(
        "Group commit: requests in one statement", "short", [(_mean("group_commit_batch_rows", matchers=_OF), "rows")]
    ),
    Panel("Lag of the event loop", "s", _quantiles("event_loop_lag_seconds", matchers=_OF)),
    Panel("CPU", "percentunit", [(_rate("process_cpu_seconds_total", matchers=_OF), "cores")]),
    Panel("Memory", "bytes", [(_max("process_resident_memory_bytes", matchers=_OF), "resident")]),
]
MACHINE = [
    Panel("CPU", "percentunit", [(_rate("process_cpu_seconds_total"), _ONE)]),
    Panel("Memory", "bytes", [("sum by (service) (process_resident_memory_bytes)", _ONE)]),
    Panel("Open files", "short", [("sum by (service) (process_open_fds)", _ONE)]),
    Panel("Processes that answer", "short", [("sum by (service) (up)", _ONE)]),
    Panel("Lag of the event loop", "s", _quantiles("event_loop_lag_seconds", "service", legend=_ONE)),
    Panel("Start of the process", "dateTimeFromNow", [("max by (service) (process_start_time_seconds) * 1000", _ONE)]),
    Panel(
        "Releases",
        "short",
        [("count by (service, version, python_version) (build_info)", "{{service}} {{version}} {{python_version}}")],
    ),
    Panel(
        "Telemetry dropped",
        "ops",
        [
            (_rate("console_telemetry_dropped_total", "service, what"), "{{service}} {{what}}"),
            (_rate("tracing_spans_dropped_total"), f"{_ONE} spans"),
        ],
    ),
    Panel("Alert messages", "ops", [(_rate("alert_notifications_total", "outcome"), "{{outcome}}")]),
]
DASHBOARDS = {"shop": SHOP, "delivery": DELIVERY, "service": SERVICE, "machine": MACHINE}


def files() -> dict[str, str]:
    """Every dashboard, by its path in the project."""
    return {f"{FOLDER}/{name}{SUFFIX}": _text(_dashboard(name, panels)) for name, panels in DASHBOARDS.items()}


def _text(content: dict[str, Any]) -> str:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n"


def _dashboard(name: str, panels: Sequence[Panel]) -> dict[str, Any]:
    source = {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus"}
    service = {
        "name": "service",
        "label": "Service",
        "type": "query",
        "refresh": 2,
        "sort": 1,
        "datasource": _SOURCE,
        "query": "label_values(up, service)",
    }
    has_service = any(_OF in expression for panel in panels for expression, _ in panel.lines)
    return {
        "uid": f"quickbite-{name}",
        "title": f"QuickBite: {name}",
        "tags": ["quickbite"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, *([service] if has_service else [])]},
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    width = 24 // _COLUMNS
    place = {"x": number % _COLUMNS * width, "y": number // _COLUMNS * _HEIGHT, "w": width, "h": _HEIGHT}
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + n), "expr": expr, "legendFormat": legend, "exemplar": panel.exemplars}
            for n, (expr, legend) in enumerate(panel.lines)
        ],
    }
