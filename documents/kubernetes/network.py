"""Who may connect to whom: a list of arrows, and from them the NetworkPolicies of QuickBite's own pods.

What must stay true: the arrows are those of docs/architecture.md, no more and no fewer. A test compares them with the
connections of a running stack. The policies of Postgres and Kafka are in `base/operators-network.yaml`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from documents.kubernetes.parts import (
    COMPONENT,
    CONSOLE,
    NAME,
    NAMESPACE_LABEL,
    SERVICES,
    STOREFRONT,
    Manifest,
    all_processes,
    metadata,
)
from local.services import STOREFRONT_ASKS

POSTGRES_PORT, KAFKA_PORT, GATEWAY_PORT = 5432, 9093, 8080


class Arrow(NamedTuple):
    """Pods of the group `source` connect to those of `target`."""

    source: str
    target: str
    port: int


PODS = {process.name: process.labels for process in all_processes()} | {
    "gateway": {NAME: "gateway"},
    "storefront": {NAME: "storefront"},
    "console": {NAME: "console"},
    "migrate": {NAME: "migrate"},
}
"""The labels of each group of QuickBite's own pods."""
ENGINES = {
    "postgres": {"cnpg.io/cluster": "postgres"},
    "kafka": {"strimzi.io/cluster": "kafka", "strimzi.io/name": "kafka-kafka"},
}
"""The labels that the operators give to the pods of Postgres and of Kafka."""
OUTSIDE = {"prometheus": "monitoring", "entry": "envoy-gateway-system"}
"""The namespaces from which others connect: Prometheus, and the pods behind the Gateway."""


def arrows() -> list[Arrow]:
    return [*_of_services(), *_of_pages(), *_of_outside(), Arrow("migrate", "postgres", POSTGRES_PORT)]


def _of_services() -> list[Arrow]:
    found = []
    for process in all_processes():
        found += [Arrow(process.name, "postgres", POSTGRES_PORT), Arrow(process.name, "console", CONSOLE)]
        # An API verifies tokens, with keys of auth. Only a relay and a consumer use Kafka.
        found.append(_api(process.name, "auth") if process.is_api else Arrow(process.name, "kafka", KAFKA_PORT))
    return found


def _of_pages() -> list[Arrow]:
    return [
        *(_api("gateway", name) for name in SERVICES),
        Arrow("gateway", "storefront", STOREFRONT),
        *(_api("storefront", name) for name in STOREFRONT_ASKS),
        Arrow("storefront", "kafka", KAFKA_PORT),
        *(_api("console", name) for name in SERVICES),
    ]


def _of_outside() -> list[Arrow]:
    """Nobody outside reaches the console. `kubectl port-forward` needs no policy."""
    return [
        Arrow("entry", "gateway", GATEWAY_PORT),
        *(Arrow("prometheus", process.name, process.port) for process in all_processes()),
        Arrow("prometheus", "console", CONSOLE),
    ]


def _api(source: str, service: str) -> Arrow:
    return Arrow(source, f"{service}-api", SERVICES[service])


def manifests() -> list[Manifest]:
    """Nothing is allowed but names and the arrows."""
    return [_nothing(), _names(), *(_policy(name) for name in PODS)]


def _nothing() -> Manifest:
    return _of("nothing-else", {}, {"policyTypes": ["Ingress", "Egress"]})


def _names() -> Manifest:
    """Every pod may ask the cluster's DNS."""
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    to = [{"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: "kube-system"}}}]
    return _of("names", {}, {"policyTypes": ["Egress"], "egress": [{"to": to, "ports": ports}]})


def _policy(name: str) -> Manifest:
    """The policy of one group of pods. Without `ingress` or `egress` in it, there is none."""
    into = [{"from": [_peer(one.source)], "ports": [_port(one)]} for one in arrows() if one.target == name]
    out = [{"to": [_peer(one.target)], "ports": [_port(one)]} for one in arrows() if one.source == name]
    rules: Manifest = {"policyTypes": ["Ingress", "Egress"]}
    return _of(name, PODS[name], rules | ({"ingress": into} if into else {}) | ({"egress": out} if out else {}))


def _of(name: str, labels: Manifest, rules: Manifest) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(name),
        "spec": {"podSelector": {"matchLabels": labels} if labels else {}, **rules},
    }


def _peer(name: str) -> Manifest:
    if name in OUTSIDE:
        return {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: OUTSIDE[name]}}}
    return {"podSelector": {"matchLabels": PODS.get(name) or ENGINES[name]}}


def _port(arrow: Arrow) -> Manifest:
    return {"protocol": "TCP", "port": arrow.port}


def kafka_clients() -> Sequence[Manifest]:
    """The peers of Kafka's listener. Strimzi makes a policy of its own for them, which lets in nobody else."""
    components = sorted({PODS[one.source].get(COMPONENT, "") for one in arrows() if one.target == "kafka"} - {""})
    by_component = {"matchExpressions": [{"key": COMPONENT, "operator": "In", "values": components}]}
    return [{"podSelector": by_component}, {"podSelector": {"matchLabels": PODS["storefront"]}}]
