"""Schemathesis: every service does what its OpenAPI document says and refuses the rest, asked through the gateway.

`SCHEMATHESIS_EXAMPLES=2000 make test ARGS=tests/acceptance/test_openapi.py` runs it for longer: so many requests, at
most, of each kind to each operation. `SCHEMATHESIS_SEED` chooses other ones.
"""

import asyncio
import json
import os
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

from local.nginx import UPSTREAMS
from migrations.seed import CATALOGUE
from tests.acceptance.client import ANSWER_SECONDS
from tests.acceptance.conftest import System

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "60"))
SEED = int(os.environ.get("SCHEMATHESIS_SEED", "1"))
RESTOCK = "/inventory/{sku}/restock"


@pytest.fixture(autouse=True)
def _kept_from_false_alarms() -> Iterator[None]:
    schemathesis.hook("before_call")(mended)
    schemathesis.hook("filter_failure")(is_serious)
    yield
    for hook in (mended, is_serious):
        GLOBAL_HOOK_DISPATCHER.unregister(hook)


def mended(_: Any, case: Any, kwargs: Any) -> None:
    """Change what would be no defect, or could not be checked afterwards."""
    if case.meta and case.meta.generation.mode.is_positive:
        case.body = whole(case.body)
    if case.path == RESTOCK and "Idempotency-Key" not in (case.headers or {}):
        case.headers["Idempotency-Key"] = uuid4().hex  # or the checker could not know how much stock there must be


def whole(value: Any) -> Any:
    """Write 1.0 as 1: to JSON Schema they are the same, and no document could say that this API takes only one."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: whole(item) for key, item in value.items()}
        case list():
            return [whole(item) for item in value]
    return value


def is_serious(_: Any, failure: Failure, case: Any, __: Any) -> bool:
    """Give those who asked to wait for an order the time they asked for."""
    if not isinstance(failure, ResponseTimeExceeded):
        return True
    wait = (case.query or {}).get("wait", "0")
    return failure.elapsed > float(wait) + ANSWER_SECONDS


def settings(who: dict[str, Any]) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "continue-on-failure": True,
            "request-timeout": 10,
            "generation": {"max-examples": EXAMPLES, "database": "none"},
            # Else hardly anything would be asked of what there is.
            "dictionaries": {"skus": {"values": [row[1] for row in CATALOGUE]}, "ids": {"values": [1, 2, 3, 4, 5]}},
            "parameters": {
                "path.sku": {"dictionary": "skus", "probability": 0.5},
                "body.sku": {"dictionary": "skus", "probability": 0.3},
                "path.id": {"dictionary": "ids", "probability": 0.3},
                "path.order_id": {"dictionary": "ids", "probability": 0.3},
                "body.product_id": {"dictionary": "ids", "probability": 0.5},
            },
            "phases": {"coverage": {"generate-duplicate-query-parameters": True}},
            "checks": {
                "max_response_time": ANSWER_SECONDS,
                # A key that came before with another body says nothing about the body.
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
    """A user, and another who must not see what is theirs."""
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


@pytest.mark.parametrize("who", [administrator, two_users])
@pytest.mark.parametrize("name", UPSTREAMS)
def test_a_service_does_what_its_document_says(name: str, who: Any, open_house: System, tmp_path: Path) -> None:
    url = f"{open_house.gateway_url}/openapi/{name}.json"
    schema = schemathesis.openapi.from_url(url, config=settings(who(open_house, tmp_path)))
    found, answers, phases = [], Counter[int](), Counter[str]()
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished():
                found += complaints(event)
                phases[event.phase.value] += len(event.recorder.interactions)
                answers.update(i.response.status_code for i in event.recorder.interactions.values() if i.response)
            case events.NonFatalError():
                found.append(f"{event.label}: {event.info.message}")
            case events.FatalError():
                raise event.exception
    print(f"{name}: {dict(phases)} {dict(sorted(answers.items()))}")  # noqa: T201
    assert not found, f"{len(found)} complaints:\n" + "\n\n".join(found[:20])
    assert phases["coverage"] > 0
    assert phases["fuzzing"] > 0


def test_all_is_well_after_that(open_house: System) -> None:
    asyncio.run(open_house.settled())


def complaints(event: events.ScenarioFinished) -> list[str]:
    found = []
    for case_id, checks in event.recorder.checks.items():
        interaction = event.recorder.interactions.get(case_id)
        answer = interaction.response if interaction else None
        for check in checks:
            if check.status is Status.FAILURE and (info := check.failure_info):
                told = f"{answer.status_code} {answer.text[:500]}" if answer else "no answer"
                found.append(f"{check.name}: {info.failure}\n{told}\n{info.code_sample}")
    return found
