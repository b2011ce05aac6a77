"""Rendered manifests as the rules look at them: by kind, pods with their containers, Services by name."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from documents.kubernetes.network import ENGINES
from documents.kubernetes.parts import NAMESPACE, Manifest
from documents.kubernetes.policies import Pods, selects

# What the operators make: the Service of Postgres' primary, and the one of Kafka's brokers.
ENGINE_PORTS = {"postgres-rw": ("postgres", 5432), "kafka-kafka-bootstrap": ("kafka", 9093)}
_ADDRESS = re.compile(rf"(?:^|[/@=,])([a-z][a-z0-9-]*)(?:\.{NAMESPACE}\.svc\.cluster\.local)?:(\d+)")


@dataclass(frozen=True)
class Workload:
    """A Deployment or a Job of QuickBite's own, with its pods."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def pod(self) -> Manifest:
        found: Manifest = self.manifest["spec"]["template"]["spec"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.manifest["spec"]["template"]["metadata"]["labels"]
        return found

    @property
    def containers(self) -> list[Manifest]:
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def main(self) -> Manifest:
        found: Manifest = self.pod["containers"][0]
        return found

    def port(self, name: str | int) -> int | None:
        """The number of a named port of the main container."""
        ports = {one["name"]: int(one["containerPort"]) for one in self.main.get("ports", [])}
        return ports.get(name) if isinstance(name, str) else name


class Cluster:
    """All manifests of one overlay."""

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self.manifests = manifests
        self.workloads = [Workload(one) for one in manifests if one["kind"] in {"Deployment", "StatefulSet", "Job"}]

    def of_kind(self, kind: str) -> list[Manifest]:
        return [one for one in self.manifests if one["kind"] == kind]

    def named(self, kind: str, name: str) -> Manifest | None:
        return next((one for one in self.of_kind(kind) if one["metadata"]["name"] == name), None)

    def addresses(self, workload: Workload) -> Iterator[tuple[str, int]]:
        """The hosts and ports of the cluster that the settings of a workload name."""
        for container in workload.containers:
            for value in self._values(container):
                for host, port in _ADDRESS.findall(value):
                    yield host, int(port)

    def behind(self, host: str, port: int) -> tuple[Pods, int] | None:
        """The pods and their port behind the name of a Service; None if it has no such port, or no pods."""
        if host in ENGINE_PORTS:
            engine, known = ENGINE_PORTS[host]
            return (Pods(ENGINES[engine]), port) if port == known else None
        service = self.named("Service", host)
        if service is None:
            return None
        target = next((one["targetPort"] for one in service["spec"]["ports"] if one["port"] == port), None)
        chosen = [one for one in self.workloads if selects({"matchLabels": service["spec"]["selector"]}, one.labels)]
        found = chosen[0].port(target) if chosen and target is not None else None
        return (Pods(chosen[0].labels), found) if found else None

    def _values(self, container: Manifest) -> Iterator[str]:
        for one in container.get("env", []):
            yield one.get("value", "")
        for source in container.get("envFrom", []):
            found = self.named("ConfigMap", source["configMapRef"]["name"])
            yield from (found or {}).get("data", {}).values()
