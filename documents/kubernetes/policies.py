"""What the NetworkPolicies of rendered manifests allow, as Kubernetes reads them.

A connection needs an egress rule of its source and an ingress rule of its target. Pods that no policy selects are free.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from documents.kubernetes.parts import NAMESPACE_LABEL, Manifest

_OPERATORS: Mapping[str, Callable[[str | None, list[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}


@dataclass(frozen=True)
class Pods:
    """Some pods: their labels, and their namespace if it is another one."""

    labels: Mapping[str, str]
    namespace: str = ""


class Policies:
    """The NetworkPolicies of one namespace."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self._specs = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]

    def allow(self, source: Pods, target: Pods, port: int) -> bool:
        """True if pods of `source` may connect to this TCP port of `target`."""
        leaves = source.namespace or self._allow("Egress", source, target, port)
        return bool(leaves) and bool(target.namespace or self._allow("Ingress", target, source, port))

    def _allow(self, direction: str, own: Pods, other: Pods, port: int) -> bool:
        key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        specs = [
            spec
            for spec in self._specs
            if direction in spec["policyTypes"] and selects(spec["podSelector"], own.labels)
        ]
        rules = [rule for spec in specs for rule in spec.get(key) or []]
        return not specs or any(_fits(rule, peers, other, port) for rule in rules)


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """True if a label selector selects pods with these labels."""
    exact = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []
    return all(labels.get(name) == value for name, value in exact.items()) and all(
        _OPERATORS[one["operator"]](labels.get(one["key"]), one.get("values", [])) for one in expressions
    )


def _fits(rule: Manifest, peers: str, other: Pods, port: int) -> bool:
    ports = rule.get("ports")
    if ports and not any(one.get("protocol", "TCP") == "TCP" and one.get("port") == port for one in ports):
        return False
    return peers not in rule or any(_is_peer(peer, other) for peer in rule[peers])


def _is_peer(peer: Manifest, other: Pods) -> bool:
    if "ipBlock" in peer:
        return False
    namespace = peer.get("namespaceSelector")
    if namespace is None and other.namespace:
        return False
    if namespace is not None and not selects(namespace, {NAMESPACE_LABEL: other.namespace}):
        return False
    return selects(peer.get("podSelector") or {}, other.labels)
