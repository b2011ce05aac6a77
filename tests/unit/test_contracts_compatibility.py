from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from contracts.catalogue import EVENTS
from documents import events
from documents.compatibility import breaks


def schema(**fields: Any) -> dict[str, Any]:
    """The schema of an event with these fields, each a type or a type and a default."""
    given = {name: field if isinstance(field, tuple) else (field, ...) for name, field in fields.items()}
    return create_model("Paid", **given).model_json_schema()


def found(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return breaks({"Paid": old}, {"Paid": new})


class Address(BaseModel):
    street: str


class LongerAddress(BaseModel):
    """An `Address` with a field that may be missing."""

    street: str
    floor: int | None = None


class OtherAddress(BaseModel):
    street: int


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", title="Paid")
    order_id: int


class ClosedAndLonger(Closed):
    tip: int = 0


class Tree(BaseModel):
    children: "list[Tree]"


class NamedTree(BaseModel):
    children: "list[NamedTree]"
    name: str


class SameTree(BaseModel):
    children: "list[SameTree]"


AtMost9, AtMost10 = Annotated[int, Field(le=9)], Annotated[int, Field(le=10)]
AtLeast0, AtLeast1 = Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]
Short, Long = Annotated[str, Field(max_length=9)], Annotated[str, Field(max_length=10)]
Digits, Letters = Annotated[str, Field(pattern="^[0-9]+$")], Annotated[str, Field(pattern="^[a-z]+$")]
Few, Many = Annotated[list[int], Field(max_length=3)], Annotated[list[int], Field(max_length=4)]
DATE_TIME = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "format": "date-time"}}}
DATE = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "format": "date"}}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(schema(a=int), schema(a=int), id="nothing"),
        pytest.param(schema(a=int, b=str), schema(b=str, a=int), id="the order of fields"),
        pytest.param(schema(a=int), schema(a=int, b=(int, 0)), id="a field with a default"),
        pytest.param(schema(a=int), schema(a=int, b=(int | None, None)), id="a field that may be null or missing"),
        pytest.param(schema(a=int), schema(a=Annotated[int, Field(description="euros")]), id="words about a field"),
        pytest.param(
            schema(title=int), schema(title=Annotated[int, Field(title="x")]), id="words about a field `title`"
        ),
        pytest.param(schema(a=Literal["x", "y"]), schema(a=Literal["y", "x"]), id="the order of values"),
        pytest.param(schema(a=int | None), schema(a=None | int), id="the order of alternatives"),
        pytest.param(
            {"type": "object", "required": ["a"], "properties": {"a": {"type": ["integer", "null"]}}},
            schema(a=int | None),
            id="notation",
        ),
        pytest.param(
            {"properties": {"a": {"const": 1}}}, {"properties": {"a": {"enum": [1]}}}, id="notation of a constant"
        ),
        pytest.param(schema(a=Address), schema(a=LongerAddress), id="a field with a default further in"),
        pytest.param(schema(a=list[Address]), schema(a=list[LongerAddress]), id="a field with a default in a list"),
        pytest.param(schema(a=Address | None), schema(a=LongerAddress | None), id="a field with a default behind null"),
        pytest.param(Tree.model_json_schema(), Tree.model_json_schema(), id="nothing in a recursive type"),
        pytest.param(Tree.model_json_schema(), SameTree.model_json_schema(), id="the name of a recursive type"),
        pytest.param({"anyOf": [{"type": "null"}]}, {"oneOf": [{"type": "null"}]}, id="notation of alternatives"),
        pytest.param({"properties": {"a": {}}}, {"properties": {"a": True}}, id="notation of anything"),
        pytest.param(
            {"properties": {"a": {}}},
            {"properties": {"a": {}}, "additionalProperties": True},
            id="unknown fields, by name",
        ),
    ],
)
def test_a_compatible_change_is_allowed(old: dict[str, Any], new: dict[str, Any]) -> None:
    old["title"] = new["title"] = "Paid"
    assert found(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param(schema(a=int, b=int), schema(a=int), ".b: the field is gone", id="a field"),
        pytest.param(schema(a=int, b=(int, 0)), schema(a=int), ".b: the field is gone", id="a field with a default"),
        pytest.param(schema(a=int), schema(a=int, b=int), ".b: new and required", id="a new field that must be there"),
        pytest.param(schema(a=int), schema(a=(int, 0)), ".a: no longer required", id="a field that may be missing now"),
        pytest.param(schema(a=(int, 0)), schema(a=int), ".a: required now", id="a field that must be there now"),
        pytest.param(
            schema(a=(int, 0)), schema(a=(int, 1)), ".a: default was 0, is 1", id="what a missing field means"
        ),
        pytest.param(
            schema(a=int), schema(a=int | None), ".a: null is accepted now", id="a field that may be null now"
        ),
        pytest.param(schema(a=int | None), schema(a=int), ".a: null is no longer accepted", id="a field that was null"),
        pytest.param(schema(title=int), schema(), ".title: the field is gone", id="a field that is called like a word"),
        pytest.param(schema(a=int), schema(a=str), ".a: integer is no longer accepted", id="a type"),
        pytest.param(schema(a=int), schema(a=float), ".a: number is accepted now", id="a wider type"),
        pytest.param(schema(a=int), schema(a=Any), ".a: anything is accepted now", id="a type that is anything now"),
        pytest.param(DATE_TIME, DATE, '.a: format was "date-time", is "date"', id="a format"),
        pytest.param(schema(a=str), DATE_TIME, ".a: format was absent", id="a format that was none"),
        pytest.param(
            schema(a=Literal["x"]), schema(a=Literal["x", "y"]), '.a: "y" is accepted now', id="one more value"
        ),
        pytest.param(
            schema(a=Literal["x", "y"]), schema(a=Literal["x"]), '.a: "y" is no longer accepted', id="one value less"
        ),
        pytest.param(
            schema(a=str), schema(a=Literal["x"]), '.a: enum was absent, is ["x"]', id="text that is limited now"
        ),
        pytest.param(
            schema(a=Literal["x"]), schema(a=str), '.a: enum was ["x"], is absent', id="text that was limited"
        ),
        pytest.param(schema(a=AtMost9), schema(a=AtMost10), ".a: maximum was 9, is 10", id="a higher maximum"),
        pytest.param(schema(a=AtMost10), schema(a=AtMost9), ".a: maximum was 10, is 9", id="a lower maximum"),
        pytest.param(schema(a=AtMost10), schema(a=int), ".a: maximum was 10, is absent", id="no maximum"),
        pytest.param(schema(a=int), schema(a=AtMost10), ".a: maximum was absent, is 10", id="a maximum that was none"),
        pytest.param(schema(a=AtLeast1), schema(a=AtLeast0), ".a: minimum was 1, is 0", id="a lower minimum"),
        pytest.param(schema(a=AtLeast0), schema(a=AtLeast1), ".a: minimum was 0, is 1", id="a higher minimum"),
        pytest.param(schema(a=AtLeast0 | None), schema(a=AtLeast1 | None), ".a: minimum was 0, is 1", id="behind null"),
        pytest.param(schema(a=Short), schema(a=Long), ".a: maxLength was 9, is 10", id="longer text"),
        pytest.param(schema(a=Long), schema(a=Short), ".a: maxLength was 10, is 9", id="shorter text"),
        pytest.param(schema(a=Digits), schema(a=Letters), ".a: pattern was", id="a pattern"),
        pytest.param(schema(a=Few), schema(a=Many), ".a: maxItems was 3, is 4", id="a longer list"),
        pytest.param(
            schema(a=list[int]), schema(a=list[str]), ".a[]: integer is no longer accepted", id="what is in a list"
        ),
        pytest.param(
            schema(a=dict[str, int]), schema(a=dict[str, str]), ".a.*: integer is no longer accepted", id="in a map"
        ),
        pytest.param(
            schema(a=Address), schema(a=OtherAddress), ".a.street: string is no longer accepted", id="further in"
        ),
        pytest.param(
            schema(a=LongerAddress), schema(a=Address), ".a.floor: the field is gone", id="a field further in"
        ),
        pytest.param(
            schema(a=Address | int), schema(a=Address), ".a: integer is no longer accepted", id="an alternative less"
        ),
        pytest.param(
            schema(a=Address), schema(a=Address | OtherAddress), ".a: other alternatives of object", id="an alternative"
        ),
        pytest.param(schema(a=tuple[int, str]), schema(a=tuple[int, int]), ".a: prefixItems was", id="a tuple"),
        pytest.param(schema(a=tuple[Address]), schema(a=tuple[LongerAddress]), ".a: prefixItems was", id="in a tuple"),
        pytest.param(Closed.model_json_schema(), ClosedAndLonger.model_json_schema(), "refuse it", id="closed models"),
        pytest.param(
            schema(order_id=int), Closed.model_json_schema(), "unknown fields are refused now", id="a closed model"
        ),
        pytest.param(
            Closed.model_json_schema(), schema(order_id=int), "unknown fields are accepted now", id="an open model"
        ),
        pytest.param(
            Tree.model_json_schema(),
            NamedTree.model_json_schema(),
            "Paid.name: new and required",
            id="recursive",
        ),
        pytest.param({"x-kafka-topic": "a.events"}, {"x-kafka-topic": "b.events"}, "x-kafka-topic was", id="the topic"),
        pytest.param({"x-kafka-key": "sku"}, {"x-kafka-key": "order_id"}, "x-kafka-key was", id="the key"),
        pytest.param({}, {"not": {"required": ["a"]}}, "not was absent", id="a keyword that nobody foresaw"),
        pytest.param({"anyOf": [{}], "oneOf": [{}]}, {"anyOf": [{}]}, "oneOf was", id="two kinds of alternatives"),
    ],
)
def test_a_breaking_change_is_reported(old: dict[str, Any], new: dict[str, Any], says: str) -> None:
    assert any(says in line for line in found(old, new)), found(old, new)


def test_an_event_may_be_added_but_not_removed() -> None:
    assert breaks({}, {"Paid": schema(a=int)}) == []
    assert breaks({"Paid": schema(a=int)}, {}) == ["Paid: the event is gone"]


def test_every_break_is_reported_once_and_in_order() -> None:
    old, new = schema(a=int | None, b=str), schema(a=(int | None, 0), c=int)
    assert found(old, new) == [
        "Paid.a: default was absent, is 0",
        "Paid.a: no longer required",
        "Paid.b: the field is gone",
        "Paid.c: new and required",
    ]


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.__name__)
def test_no_event_may_lose_a_field(event: type[BaseModel]) -> None:
    whole = events.schema(event)
    for field in event.model_fields:
        rest = {name: value for name, value in whole["properties"].items() if name != field}
        cut = whole | {"properties": rest, "required": [name for name in whole["required"] if name != field]}
        assert found(whole, whole) == []
        assert f"Paid.{field}: the field is gone" in found(whole, cut)
