"""What is published about the HTTP API is what the code does: documents, problem types, the page that shows them."""

import hashlib
import json
import re

import pytest
from openapi_spec_validator import validate

from documents import folder
from local import nginx
from shared.web import openapi, problems

GATEWAY = nginx.TEMPLATE.read_text()
DOCUMENTS = {name: json.loads((folder.DOCS / "openapi" / f"{name}.json").read_text()) for name in nginx.UPSTREAMS}


def test_the_committed_documents_say_what_the_code_says() -> None:
    assert folder.drift(folder.DOCS) == []


@pytest.mark.parametrize("name", nginx.UPSTREAMS)
def test_a_document_is_openapi_3_1(name: str) -> None:
    assert DOCUMENTS[name]["openapi"].startswith("3.1.")
    validate(DOCUMENTS[name])


@pytest.mark.parametrize("name", nginx.UPSTREAMS)
def test_every_operation_says_who_may_call_it_and_what_goes_wrong(name: str) -> None:
    for path, methods in DOCUMENTS[name]["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            wants_token = operation["security"] == [{"accessToken": []}]
            assert wants_token == ("401" in operation["responses"]) or path.startswith("/auth/"), (path, method)
            assert "400" in operation["responses"], (path, method)


def test_names_of_operations_are_unique_in_the_shop() -> None:
    names = [
        operation["operationId"]
        for document in DOCUMENTS.values()
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert len(names) == len(set(names)) > 20


def test_what_is_vendored_is_what_its_hashes_say() -> None:
    lines = (openapi.SWAGGER / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    own = {"index.html", "start.js", "SHA256SUMS"}
    assert sums.keys() | own == {file.name for file in openapi.SWAGGER.iterdir()}
    for name, digest in sums.items():
        assert hashlib.sha256((openapi.SWAGGER / name).read_bytes()).hexdigest() == digest, name


def test_the_page_has_the_same_strict_policy_at_both_doors() -> None:
    assert f'"~^/docs" "{openapi.CONTENT_POLICY}";' in GATEWAY
    assert "unsafe-inline" not in openapi.CONTENT_POLICY


def test_the_gateway_tells_problems_in_the_words_of_the_table() -> None:
    told = [json.loads(text) for text in re.findall(r"'(\{\"type\":\"/problems/.*\})';", GATEWAY)]
    assert len(told) > 10
    for problem in told:
        known = problems.BY_NAME[problem["type"].removeprefix(problems.PATH)]
        assert problem["status"] == known.status
        assert ("advice" in problem) == (known.name == "outcome-unknown")


def test_every_problem_that_may_be_repeated_says_when_at_the_gateway_too() -> None:
    statuses = {problem.status for problem in problems.ALL if problem.retry}
    assert f"/_problem:({'|'.join(map(str, sorted(statuses)))})$" in GATEWAY


def test_the_page_at_the_gateway_lists_all_services() -> None:
    (listed,) = re.findall(r"return 200 '(\[\{\"name\".*\])';", GATEWAY)
    assert {one["name"]: one["url"] for one in json.loads(listed)} == {
        name: f"/openapi/{name}.json" for name in nginx.UPSTREAMS
    }
