"""Every metric that `shared/` exports, in one place, in Prometheus' base units: seconds, bytes, totals.

HTTP and the pool have the names of OpenTelemetry's conventions. What must stay true: every label has few values.
"""

import platform
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Histogram(
    "http_server_request_duration_seconds",
    "Time to an answer",
    ["http_route", "http_request_method", "http_response_status_code"],
    buckets=(
        *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
        *(0.75, 1, 2, 3, 5),
    ),
)
REFUSED = Counter("http_server_requests_refused_total", "Requests refused because the process was late", ["reason"])
GROUP_COMMIT_BATCH = Histogram(
    "group_commit_batch_rows", "Requests written by one statement", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
GROUP_COMMIT_WAITING = Gauge("group_commit_waiting_requests", "Requests that wait for a connection of group commit")

POOL_CONNECTIONS = Gauge(
    "db_client_connection_count",
    "Connections of a pool, by state",
    ["db_client_connection_pool_name", "db_client_connection_state"],
)
POOL_MAX = Gauge("db_client_connection_max", "Size of a pool", ["db_client_connection_pool_name"])
POOL_WAITING = Gauge(
    "db_client_connection_pending_requests", "Callers that wait for a connection", ["db_client_connection_pool_name"]
)

LOOP_LAG = Histogram(
    "event_loop_lag_seconds",
    "How late the event loop was for a timer",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 30),
)
BUILD = Gauge("build_info", "1, with the release that runs", ["version", "python_version"])

OUTBOX_PUBLISHED = Counter("outbox_published_total", "Outbox rows that Kafka has acknowledged")
OUTBOX_OLDEST = Gauge(
    "outbox_oldest_unpublished_seconds", "Age of the oldest outbox row that Kafka has not acknowledged"
)
OUTBOX_HELD_BACK = Gauge(
    "outbox_held_back_seconds", "Age of the oldest open write transaction; newer rows cannot be read before it ends"
)
OUTBOX_REFUSED = Counter("outbox_refused_total", "Outbox rows that Kafka refused permanently")
OUTBOX_STOPPED_KEYS = Gauge("outbox_stopped_keys", "Keys with a row that Kafka refuses; their later rows wait")
OUTBOX_UNPUBLISHED_ROWS = Gauge(
    "outbox_unpublished_rows", "Outbox rows that Kafka has not acknowledged; counted up to 100,000 for each lane"
)
OUTBOX_UNPUBLISHED_BYTES = Gauge("outbox_unpublished_bytes", "Size of the values of these rows")
OUTBOX_UNPARTITIONED = Gauge("outbox_default_partition_rows", "Rows in a DEFAULT partition", ["table"])
RELAY_LANES = Gauge("relay_lanes_held", "Lanes that this process publishes")
RELAY_SUCCESS = Gauge("relay_last_success_timestamp_seconds", "Time of the last relay turn that succeeded")
RELAY_FAILURES = Counter("relay_failures_total", "Relay turns that failed and were tried again")

CONSUMED = Counter("consumer_events_total", "Events read, by outcome", ["outcome"])
CONSUMER_BATCH = Histogram(
    "consumer_batch_events", "Events in one transaction", buckets=(1, 5, 20, 50, 100, 200, 500, 1000)
)
CONSUMER_FAILURES = Counter("consumer_failures_total", "Consumer turns that failed and were tried again")
CONSUMER_HELD = Gauge("consumer_held_events", "Events that failed and are neither done nor parked", ["type"])
CONSUMER_PAUSED = Gauge("consumer_type_paused", "1 if every event of the type fails: a bad release?", ["type"])
CONSUMER_MISSED = Counter("consumer_missed_records_total", "Records that Kafka had deleted before they were read")
CONSUMER_LAG = Gauge("consumer_lag_records", "Records of this process's partitions that are not handled", ["topic"])
CONSUMER_LAG_SECONDS = Gauge(
    "consumer_lag_seconds", "Age of the oldest record that this process has read and not handled", ["topic"]
)
CONSUMER_RETRIES = Counter("consumer_retries_total", "Attempts at a single event that failed", ["type"])
CONSUMER_SUCCESS = Gauge("consumer_last_success_timestamp_seconds", "Time of the last consumer turn that succeeded")

AUDIT_DROPPED = Counter("audit_dropped_total", "Acts that are only in the log, because too many waited for Postgres")

SPANS_DROPPED = Counter("tracing_spans_dropped_total", "Spans that could not be sent")

PARKED = Gauge("parked_events", "Parked events that are not resolved")
PARKED_KEYS = Gauge("parked_keys", "Keys whose events wait behind a parked one")
PARKED_OLDEST = Gauge("parked_oldest_seconds", "Age of the oldest parked event that is not resolved")


def observe_request(route: str, method: str, status: int, seconds: float, trace_id: str | None = None) -> None:
    """Measure one answer. `trace_id` is the id of a sampled trace: it becomes the exemplar of the answer's bucket."""
    REQUESTS.labels(route, method, status).observe(seconds, {"trace_id": trace_id} if trace_id else None)


def set_build(version: str) -> None:
    """Set the release that this process runs."""
    BUILD.labels(version, platform.python_version()).set(1)


def set_age(gauge: Gauge, since: datetime | None) -> None:
    """Set a gauge to the seconds since a time, or to 0 if there is none."""
    gauge.set((datetime.now(UTC) - since).total_seconds() if since else 0.0)
