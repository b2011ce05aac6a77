"""Checks a change of an event, given its JSON Schema before and after: fields are only ever added.

What must stay true: old and new records lie in the same topic for its retention of seven days. Old and new readers run
at the same time while services are rolled out, each on its own day. So a change is allowed only if both are true:

- An old reader accepts every new record. It ignores fields that it does not know, but it is strict about the fields
  that it knows. It rejects the record if a field is missing, is null, has another type, or has a value out of its range
  or outside its `Literal`. So no field is removed, becomes optional or nullable, or gets wider. One more value of an
  enum is wider.
- A new reader accepts every old record. So no field gets narrower, and a new field has a default.

Together: an existing field stays as it is, except for its description, and a new field is optional. The meaning of a
missing field must not change either, nor the topic and the key of an event. Another meaning needs another event type,
and adding a type is always allowed. A keyword that this module does not know counts as a restriction.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

Schema = Mapping[str, Any]

_WORDS = {"$schema", "$id", "$defs", "$comment", "title", "description", "examples", "deprecated"}
_DATA = {"const", "default", "enum", "required"}  # values, not schemas: they contain no descriptions and no references
_BY_NAME = {"properties", "patternProperties"}
_COMPARED = {"additionalProperties", "enum", "items", "properties", "required", "type"}  # each has its own rule


def breaks(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[str]:
    """List the changes that break an old or a new reader, given all schemas before and after, by event name."""
    found = [f"{name}: the event is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        before, after = old[name], new[name]
        found += _value(name, _plain(before, before), _plain(after, after))
    return sorted(set(found))


def _value(at: str, old: Schema, new: Schema) -> Iterator[str]:
    """Compare the values that are accepted in one place, kind by kind. null is a kind like all others."""
    if old == new:
        return
    before, after = _kinds(old), _kinds(new)
    for kind in before.keys() | after.keys():
        if kind not in after:
            yield f"{at}: {kind} is no longer accepted"
        elif kind not in before:
            yield f"{at}: {kind} is accepted now"
        else:
            for one, other in zip_longest(before[kind], after[kind]):
                yield from _same_kind(at, one, other) if one and other else [f"{at}: other alternatives of {kind}"]


def _same_kind(at: str, old: Schema, new: Schema) -> Iterator[str]:
    for keyword in (old.keys() | new.keys()) - _COMPARED:
        was, is_ = _shown(old, keyword), _shown(new, keyword)
        if was != is_:
            yield f"{at}: {keyword} was {was}, is {is_}"
    yield from _enum(at, old, new)
    yield from _fields(at, old, new)
    yield from _value(f"{at}[]", _schema(old, "items"), _schema(new, "items"))
    yield from _unknown_fields(at, old, new)


def _enum(at: str, old: Schema, new: Schema) -> Iterator[str]:
    if ("enum" in old) != ("enum" in new):
        yield f"{at}: enum was {_shown(old, 'enum')}, is {_shown(new, 'enum')}"
        return
    before, after = ({json.dumps(value) for value in schema.get("enum", ())} for schema in (old, new))
    yield from (f"{at}: {value} is no longer accepted" for value in before - after)
    yield from (f"{at}: {value} is accepted now" for value in after - before)


def _fields(at: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed, needs = set(old.get("required", ())), set(new.get("required", ()))
    yield from (f"{at}.{name}: the field is gone" for name in before.keys() - after.keys())
    yield from (f"{at}.{name}: new and required" for name in (after.keys() - before.keys()) & needs)
    for name in before.keys() & after.keys():
        if name in needed ^ needs:
            yield f"{at}.{name}: {'required now' if name in needs else 'no longer required'}"
        yield from _value(f"{at}.{name}", _schema(before, name), _schema(after, name))
    if old.get("additionalProperties") is False:
        yield from (f"{at}.{name}: new where readers refuse it" for name in after.keys() - before.keys())


def _unknown_fields(at: str, old: Schema, new: Schema) -> Iterator[str]:
    closed = [schema.get("additionalProperties") is False for schema in (old, new)]
    if closed[0] != closed[1]:
        yield f"{at}: unknown fields are {'refused now' if closed[1] else 'accepted now'}"
    elif not closed[0]:
        yield from _value(f"{at}.*", _schema(old, "additionalProperties"), _schema(new, "additionalProperties"))


def _kinds(schema: Schema) -> dict[str, list[dict[str, Any]]]:
    """Group the alternatives of a schema by type. JSON Schema has several ways to list alternatives."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    by = next((keyword for keyword in ("anyOf", "oneOf") if keyword in schema), "")
    shared = {keyword: value for keyword, value in schema.items() if keyword != by}
    for choice in schema.get(by, [{}]):
        one = {**shared, **choice}
        types = one.get("type", "anything")
        for kind in types if isinstance(types, list) else [types]:
            found[kind].append({"type": kind, **{k: v for k, v in one.items() if k != "type"}})
    return found


def _schema(schema: Schema, keyword: str) -> Schema:
    """A schema within a schema. Absent and `true` both mean that any value is accepted."""
    found = schema.get(keyword, True)
    return found if isinstance(found, dict) else {}


def _shown(schema: Schema, keyword: str) -> str:
    return json.dumps(schema[keyword], sort_keys=True) if keyword in schema else "absent"


def _plain(node: Any, root: Schema, inside: tuple[str, ...] = ()) -> Any:
    """A schema without descriptions and without references, except references of a recursive type to itself."""
    if isinstance(node, list):
        return [_plain(one, root, inside) for one in node]
    if not isinstance(node, dict):
        return node
    name = str(node.get("$ref", "")).removeprefix("#/$defs/")
    if name in inside:
        return {"$ref": inside.index(name)}  # the name of the type does not matter
    if name in root.get("$defs", {}):
        beside = {keyword: value for keyword, value in node.items() if keyword != "$ref"}
        return _plain({**root["$defs"][name], **beside}, root, (*inside, name))
    plain: dict[str, Any] = {}
    for keyword, value in node.items():
        if keyword in _BY_NAME:
            plain[keyword] = {field: _plain(one, root, inside) for field, one in value.items()}
        elif keyword == "const":
            plain["enum"] = [value]
        elif keyword not in _WORDS:
            plain[keyword] = value if keyword in _DATA else _plain(value, root, inside)
    return plain
