"""Schemathesis, through the gateway: every service does what its OpenAPI document describes and refuses the rest.

`SCHEMATHESIS_EXAMPLES=2000 make test ARGS=tests/acceptance/test_openapi.py` sends more requests: at most this number
of each kind to each operation. `SCHEMATHESIS_SEED` chooses other requests.
"""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import Failure, ResponseTimeExceeded
from schemathesis.engine import Status, events, from_schema
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER

from auth.blocklist import is_common
from local.nginx import SERVICES
from migrations.seed import CATALOGUE
from tests.acceptance.client import ANSWER_SECONDS
from tests.acceptance.conftest import System
from tests.lag import Lag

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "25"))
SEED = int(os.environ.get("SCHEMATHESIS_SEED", "1"))
LAG: list[Lag] = []
SUCCESSES: Counter[str] = Counter()
"""How many requests of each operation, such as `POST /orders/`, were answered with 2xx, by all callers together."""
RESTOCK = "/inventory/{sku}/restock"
PASSWORDS = {"password", "new_password"}


@pytest.fixture(autouse=True)
def _without_false_alarms(fuzzed_system: System) -> Iterator[None]:
    LAG.append(fuzzed_system.lag)
    schemathesis.hook("before_call")(adjusted)
    schemathesis.hook("filter_failure")(is_serious)
    yield
    for hook in (adjusted, is_serious):
        GLOBAL_HOOK_DISPATCHER.unregister(hook)


def adjusted(_: Any, case: Any, kwargs: Any) -> None:
    """Change a request that would fail without a defect, or that the checker could not verify."""
    if case.meta and case.meta.generation.mode.is_positive:
        case.body = with_rare_passwords(with_integers(case.body))
    if case.path == RESTOCK and "Idempotency-Key" not in (case.headers or {}):
        case.headers["Idempotency-Key"] = uuid4().hex  # without a key, the checker cannot compute the stock


def with_integers(value: Any) -> Any:
    """Write 1.0 as 1.

    In JSON Schema they are equal, so no document can describe that this API accepts only 1.
    """
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: with_integers(item) for key, item in value.items()}
        case list():
            return [with_integers(item) for item in value]
    return value


def with_rare_passwords(body: Any) -> Any:
    """Replace the commonest passwords, which are refused: no document can list them."""
    if not isinstance(body, dict):
        return body
    return {name: uuid4().hex if name in PASSWORDS and is_common(str(value)) else value for name, value in body.items()}


def is_serious(_: Any, failure: Failure, case: Any, __: Any) -> bool:
    """False if a request was only slow because it asked to wait for an order, or because this machine was late."""
    if not isinstance(failure, ResponseTimeExceeded):
        return True
    ended, wait = time.monotonic(), float((case.query or {}).get("wait", "0"))
    late = LAG[-1].seconds(ended - failure.elapsed - 1, ended)
    return failure.elapsed - late > wait + ANSWER_SECONDS


def settings(who: dict[str, Any], refresh_tokens: list[str], cancelled_order: int) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "continue-on-failure": True,
            "request-timeout": 10,
            "generation": {"max-examples": EXAMPLES, "database": "none"},
            # Without these values, hardly any request would find an existing object.
            "dictionaries": {
                "skus": {"values": [row[1] for row in CATALOGUE]},
                "ids": {"values": [1, 2, 3, 4, 5, cancelled_order]},
                "refresh_tokens": {"values": refresh_tokens},
            },
            "parameters": {
                "path.sku": {"dictionary": "skus", "probability": 0.5},
                "body.sku": {"dictionary": "skus", "probability": 0.3},
                "path.id": {"dictionary": "ids", "probability": 0.3},
                "path.order_id": {"dictionary": "ids", "probability": 0.3},
                "body.product_id": {"dictionary": "ids", "probability": 0.5},
                "body.refresh_token": {"dictionary": "refresh_tokens", "probability": 0.5},
            },
            "phases": {"coverage": {"generate-duplicate-query-parameters": True}},
            "checks": {
                "max_response_time": ANSWER_SECONDS,
                # An idempotency key that was used before with another body is refused, even if this body is valid.
                "positive_data_acceptance": {
                    "expected-statuses": ["2xx", "401", "403", "404", "409", "422", "429"],
                },
            },
            "output": {"sanitization": {"enabled": False}, "truncation": {"enabled": False}},
            **who,
        }
    )


def administrator(system: System, _: Path) -> dict[str, Any]:
    assert system.mint
    return {"headers": system.mint.admin}


def two_users(system: System, folder: Path) -> dict[str, Any]:
    """A user, and another user who must not see the objects of the first."""
    assert system.mint
    people = []
    for name in ("one", "another"):
        registration = {"username": f"{name}-{uuid4().hex[:8]}", "password": uuid4().hex}
        answer = requests.post(f"{system.gateway_url}/auth/register", json=registration, timeout=10)
        assert answer.status_code == 201, answer.text
        bearer = system.mint.header(str(answer.json()["id"]))["Authorization"]
        people.append({"name": name, "fixedHeaders": [{"name": "Authorization", "value": bearer}]})
    people_file = folder / "people.json"
    people_file.write_text(json.dumps({"auth": people}))
    return {"auth": {"wfc": {"path": str(people_file), "user": "one", "peers": ["one", "another"]}}}


def cancelled_order(system: System) -> int:
    """The id of an order that a customer cancelled: to cancel it again succeeds, too."""
    for _ in range(50):
        body = {"userId": "u1", "sku": "burger", "quantity": 1}
        placed = requests.post(f"{system.orders_url}/v1/orders", json=body, timeout=10).json()["id"]
        if requests.post(f"{system.orders_url}/v1/orders/{placed}/cancel", timeout=10).ok:
            return int(placed)
    raise AssertionError("every order was final before it could be cancelled")


def refresh_tokens(system: System) -> list[str]:
    """Tokens of sessions of their own: each is valid once."""
    person = {"username": f"many-{uuid4().hex[:8]}", "password": uuid4().hex}
    requests.post(f"{system.gateway_url}/auth/register", json=person, timeout=10).raise_for_status()
    logins = [requests.post(f"{system.gateway_url}/auth/login", json=person, timeout=10) for _ in range(40)]
    return [login.json()["refresh_token"] for login in logins]


def call_as_a_person(system: System, schema: Any) -> None:
    """Call the operations that need a real login, which the users of made-up tokens do not have."""
    assert system.mint
    auth = f"{system.gateway_url}/auth"
    person = {"username": f"real-{uuid4().hex[:8]}", "password": uuid4().hex}
    registered = requests.post(f"{auth}/register", json=person, timeout=10).json()
    first, second = [requests.post(f"{auth}/login", json=person, timeout=10).json() for _ in range(2)]
    own, admin = {"Authorization": f"Bearer {first['token']}"}, system.mint.admin
    ended, user = {"session": second["refresh_token"].partition(".")[0]}, {"user_id": registered["id"]}
    change = {"old_password": person["password"], "new_password": uuid4().hex}
    for verb, path, headers, parameters, body in (
        ("DELETE", "/auth/sessions/{session}", own, ended, None),
        ("POST", "/auth/password", own, {}, change),
        ("PUT", "/auth/admins/{user_id}", admin, user, None),
        ("DELETE", "/auth/admins/{user_id}", admin, user, None),
    ):
        operation = schema[path][verb]
        sent = {"body": body, "media_type": "application/json"} if body else {}
        answer = operation.Case(path_parameters=parameters, **sent).call_and_validate(headers=headers)
        assert answer.status_code == 204
        SUCCESSES[operation.label] += 1


@pytest.mark.parametrize("who", [administrator, two_users])
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_answers_as_its_document_describes(
    name: str, who: Any, fuzzed_system: System, tmp_path: Path
) -> None:
    url = f"{fuzzed_system.gateway_url}/openapi/{name}.json"
    fresh, *tokens = refresh_tokens(fuzzed_system) if name == "auth" else ["unused", "unused"]
    cancelled = cancelled_order(fuzzed_system) if name == "orders" else 1
    schema = schemathesis.openapi.from_url(url, config=settings(who(fuzzed_system, tmp_path), tokens, cancelled))
    found, answers, phases = [], Counter[int](), Counter[str]()
    SUCCESSES.update(dict.fromkeys((operation.ok().label for operation in schema.get_all_operations()), 0))
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished():
                found += complaints(event)
                phases[event.phase.value] += len(event.recorder.interactions)
                answers.update(i.response.status_code for i in event.recorder.interactions.values() if i.response)
                SUCCESSES.update(successes(event))
            case events.NonFatalError():
                found.append(f"{event.label}: {event.info.message}")
            case events.FatalError():
                raise event.exception
    if name == "auth":  # in the generated requests, each token may have been used up by one that was refused
        operation = schema["/auth/refresh"]["POST"]
        operation.Case(body={"refresh_token": fresh}, media_type="application/json").call_and_validate()
        SUCCESSES[operation.label] += 1
        call_as_a_person(fuzzed_system, schema)
    print(f"{name}: {dict(phases)} {dict(sorted(answers.items()))}")  # noqa: T201
    assert not found, f"{len(found)} complaints:\n" + "\n\n".join(found[:20])
    assert phases["coverage"] > 0
    assert phases["fuzzing"] > 0


def test_every_operation_succeeded_at_least_once() -> None:
    """Otherwise the checks of its successful answers checked nothing."""
    if len(SUCCESSES) < 20:
        pytest.skip("only some services were tested in this run")
    assert [label for label, count in SUCCESSES.items() if not count] == []


def test_system_is_consistent_after_the_generated_requests(fuzzed_system: System) -> None:
    asyncio.run(fuzzed_system.settled())


def successes(event: events.ScenarioFinished) -> Iterator[str]:
    """The label of the operation, once for each successful answer."""
    for case_id, interaction in event.recorder.interactions.items():
        if interaction.response and interaction.response.status_code < 300:
            yield event.recorder.cases[case_id].value.operation.label


def complaints(event: events.ScenarioFinished) -> list[str]:
    found = []
    for case_id, checks in event.recorder.checks.items():
        interaction = event.recorder.interactions.get(case_id)
        answer = interaction.response if interaction else None
        for check in checks:
            if check.status is Status.FAILURE and (info := check.failure_info):
                shown = f"{answer.status_code} {answer.text[:500]}" if answer else "no answer"
                found.append(f"{check.name}: {info.failure}\n{shown}\n{info.code_sample}")
    return found
