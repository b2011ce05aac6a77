"""The software bill of materials, as CycloneDX: https://cyclonedx.org.

What must stay true: each locked package, each jar and each vendored file is in it, with its hash.
"""

import base64
import hashlib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from parts import foreign, locks

JARS = locks.PROJECT / "local" / "jgo.lock.toml"
LOCKED_IN = "quickbite:locked-in"
"""The property that names the lock of a component."""

_SCOPES = {"run.txt": ComponentScope.REQUIRED, "local.txt": ComponentScope.OPTIONAL}


def document() -> Bom:
    """All components, each as a part of QuickBite."""
    made = Bom(components=[*_packages(), *_jars(), *_vendored(), *_images(), _archive()])
    own = tomllib.loads((locks.PROJECT / "pyproject.toml").read_text())["project"]
    made.metadata.component = Component(
        name=own["name"],
        version=own["version"],
        type=ComponentType.APPLICATION,
        licenses=[LicenseExpression(own["license"])],
    )
    made.metadata.tools.components.add(this_component())
    made.register_dependency(made.metadata.component, made.components)
    return made


def as_json(made: Bom) -> str:
    """The document as CycloneDX 1.6 has it."""
    return JsonV1Dot6(made).output_as_string(indent=2)


def _packages() -> list[Component]:
    """A component for each package and version, with the locks that have it. Its hashes are those of all its files."""
    where: dict[tuple[str, str], dict[str, locks.Package]] = {}
    for lock in locks.files():
        name = lock.relative_to(locks.PROJECT).as_posix()
        for package in locks.packages(lock):
            where.setdefault((package.name, package.version), {})[name] = package
    return [_package(name, version, found) for (name, version), found in where.items()]


def _package(name: str, version: str, found: Mapping[str, locks.Package]) -> Component:
    inside = foreign.PROGRAMS.get((name, version), ())
    return _component(
        f"pkg:pypi/{name}@{version}",
        hashes=_sha256({one for package in found.values() for one in package.hashes}),
        scope=_scope(found),
        properties=[Property(name=LOCKED_IN, value=lock) for lock in found],
        components=[_component(purl, type=ComponentType.APPLICATION) for purl in inside],
    )


def _scope(names: Collection[str]) -> ComponentScope:
    """`required` in production, `optional` for the stack on one's own machine, `excluded` for development only."""
    known = [scope for file, scope in _SCOPES.items() if f"requirements/{file}" in names]
    return known[0] if known else ComponentScope.EXCLUDED


def _jars() -> list[Component]:
    return [
        _component(
            f"pkg:maven/{jar['groupId']}/{jar['artifactId']}@{jar['version']}?type=jar",
            hashes=_sha256([jar["sha256"]]),
            scope=ComponentScope.OPTIONAL,
            properties=[Property(name=LOCKED_IN, value=JARS.relative_to(locks.PROJECT).as_posix())],
        )
        for jar in tomllib.loads(JARS.read_text())["dependencies"]
    ]


def _vendored() -> list[Component]:
    return [
        _component(
            one.purl,
            licenses=[LicenseExpression(one.licence)],
            components=[_file(name) for name in one.files],
        )
        for one in foreign.VENDORED
    ]


def _file(name: str) -> Component:
    content = (locks.PROJECT / name).read_bytes()
    return Component(name=name, type=ComponentType.FILE, hashes=_sha256([hashlib.sha256(content).hexdigest()]))


def _images() -> list[Component]:
    named = (image.rpartition(":") for image in foreign.images())
    return [_component(f"pkg:docker/{name}@{tag}", type=ComponentType.CONTAINER) for name, _, tag in named]


def _archive() -> Component:
    purl, sha512 = foreign.ARCHIVE
    digest = base64.b64decode(sha512).hex()
    return _component(purl, hashes=[HashType(alg=HashAlgorithm.SHA_512, content=digest)], scope=ComponentScope.OPTIONAL)


def _component(purl: str, **more: Any) -> Component:
    found = PackageURL.from_string(purl)
    details = {"type": ComponentType.LIBRARY, "bom_ref": purl, **more}
    return Component(name=found.name, group=found.namespace, version=found.version, purl=found, **details)


def _sha256(hashes: Iterable[str]) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=one) for one in hashes]
