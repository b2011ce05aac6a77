"""The processes of a cluster: each service runs as an API, a relay with its worker, and a consumer.

The worker of payments runs beside its consumer, which passes the payments to it in memory. In another process, the
worker must look for them in the table: then 263 whole orders a second were possible here, instead of 955
(`python -m bench footprint`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from contracts import access
from local.stack import Ports
from shared.process.configuration import Part

Manifest = dict[str, Any]

NAMESPACE = "quickbite"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
PART_OF = {"app.kubernetes.io/part-of": "quickbite"}
SERVICES: Mapping[str, int] = Ports().services
_BESIDE: Mapping[str, Part] = {"payments": "consumer"}
"""The part beside which the worker of a service runs, if not beside the relay."""
CONSOLE, STOREFRONT = Ports().console, Ports().storefront


@dataclass(frozen=True)
class Process:
    """A Deployment: some parts of one service. The first of `only` is its component."""

    service: str
    only: tuple[Part, ...]

    @property
    def component(self) -> Part:
        return self.only[0]

    @property
    def name(self) -> str:
        return f"{self.service}-{self.component}"

    @property
    def port(self) -> int:
        return SERVICES[self.service]

    @property
    def labels(self) -> dict[str, str]:
        """The labels that select the pods of this process."""
        return {NAME: self.service, COMPONENT: self.component}

    @property
    def pool_size(self) -> int:
        """Only an API and the worker of payments do many things at the same time."""
        return 8 if self.is_api or self.only == ("consumer", "worker") else 4

    @property
    def is_api(self) -> bool:
        return self.component == "api"


def processes(service: str) -> list[Process]:
    """All processes of a service. Only a service that reads topics has a consumer."""
    parts: dict[Part, tuple[Part, ...]] = {"api": ("api",), "relay": ("relay",)}
    if service in access.READS:
        parts["consumer"] = ("consumer",)
    if find_spec(f"{service}.worker"):
        parts[_BESIDE.get(service, "relay")] += ("worker",)
    return [Process(service, only) for only in parts.values()]


def all_processes() -> list[Process]:
    return [one for service in SERVICES for one in processes(service)]


def metadata(name: str, labels: Mapping[str, str] | None = None) -> Manifest:
    return {"name": name, "labels": {**(labels or {}), **PART_OF}}
