"""The published API description matches the code: documents, problem types, and the page that shows them."""

import hashlib
import json
import re

import pytest
from openapi_spec_validator import validate

from documents import folder
from local import nginx
from shared.web import openapi, problems

GATEWAY = nginx.TEMPLATE.read_text()
DOCUMENTS = {name: json.loads((folder.DOCS / "openapi" / f"{name}.json").read_text()) for name in nginx.SERVICES}


def test_the_committed_documents_match_the_code() -> None:
    assert folder.drift(folder.PROJECT) == []


@pytest.mark.parametrize("name", nginx.SERVICES)
def test_a_document_is_openapi_3_1(name: str) -> None:
    assert DOCUMENTS[name]["openapi"].startswith("3.1.")
    validate(DOCUMENTS[name])


@pytest.mark.parametrize("name", nginx.SERVICES)
def test_every_operation_documents_its_security_and_its_errors(name: str) -> None:
    for path, methods in DOCUMENTS[name]["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            wants_token = operation["security"] == [{"accessToken": []}]
            assert wants_token == ("401" in operation["responses"]) or path.startswith("/auth/"), (path, method)
            assert "400" in operation["responses"], (path, method)


def test_operation_ids_are_unique_across_all_services() -> None:
    names = [
        operation["operationId"]
        for document in DOCUMENTS.values()
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert len(names) == len(set(names)) > 20


def test_vendored_files_match_their_hashes() -> None:
    lines = (openapi.SWAGGER / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    own = {"index.html", "start.js", "SHA256SUMS"}
    assert sums.keys() | own == {file.name for file in openapi.SWAGGER.iterdir()}
    for name, digest in sums.items():
        assert hashlib.sha256((openapi.SWAGGER / name).read_bytes()).hexdigest() == digest, name


def test_the_page_has_the_same_strict_policy_at_the_service_and_at_the_gateway() -> None:
    assert f'"~^/docs" "{openapi.CONTENT_POLICY}";' in GATEWAY
    assert "unsafe-inline" not in openapi.CONTENT_POLICY


def test_the_problems_of_the_gateway_match_the_table() -> None:
    found = [json.loads(text) for text in re.findall(r"'(\{\"type\":\"/problems/.*\})';", GATEWAY)]
    assert len(found) > 10
    for problem in found:
        known = problems.BY_NAME[problem["type"].removeprefix(problems.PATH)]
        assert (problem["status"], problem["title"]) == (known.status, known.title)
        assert ("advice" in problem) == (known.name == "outcome-unknown")


def test_every_retriable_problem_has_retry_after_at_the_gateway_too() -> None:
    statuses = {problem.status for problem in problems.ALL if problem.retry}
    assert f"/_problem:({'|'.join(map(str, sorted(statuses)))})$" in GATEWAY


def test_the_page_at_the_gateway_lists_all_services() -> None:
    (listed,) = re.findall(r"return 200 '(\[\{\"name\".*\])';", GATEWAY)
    assert {one["name"]: one["url"] for one in json.loads(listed)} == {
        name: f"/openapi/{name}.json" for name in nginx.SERVICES
    }
