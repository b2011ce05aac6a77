"""Types of event fields. Each accepts only what Postgres can store; other events are rejected before a handler."""

from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field, JsonValue


def _without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL")
    return value


def _has_nul(value: JsonValue) -> bool:
    match value:
        case str():
            return "\x00" in value
        case dict():
            return any(_has_nul(part) for item in value.items() for part in item)
        case list():
            return any(map(_has_nul, value))
        case _:
            return False


def _all_without_nul(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if _has_nul(value):
        raise ValueError("must not contain NUL")
    return value


Time = AwareDatetime
Text = Annotated[str, AfterValidator(_without_nul)]
Snapshot = Annotated[dict[str, JsonValue], AfterValidator(_all_without_nul)]
Id = Annotated[int, Field(gt=0, lt=2**63)]
Version = Annotated[int, Field(gt=0, lt=2**31)]
Quantity = Annotated[int, Field(gt=0, lt=2**31)]
Cents = Annotated[int, Field(ge=0, lt=2**63)]
Price = Annotated[int, Field(ge=0, le=10**12)]  # the largest price times the largest quantity fits into 64 bits
