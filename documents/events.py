"""The documents of the events, for readers outside this repository: a JSON Schema per event, and one AsyncAPI document.

What must stay true: everything in them follows from the models, the topics and the envelope. The same input produces
the same bytes.
"""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from contracts import topics
from contracts.catalogue import EVENTS, TOPICS
from shared.delivery import events, outbox

SCHEMAS = "events"
SUFFIX = ".schema.json"

Json = dict[str, Any]
LETTER = "DeadLetter"
_BINDING = "0.5.0"  # of AsyncAPI's Kafka bindings; https://www.asyncapi.com/docs/reference/bindings/kafka

_INFO = {
    "title": "QuickBite events",
    "version": "1.0.0",
    "description": (
        "CloudEvents 1.0 in Kafka's binary mode: the envelope is in the headers, the value is JSON. Events of one key "
        "arrive in order, each at least once, always with the same `ce_id`. Fields are only ever added: ignore "
        "unknown fields. A new meaning gets a new event type: skip unknown types. So this version stays the same."
    ),
}

_HEADERS: Json = {
    "type": "object",
    "description": "The CloudEvents headers of every record.",
    "required": ["ce_id", "ce_type", "ce_source", "ce_specversion", "ce_time", "ce_subject", "content-type"],
    "properties": {
        "ce_id": {"type": "string", "format": "uuid", "description": "UUIDv7; the same when a record is repeated."},
        "ce_type": {"type": "string", "description": "The event's name."},
        "ce_source": {"type": "string", "format": "uri-reference", "description": "The publishing service."},
        "ce_specversion": {"type": "string", "const": "1.0", "description": "The version of CloudEvents."},
        "ce_time": {"type": "string", "format": "date-time", "description": "When the event was written, UTC."},
        "ce_subject": {"type": "string", "maxLength": events.MAX_KEY, "description": "The record's key."},
        "content-type": {"type": "string", "const": "application/json", "description": "The value is JSON."},
        "traceparent": {"type": "string", "description": "W3C Trace Context of the causing request, if any."},
    },
}


class _Untitled(GenerateJsonSchema):
    """JSON Schema without a title per field, which would repeat the field's name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def files() -> dict[str, str]:
    """Every document, by its path under `docs/`."""
    found = {_path(event): schema(event) for event in EVENTS} | {"asyncapi.json": asyncapi()}
    return {path: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for path, document in found.items()}


def schema(event: type[BaseModel]) -> Json:
    """The JSON Schema of an event's value, with its topic and its key field: they are part of the contract."""
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
    """The AsyncAPI document of all topics. It has only `send` operations, because publishers do not know who reads."""
    return {
        "asyncapi": "3.0.0",
        "info": _INFO,
        "channels": {name: _channel(name) for name in topics.configurations()},
        "operations": {f"{_service(topic)}.send": _operation(topic) for topic in TOPICS},
        "components": {
            "messages": {**{event.__name__: _message(event) for event in EVENTS}, LETTER: _dead_letter()},
            "schemas": {"CloudEvent": _HEADERS},
        },
    }


def _channel(name: str) -> Json:
    of = name.removesuffix(outbox.DEAD_LETTER_SUFFIX)
    says = (
        f"The events of the {_service(of)} service."
        if of == name
        else f"Copies of records of {of} that a consumer did not handle."
    )
    settings = {
        setting: [value] if setting == "cleanup.policy" else int(value)
        for setting, value in topics.configurations()[name].items()
    }
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
    key: Json = {"type": "string", "description": f"The value's {_key_field(event)}.", "maxLength": events.MAX_KEY}
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
        "name": LETTER,
        "summary": "A copy of a record that could not be handled, and why. For people: programs should not rely on it.",
        "contentType": "application/json",
        "headers": _headers(LETTER),
        "payload": {"type": "object"},
    }


def _headers(type_: str, **narrower: Json) -> Json:
    cloud_event = _ref("components", "schemas", "CloudEvent")
    return {"type": "object", "allOf": [cloud_event], "properties": {"ce_type": {"const": type_}, **narrower}}


def _messages(channel: str) -> list[str]:
    return [event.__name__ for event in EVENTS if _topic(event) == channel] or [LETTER]


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
