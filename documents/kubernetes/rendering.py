"""What an overlay becomes: `kubectl kustomize` renders it, so the checks see what `kubectl apply -k` would send."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from documents.kubernetes.parts import Manifest
from local.services import PROJECT

OVERLAYS = PROJECT / "deploy" / "kubernetes" / "overlays"
NAMES = ("local", "production")


class NotRendered(Exception):
    """kubectl refuses an overlay. The text is its message."""


def kubectl() -> str:
    """The kubectl of this virtual environment, or the one of the machine. Raises `NotRendered` if there is none."""
    found = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    if found is None:
        raise NotRendered("there is no kubectl: requirements/dev.txt has it for Linux only")
    return found


def text(folder: Path) -> str:
    """The manifests of an overlay. Raises `NotRendered`."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False)  # noqa: S603 - kubectl
    if done.returncode:
        raise NotRendered(done.stderr.strip())
    return done.stdout


def manifests(folder: Path) -> list[Manifest]:
    """The same, parsed."""
    return list(yaml.load_all(text(folder), Loader=yaml.CSafeLoader))
