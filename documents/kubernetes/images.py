"""The images of other people in Kubernetes: those of `deploy/images.env`, which compose has too."""

from documents.kubernetes.parts import Manifest
from local import images

NAMES = {"nginx": "NGINX_IMAGE"}
"""The names in the manifests, and the variables of the file."""


def manifests() -> list[Manifest]:
    """A component of Kustomize, for every overlay."""
    known = images.read()
    found = [_image(name, known[variable]) for name, variable in NAMES.items()]
    return [{"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component", "images": found}]


def _image(name: str, image: str) -> Manifest:
    """A digest wins over the tag."""
    tagged, _, digest = image.partition("@")
    place, _, tag = tagged.rpartition(":")
    return {"name": name, "newName": place, **({"digest": digest} if digest else {"newTag": tag})}
