"""The alert rules of `deploy/alerts.yaml`, as Prometheus' operator wants them."""

import yaml

from documents.kubernetes.parts import Manifest, metadata
from local.services import PROJECT


def manifests() -> list[Manifest]:
    rules = yaml.safe_load((PROJECT / "deploy" / "alerts.yaml").read_text())
    return [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": metadata("quickbite"),
            "spec": rules,
        }
    ]
