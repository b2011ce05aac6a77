"""The overlays of `deploy/kubernetes/` keep the rules, and a wrong setting in an overlay does not."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from documents.kubernetes import __main__ as commands
from documents.kubernetes import rendering, rules
from documents.kubernetes.cluster import Cluster

try:
    rendering.kubectl()
except rendering.NotRendered as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.mark.parametrize("name", rendering.NAMES)
def test_an_overlay_keeps_all_rules(name: str) -> None:
    cluster = Cluster(rendering.manifests(rendering.OVERLAYS / name))
    assert rules.complaints(cluster, production=name == "production") == []


def rendered(folder: Path, settings: dict[str, object]) -> list[dict[str, Any]]:
    """An overlay on top of the one for production."""
    base = os.path.relpath(rendering.OVERLAYS / "production", folder.resolve())
    own = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "quickbite"}
    own |= {"resources": [base], **settings}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return rendering.manifests(folder)


def patch(kind: str, name: str, operation: str, path: str, value: object = None) -> dict[str, list[object]]:
    """A patch of one value of one manifest."""
    step = {"op": operation, "path": path} | ({} if operation == "remove" else {"value": value})
    return {"patches": [{"target": {"kind": kind, "name": f"^{name}$"}, "patch": yaml.safe_dump([step])}]}


CONTAINER = "/spec/template/spec/containers/0"
WRONG = {
    "no ACL": (
        patch("KafkaUser", "orders", "remove", "/spec/authorization/acls/0"),
        "access to kafka: orders lacks Write topic orders.events",
    ),
    "an ACL too many": (
        patch(
            *("KafkaUser", "users", "add", "/spec/authorization/acls/-"),
            {"resource": {"type": "topic", "name": "orders.events"}, "operations": ["Write"]},
        ),
        "access to kafka: users has Write topic orders.events",
    ),
    "one copy": (
        patch("KafkaTopic", "orders.events", "replace", "/spec/replicas", 1),
        "copies: the topic orders.events has 1 copies",
    ),
    "no second copy": (
        patch("Kafka", "kafka", "replace", "/spec/kafka/config/min.insync.replicas", 1),
        "copies: Kafka has min.insync.replicas=1",
    ),
    "no backup": (patch("Cluster", "postgres", "remove", "/spec/plugins"), "copies: Postgres has no backups"),
    "a probe without a route": (
        patch("Deployment", "orders-relay", "replace", f"{CONTAINER}/livenessProbe/httpGet/path", "/alive"),
        "probes: orders-relay has no route /alive for its livenessProbe",
    ),
    "a probe of another port": (
        patch("Deployment", "orders-relay", "replace", f"{CONTAINER}/readinessProbe/httpGet/port", "admin"),
        "probes: orders-relay has no port admin for its readinessProbe",
    ),
    "a port that no policy allows": (
        patch(
            *("Deployment", "orders-relay", "add", f"{CONTAINER}/env/-"),
            {"name": "AUTH_JWKS_URL", "value": "http://auth:8083/auth/jwks.json"},
        ),
        "arrows: no policy lets orders-relay reach auth:8083",
    ),
    "a port that no Service has": (
        patch("Deployment", "storefront", "replace", f"{CONTAINER}/env/4/value", "http://auth:80"),
        "arrows: storefront uses auth:80, which no Service has",
    ),
    "an arrow too many": (
        patch(
            *("NetworkPolicy", "console", "add", "/spec/ingress/-"),
            {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}]},
        ),
        "outside: others may reach console",
    ),
    "latest": (
        {"images": [{"name": "nginx", "newTag": "latest"}]},
        "images: gateway runs nginx:latest",
    ),
    "a name that the schema does not know": (
        patch("Deployment", "orders-api", "add", f"{CONTAINER}/readOnlyRoot", value=True),
        "schemas: Deployment orders-api: Additional properties are not allowed ('readOnlyRoot' was unexpected)",
    ),
    "root": (
        patch("Deployment", "gateway", "remove", "/spec/template/spec/securityContext"),
        "restricted pods: gateway may run as root, or without seccomp",
    ),
    "no limit": (
        patch("Deployment", "gateway", "remove", f"{CONTAINER}/resources/limits"),
        "resources: gateway of gateway has no requests, or no limit of memory",
    ),
    "an end before the drain": (
        patch("Deployment", "users-relay", "replace", "/spec/template/spec/terminationGracePeriodSeconds", 5),
        "grace: users-relay needs 11 s to end",
    ),
    "more pods than lanes": (
        patch("ScaledObject", "orders-relay", "replace", "/spec/maxReplicaCount", 5),
        "scaled: orders-relay may have 5 pods, and only 4 have something to do",
    ),
    "too few connections": (
        patch("Cluster", "postgres", "replace", "/spec/postgresql/parameters/max_connections", "200"),
        "connections: Postgres accepts 200, and the pods may need ",
    ),
    "a disk that is full before orders are refused": (
        patch("Cluster", "postgres", "replace", "/spec/storage/size", "50Gi"),
        "disk: orders may fill 80 GB, and Postgres has 53.7 GB",
    ),
    "a Secret that nobody makes": (
        patch(
            "Deployment", "auth-api", "replace", "/spec/template/spec/volumes/0/projected/sources/0/secret/name", "x"
        ),
        "secrets: auth-api needs x, which nobody makes",
    ),
    "a password": (
        {"secretGenerator": [{"name": "mine", "literals": ["password=p"], "options": {"disableNameSuffixHash": True}}]},
        "no passwords: mine is in the manifests",
    ),
    "one pod": (
        patch("ScaledObject", "orders-api", "replace", "/spec/minReplicaCount", 1),
        "at least two: orders-api may have 1 pods",
    ),
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """About one overlay with all wrong settings: it takes seconds to render and check one."""
    settings: dict[str, list[object]] = {}
    for wrong, _ in WRONG.values():
        for key, values in wrong.items():
            settings.setdefault(key, []).extend(values)
    cluster = Cluster(rendered(tmp_path_factory.mktemp("overlay"), dict(settings)))
    return rules.complaints(cluster, production=True)


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_setting_in_an_overlay_is_found(what: str, complaints: list[str]) -> None:
    _, sentence = WRONG[what]
    assert [one for one in complaints if one.startswith(sentence)], complaints


def test_nothing_else_is_wrong_with_that_overlay(complaints: list[str]) -> None:
    sentences = tuple(sentence for _, sentence in WRONG.values())
    assert [one for one in complaints if not one.startswith(sentences)] == []


def test_an_overlay_that_cannot_be_rendered_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(rendering.NotRendered, match="no such file"):
        rendered(tmp_path, {"resources": ["nothing.yaml"]})


def test_a_manifest_that_the_api_server_refuses_is_a_complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl itself is tried with a real API server; here only what is made of its answer."""
    refused = "Error from server (BadRequest): no such field"
    script = tmp_path / "kubectl"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = kustomize ] && exit\necho "a (server dry run)"\necho "{refused}" >&2\nexit 1\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(rendering, "kubectl", lambda: str(script))
    assert commands.refused("production") == [refused]
