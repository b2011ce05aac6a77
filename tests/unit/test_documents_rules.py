"""The linter of the published documents: each part is described in sentences, and each example is valid.

The linters that have such rules need Node or Go. These rules need what is installed anyway.
"""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from documents import folder
from documents.openapi import SERVICES
from shared.web import problems

DOCUMENTS = {name: json.loads((folder.DOCS / "openapi" / f"{name}.json").read_text()) for name in SERVICES}
EVENTS = {path.name: json.loads(path.read_text()) for path in sorted((folder.DOCS / "events").glob("*.json"))}
ASYNCAPI = json.loads((folder.DOCS / "asyncapi.json").read_text())
RETRIED = {problem.name for problem in problems.ALL if problem.retry}

Json = dict[str, Any]


@pytest.mark.parametrize("name", SERVICES)
def test_every_part_is_described_in_sentences(name: str) -> None:
    assert undescribed(openapi_parts(DOCUMENTS[name])) == []


@pytest.mark.parametrize("name", EVENTS)
def test_every_field_of_an_event_is_described_in_sentences(name: str) -> None:
    assert undescribed([("the event", EVENTS[name]), *fields(name, EVENTS[name])]) == []


def test_every_channel_and_every_header_of_an_event_is_described_in_sentences() -> None:
    headers = ASYNCAPI["components"]["schemas"]["CloudEvent"]
    assert undescribed([*ASYNCAPI["channels"].items(), ("headers", headers), *fields("headers", headers)]) == []


@pytest.mark.parametrize("name", SERVICES)
def test_every_body_every_answer_and_every_path_has_an_example(name: str) -> None:
    assert [where for where, _, found in examples(DOCUMENTS[name]) if not found] == []


@pytest.mark.parametrize("name", SERVICES)
def test_every_example_is_valid(name: str) -> None:
    document = DOCUMENTS[name]
    wrong = [
        (where, value)
        for where, schema, found in examples(document)
        for value in found
        if not jsonschema_rs.is_valid({**schema, "components": document["components"]}, value, validate_formats=True)
    ]
    assert wrong == []


@pytest.mark.parametrize("name", SERVICES)
def test_an_answer_that_asks_for_a_repetition_has_retry_after(name: str) -> None:
    answers = DOCUMENTS[name]["components"]["responses"]
    assert RETRIED & answers.keys()
    for problem, answer in answers.items():
        assert ("Retry-After" in answer.get("headers", {})) == (problem in RETRIED), problem


def test_an_undescribed_part_is_found() -> None:
    parts = [("a", {}), ("b", {"description": "OK"}), ("c", {"description": "Done."}), ("d", {"summary": "the stock."})]
    assert undescribed(parts) == ["a", "b", "d"]


def undescribed(parts: Any) -> list[str]:
    """The names of the parts without a sentence about them."""
    return [where for where, part in parts if not is_sentence(part.get("summary", part.get("description", "")))]


def is_sentence(text: str) -> bool:
    return text.endswith(".") and (text[0].isupper() or text[0] == "`") and "\n" not in text


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def openapi_parts(document: Json) -> Iterator[tuple[str, Json]]:
    yield "info", document["info"]
    for where, operation in operations(document):
        yield where, operation
        yield from ((f"{where}: {one['name']}", one) for one in operation["parameters"])
        yield from ((f"{where}: body", body) for body in [operation.get("requestBody")] if body)
        yield from answers(where, operation["responses"])
    yield from answers("components", document["components"]["responses"])
    for name, schema in document["components"]["schemas"].items():
        yield name, schema
        yield from fields(name, schema)


def answers(where: str, found: Json) -> Iterator[tuple[str, Json]]:
    """The answers and their headers, without those that are described in `components`."""
    for status, answer in found.items():
        if "$ref" not in answer:
            yield f"{where}: {status}", answer
            yield from ((f"{where}: {status} {name}", header) for name, header in answer.get("headers", {}).items())


def fields(where: str, schema: Json) -> Iterator[tuple[str, Json]]:
    return ((f"{where}.{name}", field) for name, field in schema.get("properties", {}).items())


def examples(document: Json) -> Iterator[tuple[str, Json, list[Any]]]:
    """Every place that needs an example: its name, its schema, and its examples."""
    for where, operation in operations(document):
        for one in operation["parameters"]:
            if one["in"] == "path":
                yield f"{where}: {one['name']}", one["schema"], [one["example"]] if "example" in one else []
        bodies = {"body": operation.get("requestBody", {}), **operation["responses"]}
        for name, body in bodies.items():
            yield from contents(f"{where}: {name}", body, document)
    for name, answer in document["components"]["responses"].items():
        yield from contents(name, answer, document)


def contents(where: str, part: Json, document: Json) -> Iterator[tuple[str, Json, list[Any]]]:
    for content in part.get("content", {}).values():
        named = [one["value"] for one in content.get("examples", {}).values()]
        model = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        yield where, content["schema"], named or model.get("examples", [])
