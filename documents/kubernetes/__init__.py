"""The generated part of `deploy/kubernetes/`: what follows from the code, as manifests.

What must stay true: a file of this folder is written by hand or generated, never both.
"""

from collections.abc import Sequence

import yaml

from documents.kubernetes import alerts, images, kafka, network, scaling, workloads
from documents.kubernetes.parts import Manifest

BASE, PRODUCTION = "deploy/kubernetes/base/generated", "deploy/kubernetes/overlays/production/generated"
IMAGES = "deploy/kubernetes/images"
SUFFIX = ".yaml"
_HEAD = "# Written by `make docs` from documents/kubernetes/{source}.py. Change that file, not this one.\n"


def files() -> dict[str, str]:
    """All generated manifests, by their paths in the project."""
    base = {name: ("workloads", found) for name, found in workloads.manifests().items()}
    base |= {
        "access": ("kafka", kafka.manifests()),
        "network": ("network", network.manifests()),
    }
    made = {f"{BASE}/{name}{SUFFIX}": _text(*found) for name, found in base.items()}
    production = {"scaling": scaling.manifests(), "alerts": alerts.manifests()}
    made |= {f"{PRODUCTION}/{name}{SUFFIX}": _text(name, found) for name, found in production.items()}
    return made | {f"{IMAGES}/kustomization{SUFFIX}": _text("images", images.manifests())}


def _text(source: str, manifests: Sequence[Manifest]) -> str:
    documents = [yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=120) for one in manifests]
    return _HEAD.format(source=source) + "---\n".join(documents)


class _Dumper(yaml.SafeDumper):
    """Writes a value twice instead of an alias, which people do not expect in manifests."""

    def ignore_aliases(self, _: object) -> bool:
        return True
