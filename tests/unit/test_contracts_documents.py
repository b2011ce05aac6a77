import json
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner

from contracts import topics
from contracts.catalogue import EVENTS, TOPICS
from contracts.orders import OrderConfirmed
from documents import folder, page
from documents.__main__ import app
from documents.events import schema
from shared.delivery import events
from tests.builders import order_confirmed

ASYNCAPI = json.loads((folder.DOCS / "asyncapi.json").read_text())

# The values that the models accept, by field name: a name means the same in all events. Other fields are text.
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=50)
ID, AMOUNT, COUNT = st.integers(1, 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(1, 2**31 - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["order_id", "product_id"], ID),
    **dict.fromkeys(["version", "quantity"], COUNT),
    "amount_cents": AMOUNT,
    "price_cents": st.integers(0, 10**12),
    "active": st.booleans(),
    "expires_at": st.datetimes(timezones=st.just(UTC)),
    "product": st.dictionaries(
        TEXT, st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    ),
}


def value_of(event: type[BaseModel], field: str) -> st.SearchStrategy[Any]:
    options = get_args(event.model_fields[field].annotation)
    if field == "reason":
        return st.sampled_from(options)
    return VALUES.get(field, TEXT) | (st.none() if type(None) in options else st.nothing())


def any_of(event: type[BaseModel]) -> st.SearchStrategy[BaseModel]:
    return st.builds(event, **{field: value_of(event, field) for field in event.model_fields})


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


def message(event: type[BaseModel]) -> dict[str, Any]:
    return ASYNCAPI["components"]["messages"][event.__name__]


def inside(part: dict[str, Any]) -> dict[str, Any]:
    """A schema of the AsyncAPI document, with the components that it refers to."""
    return {**part, "components": ASYNCAPI["components"]}


BY_NAME = pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.__name__)


def test_the_documents_match_the_contracts() -> None:
    assert folder.drift(folder.PROJECT) == [], "run `make docs`"


def test_writing_the_documents_again_changes_nothing(tmp_path: Path) -> None:
    folder.write(tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    folder.write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == first
    assert all(content.endswith(b"}\n") for content in first.values())


def test_check_reports_differences_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "PROJECT", tmp_path)
    folder.write(tmp_path)
    (tmp_path / "docs" / "events" / "OrderCreated.schema.json").write_text("{}")
    (tmp_path / "docs" / "events" / "OrderForgotten.schema.json").write_text("{}")
    (tmp_path / "docs" / "events" / "README.md").write_text("not ours")
    (tmp_path / "docs" / "asyncapi.json").unlink()
    (tmp_path / "deploy" / "dashboards" / "shop.json").write_text("{}")
    (tmp_path / "deploy" / "dashboards" / "forgotten.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))

    result = check()

    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "docs/asyncapi.json is missing",
        "docs/events/OrderCreated.schema.json differs from the code",
        "deploy/dashboards/shop.json differs from the code",
        "docs/events/OrderForgotten.schema.json belongs to nothing in the code",
        "deploy/dashboards/forgotten.json belongs to nothing in the code",
        "Run `make docs`.",
    ]
    assert sorted(tmp_path.rglob("*")) == before
    folder.write(tmp_path)
    assert check().exit_code == 0
    assert (tmp_path / "docs" / "events" / "README.md").exists()


def check() -> Any:
    return CliRunner().invoke(app, ["--check"])


@BY_NAME
def test_a_schema_has_its_metadata_and_no_host_name(event: type[BaseModel]) -> None:
    described = schema(event)
    jsonschema_rs.meta.validate(described)
    assert described["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert described["$id"] == f"urn:quickbite:event:{event.__name__}"
    assert described["title"] == event.__name__
    assert described["description"]
    assert set(described["required"]) == {name for name, field in event.model_fields.items() if field.is_required()}


@BY_NAME
@given(data=st.data())
def test_every_encoded_event_is_valid(event: type[BaseModel], data: st.DataObject) -> None:
    encoded = events.encode(data.draw(any_of(event)))
    validator(schema(event)).validate(json.loads(encoded.value))
    validator(inside(message(event)["headers"])).validate(headers_of(encoded))
    validator(message(event)["bindings"]["kafka"]["key"]).validate(encoded.key)


def headers_of(encoded: events.Encoded) -> dict[str, str]:
    static = events.static_headers(encoded.type, f"/quickbite/{encoded.topic.removesuffix('.events')}")
    return {name: value.decode() for name, value in events.headers(static, encoded.key.encode(), encoded.head)}


@BY_NAME
@given(data=st.data())
def test_schema_and_model_refuse_the_same_values(event: type[BaseModel], data: st.DataObject) -> None:
    value = data.draw(any_of(event)).model_dump(mode="json")
    field = data.draw(st.sampled_from(sorted(value)))
    value[field] = data.draw(st.sampled_from([None, True, -1, 0, 1, 2**31, 2**63, 10**13, 1.5, "", "x", [], {}]))
    try:
        event.model_validate_json(json.dumps(value))
        taken = True
    except ValidationError:
        taken = False
    assert validator(schema(event)).is_valid(value) is taken


def test_headers_of_another_type_from_another_service_or_without_an_id_are_refused() -> None:
    headers = headers_of(events.encode(order_confirmed(17)))
    schema = validator(inside(message(OrderConfirmed)["headers"]))
    assert schema.is_valid(headers)
    for wrong in (
        {"ce_type": "OrderCreated"},
        {"ce_source": "/quickbite/payments"},
        {"ce_id": "17"},
        {"ce_time": "17"},
    ):
        assert not schema.is_valid(headers | wrong)
    for name in headers:
        assert not schema.is_valid({other: headers[other] for other in headers if other != name})


def references(node: Any) -> Iterator[str]:
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if name == "$ref":
            yield value
        yield from references(value)


def resolved(reference: str) -> Any:
    file, _, path = reference.partition("#/")
    found = json.loads((folder.DOCS / file).read_text()) if file else ASYNCAPI
    for name in filter(None, path.split("/")):
        found = found[name]
    return found


def test_every_reference_can_be_resolved() -> None:
    found = list(references(ASYNCAPI))
    assert all(resolved(reference) for reference in found)
    assert {f"events/{event.__name__}.schema.json" for event in EVENTS} <= set(found)


def test_every_topic_is_a_channel_and_every_event_is_sent_on_its_topic() -> None:
    assert {channel["address"] for channel in ASYNCAPI["channels"].values()} == set(topics.configurations())
    sent = {
        (message_["name"], resolved(operation["channel"]["$ref"])["address"])
        for operation in ASYNCAPI["operations"].values()
        for message_ in (resolved(resolved(reference["$ref"])["$ref"]) for reference in operation["messages"])
    }
    assert sent == {(event.__name__, event.topic) for event in EVENTS}
    assert len(ASYNCAPI["operations"]) == len(TOPICS)


def test_an_operation_sends_only_messages_of_its_own_channel() -> None:
    for operation in ASYNCAPI["operations"].values():
        own = f"{operation['channel']['$ref']}/messages/"
        assert operation["action"] == "send"
        assert all(reference["$ref"].startswith(own) for reference in operation["messages"])


def test_every_message_is_on_a_channel() -> None:
    on_channels = {name for channel in ASYNCAPI["channels"].values() for name in channel["messages"]}
    assert on_channels == set(ASYNCAPI["components"]["messages"])
    assert all(
        message_["contentType"] == "application/json" for message_ in ASYNCAPI["components"]["messages"].values()
    )


def test_code_in_a_description_is_code_on_the_page_and_all_else_is_escaped() -> None:
    assert page.text("`a` < b") == "<code>a</code> &lt; b"
