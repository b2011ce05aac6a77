"""`python -m contracts.documents` writes what foreign readers need: a JSON Schema per event, and AsyncAPI over all.

What must stay true: the documents say nothing that the models, the topics and the envelope do not say, so that they
can be written anew at any time. The same contracts give the same bytes, which is how drift is found (`--check`).
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from contracts import topics
from contracts.catalogue import EVENTS, TOPICS
from shared.delivery import events, outbox

app = typer.Typer(add_completion=False)

DOCS = Path(__file__).resolve().parent.parent / "docs"
SCHEMAS = "events"
SUFFIX = ".schema.json"

Json = dict[str, Any]
_LETTER = "DeadLetter"
_BINDING = "0.5.0"  # of AsyncAPI's Kafka bindings; https://www.asyncapi.com/docs/reference/bindings/kafka

_INFO = {
    "title": "QuickBite events",
    "version": "1.0.0",
    "description": (
        "CloudEvents 1.0 in Kafka's binary mode: the envelope is in the headers, the value is JSON. Events of one key "
        "come in order, each at least once, with `ce_id` the same each time. Fields are only ever added: ignore what "
        "you do not know. Another meaning is another type: skip types that you do not know. So this version stays."
    ),
}

_HEADERS: Json = {
    "type": "object",
    "description": "What CloudEvents asks of every record.",
    "required": ["ce_id", "ce_type", "ce_source", "ce_specversion", "ce_time", "ce_subject", "content-type"],
    "properties": {
        "ce_id": {"type": "string", "format": "uuid", "description": "UUIDv7; the same when a record is repeated"},
        "ce_type": {"type": "string", "description": "The event's name"},
        "ce_source": {"type": "string", "format": "uri-reference", "description": "The service that says so"},
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_time": {"type": "string", "format": "date-time", "description": "When it was written, UTC"},
        "ce_subject": {"type": "string", "maxLength": events.MAX_KEY, "description": "The record's key"},
        "content-type": {"type": "string", "const": "application/json"},
        "traceparent": {"type": "string", "description": "W3C Trace Context of the request that led to it, if any"},
    },
}


class _Untitled(GenerateJsonSchema):
    """JSON Schema without a title per field, which would repeat the field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def files() -> dict[str, str]:
    """Give every document by its path under `docs/`."""
    found = {_path(event): schema(event) for event in EVENTS} | {"asyncapi.json": asyncapi()}
    return {path: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for path, document in found.items()}


def schema(event: type[BaseModel]) -> Json:
    """Describe an event's value, and where it is found: topic and key are as much a promise as the fields are."""
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:quickbite:event:{event.__name__}",
        "title": event.__name__,
        "description": "",
        "x-kafka-topic": _topic(event),
        "x-kafka-key": _key_field(event),
        "type": "object",
        **event.model_json_schema(schema_generator=_Untitled),
    }


def asyncapi() -> Json:
    """Describe all topics. Who listens is the listener's own affair, so there are only `send` operations."""
    return {
        "asyncapi": "3.0.0",
        "info": _INFO,
        "channels": {name: _channel(name) for name in topics.configurations()},
        "operations": {f"{_service(topic)}.send": _operation(topic) for topic in TOPICS},
        "components": {
            "messages": {**{event.__name__: _message(event) for event in EVENTS}, _LETTER: _dead_letter()},
            "schemas": {"CloudEvent": _HEADERS},
        },
    }


def _channel(name: str) -> Json:
    of = name.removesuffix(outbox.DEAD_LETTER_SUFFIX)
    says = f"What the {_service(of)} service says." if of == name else f"Records of {of} that a consumer set aside."
    settings = {setting: int(value) for setting, value in topics.configurations()[name].items()}
    return {
        "address": name,
        "description": says,
        "messages": {message: _ref("components", "messages", message) for message in _messages(name)},
        "bindings": {"kafka": {"topicConfiguration": settings, "bindingVersion": _BINDING}},
    }


def _operation(topic: str) -> Json:
    return {
        "action": "send",
        "channel": _ref("channels", topic),
        "summary": f"The {_service(topic)} service publishes through its outbox.",
        "messages": [_ref("channels", topic, "messages", message) for message in _messages(topic)],
    }


def _message(event: type[BaseModel]) -> Json:
    key: Json = {"type": "string", "description": f"The value's {_key_field(event)}", "maxLength": events.MAX_KEY}
    if event.model_fields[_key_field(event)].annotation is int:
        key["pattern"] = "^[1-9][0-9]*$"
    source = {"pattern": f"/{_service(_topic(event))}$"}
    return {
        "name": event.__name__,
        "summary": schema(event)["description"],
        "contentType": "application/json",
        "headers": _headers(event.__name__, ce_source=source),
        "payload": {"$ref": _path(event)},
        "bindings": {"kafka": {"key": key, "bindingVersion": _BINDING}},
    }


def _dead_letter() -> Json:
    return {
        "name": _LETTER,
        "summary": "A copy of a record that could not be handled, and why: for people. Programs should not rely on it.",
        "contentType": "application/json",
        "headers": _headers(_LETTER),
        "payload": {"type": "object"},
    }


def _headers(type_: str, **narrower: Json) -> Json:
    cloud_event = _ref("components", "schemas", "CloudEvent")
    return {"type": "object", "allOf": [cloud_event], "properties": {"ce_type": {"const": type_}, **narrower}}


def _messages(channel: str) -> list[str]:
    return [event.__name__ for event in EVENTS if _topic(event) == channel] or [_LETTER]


def _path(event: type[BaseModel]) -> str:
    return f"{SCHEMAS}/{event.__name__}{SUFFIX}"


def _service(topic: str) -> str:
    return topic.removesuffix(".events")


def _topic(event: type[BaseModel]) -> str:
    return str(event.topic)  # type: ignore[attr-defined]  # every event has one


def _key_field(event: type[BaseModel]) -> str:
    return str(event.key_field)  # type: ignore[attr-defined]  # every event has one


def _ref(*path: str) -> dict[str, str]:
    return {"$ref": "#/" + "/".join(path)}


def drift(docs: Path) -> list[str]:
    """Say which documents are not what the contracts give; schemas of events that are no more are among them."""
    wanted = files()
    missing = [path for path in wanted if not (docs / path).exists()]
    differ = [path for path in wanted if path not in missing and (docs / path).read_bytes() != wanted[path].encode()]
    return [
        *(f"{path} is missing" for path in missing),
        *(f"{path} differs from contracts/" for path in differ),
        *(f"{path} is of no event" for path in _stale(docs)),
    ]


def write(docs: Path) -> None:
    """Make the documents what the contracts give."""
    (docs / SCHEMAS).mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        (docs / path).write_bytes(text.encode())
    for path in _stale(docs):
        (docs / path).unlink()


def _stale(docs: Path) -> list[str]:
    found = sorted(path.relative_to(docs).as_posix() for path in (docs / SCHEMAS).glob(f"*{SUFFIX}"))
    return [path for path in found if path not in files()]


@app.command()
def main(*, check: Annotated[bool, typer.Option(help="Write nothing, and fail if something differs.")] = False) -> None:
    """Write the JSON Schemas and the AsyncAPI document of all events."""
    if not check:
        write(DOCS)
    elif found := drift(DOCS):
        typer.echo("\n".join([*(f"docs/{line}" for line in found), "Mend it with `make docs`."]), err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
