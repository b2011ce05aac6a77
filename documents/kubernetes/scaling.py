"""How many pods of each process a production cluster runs, between two and the most that can work (KEDA).

An API scales by CPU and by its requests in flight. A relay and a consumer scale by their lag in seconds. More relays
than lanes, or more consumers than partitions, would be idle.
"""

from documents.kubernetes.parts import Manifest, Process, all_processes, metadata
from shared.delivery.schema import LANES

LEAST = 2
APIS, ORDERS_APIS, CONSUMERS = 4, 8, 6
"""The most pods. orders gets most requests. Each pod has connections, and Postgres can have only so many."""
LATE_SECONDS = 5
"""More consumers or relays start when events are so late. The alert `EventsLate` comes at 15 s."""
CPU_PERCENT = "500"
"""Of the CPU that an API requests: half a core. One process can use one core."""
IN_FLIGHT = 32
"""Requests of one pod of an API at the same time."""
PROMETHEUS = "http://prometheus-operated.monitoring:9090"
_GROUP_COMMIT, _RELAY, _PROVIDER = 3, 2, 2
_LATE = {"consumer": "consumer_lag_seconds", "relay": "outbox_oldest_unpublished_seconds"}


def manifests() -> list[Manifest]:
    return [_scaled(process) for process in all_processes()]


def most(process: Process) -> int:
    if process.is_api:
        return ORDERS_APIS if process.service == "orders" else APIS
    return LANES if process.component == "relay" else CONSUMERS


def connections(process: Process) -> int:
    """The most connections that one process opens to Postgres: its pool, group commit, and those of the relay."""
    more = _GROUP_COMMIT if process.name == "orders-api" else _RELAY if process.component == "relay" else 0
    return process.pool_size + more + (_PROVIDER if process.name == "payments-consumer" else 0)


def _scaled(process: Process) -> Manifest:
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(process.name, process.labels),
        "spec": {
            "scaleTargetRef": {"name": process.name},
            "minReplicaCount": LEAST,
            "maxReplicaCount": most(process),
            "pollingInterval": 15,
            # Each change of the number of consumers moves partitions, so it must not change at every peak.
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _BEHAVIOUR}},
            # Without Prometheus the number of pods stays as it is, at least at LEAST.
            "fallback": {"failureThreshold": 4, "replicas": LEAST, "behavior": "currentReplicasIfHigher"},
            "triggers": _triggers(process),
        },
    }


_BEHAVIOUR = {
    "scaleUp": {"stabilizationWindowSeconds": 30, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
    "scaleDown": {"stabilizationWindowSeconds": 600, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}]},
}


def _triggers(process: Process) -> list[Manifest]:
    if process.is_api:
        # The sum of all durations grows by the number of requests in flight in each second (Little's law).
        seconds = f'http_server_request_duration_seconds_sum{{service="{process.service}"}}'
        return [
            {"type": "cpu", "metricType": "Utilization", "metadata": {"value": CPU_PERCENT}},
            _prometheus(f"sum(rate({seconds}[1m]))", IN_FLIGHT, "AverageValue"),
        ]
    query = f'max({_LATE[process.component]}{{service="{process.service}"}})'
    return [_prometheus(query, LATE_SECONDS, "Value")]


def _prometheus(query: str, threshold: int, metric_type: str) -> Manifest:
    found = {"serverAddress": PROMETHEUS, "query": query, "threshold": str(threshold)}
    return {"type": "prometheus", "metricType": metric_type, "metadata": found}
