"""The tables of all settings, and an example of the file `.env`, from the classes that read the environment."""

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel

import console.config
import contracts.topics
import local.config
import local.console
import migrations.config
import migrations.waiting
import quickbite.config
import storefront.config
from documents.openapi import SERVICES
from local import services
from shared.process.configuration import KafkaSettings

Source = type[BaseModel] | type[local.config.Settings]

PARTS: Mapping[str, Sequence[tuple[str, Source]]] = {
    "The stack": [("`make`", local.config.Settings)],
    "Services": [(name, import_module(f"{name}.config").Settings) for name in SERVICES],
    "The console": [("console", console.config.Settings)],
    "The shop's page": [("storefront", storefront.config.Settings), ("storefront", KafkaSettings)],
    "Jobs": [
        ("migrate", migrations.config.Settings),
        ("topics", contracts.topics.Settings),
        ("`python -m migrations wait`", migrations.waiting.Settings),
    ],
    "Commands": [("`python -m quickbite`", quickbite.config.Settings), ("`python -m quickbite`", KafkaSettings)],
}
"""The classes of each table, with the processes that read them."""

HEAD = """\
# Settings

Every setting is an environment variable, and is read once, when a process starts. A wrong value stops the process with
one line that names the variable. Written by `make docs` from the classes that read the variables.

`make up` and `make restart` give the variables of their environment to the services: `LOG_LEVEL=DEBUG make restart`.
A file `.env` in the folder of the project does the same for every `make`; `.env.example` is a file to copy. Both stacks
choose the addresses of the services, `INSTANCE_ID`, `REQUIRE_TOKEN`, `CANARY_SECONDS` and `FAILURE_FLAGS` themselves.
"""

EXAMPLE = """\
# Settings of both stacks. Copy this file to `.env`, and remove the # of what you change. docs/settings.md explains all.
# Written by `make docs`.
"""


class Setting(NamedTuple):
    """A row of the tables."""

    variable: str
    default: str
    values: str
    text: str


def files() -> dict[str, str]:
    """Both files, by their paths."""
    return {"docs/settings.md": _tables(), ".env.example": _example()}


def of(settings: Source) -> list[Setting]:
    """The settings of a class: of pydantic's, or of the embedded stack's own, which needs no package."""
    if not issubclass(settings, BaseModel):
        texts = _docstrings(settings)
        return [
            Setting(one.name.upper(), str(one.default or ""), _wanted(one), texts[one.name]) for one in fields(settings)
        ]
    prefix = dict(settings.model_config).get("env_prefix", "")
    return [
        Setting(f"{prefix}{name}".upper(), _default(field), _values(field), _text(settings, name))
        for name, field in settings.model_json_schema()["properties"].items()
    ]


def _docstrings(settings: type) -> dict[str, str]:
    """The docstrings of the fields of a dataclass."""
    [found] = ast.parse(inspect.getsource(settings)).body
    assert isinstance(found, ast.ClassDef)  # noqa: S101 - it is the source of a class
    return {
        one.target.id: " ".join(str(after.value.value).split())
        for one, after in pairwise(found.body)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }


def _wanted(one: Field[Any]) -> str:
    """What a field accepts: the text of its complaint about an empty value."""
    try:
        one.metadata["read"]("")
    except ValueError as error:
        return str(error)
    return ""


def _tables() -> str:
    readers: dict[Setting, list[str]] = {}
    for classes in PARTS.values():
        for reader, settings in classes:
            for one in of(settings):
                readers.setdefault(one, []).append(reader)
    return HEAD + "".join(f"\n## {part}\n\n{''.join(_table(part, readers))}" for part in PARTS)


def _table(part: str, readers: Mapping[Setting, list[str]]) -> Iterator[str]:
    """A setting that several parts read is in the first of them."""
    yield "| variable | default | values | read by | what it is |\n|---|---|---|---|---|\n"
    for one, names in readers.items():
        if names[0] in dict(PARTS[part]):
            default = f"`{one.default}`" if one.default else ""
            yield f"| `{one.variable}` | {default} | {one.values} | {_names(names)} | {one.text} |\n"


def _names(names: list[str]) -> str:
    if set(SERVICES) <= set(names):
        names = ["all services", *(name for name in names if name not in SERVICES)]
    return ", ".join(names)


def _example() -> str:
    found: dict[str, Setting] = {}
    for classes in PARTS.values():
        for reader, settings in classes:
            for one in of(settings):
                if one.variable in _taken(reader):
                    same = found.get(one.variable, one).default == one.default
                    found[one.variable] = one if same else one._replace(default="")
    return EXAMPLE + "".join(f"\n# {one.text}\n#{one.variable}={one.default}\n" for one in found.values())


@cache
def _taken(reader: str) -> set[str]:
    """The variables that the stacks take from the environment."""
    match reader:
        case "`make`":
            return {one.variable for one in of(local.config.Settings)}
        case "console":
            places = local.console.places(dict.fromkeys(SERVICES, 1), Path(), Path(), Path())
            return set(local.console.Console(Path(), 1, places).program().settings)
        case "storefront":
            return set(services.storefront(1, dict.fromkeys(SERVICES, 1), 2, Path(), Path()).program().settings)
        case name if name in SERVICES:
            (one,) = services.services({name: 1}, postgres=2, kafka=3, auth=4, secrets=Path("secrets"), console=5)
            return set(one.program().settings)
        case _:
            return set()


def _text(settings: type[BaseModel], name: str) -> str:
    """The docstring of a field. A class that only changes the default has none, and inherits it."""
    owners = (one for one in settings.__mro__ if issubclass(one, BaseModel) and name in one.model_fields)
    found = (owner.model_fields[name].description for owner in owners)
    return " ".join(next(filter(None, found), "").split())


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if isinstance(default, str) or default is None:
        return default or ""
    return orjson.dumps(default).decode()


def _values(field: dict[str, Any]) -> str:
    kind = next(one for one in field.get("anyOf", [field]) if one.get("type") != "null")
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"] if value)
    match kind["type"]:
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number":
            whole = "whole number" if kind["type"] == "integer" else "number"
            return " ".join([whole, *_bounds(kind)])
        case "array":
            return "JSON list"
        case _:
            return f"text of at least {kind['minLength']} characters" if "minLength" in kind else "text"


def _bounds(kind: dict[str, Any]) -> Iterator[str]:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    return (f"{word} {kind[name]:.10g}" for name, word in words.items() if name in kind)
