"""Types that events are made of, as narrow as Postgres' own: a bad event is refused before any handler sees it."""

from typing import Annotated

import orjson
from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, JsonValue

EVENT = ConfigDict(frozen=True, strict=True)


def _without_nul(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL")
    return value


def _all_without_nul(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if b"\\u0000" in orjson.dumps(value):
        raise ValueError("must not contain NUL")
    return value


Time = AwareDatetime
Text = Annotated[str, AfterValidator(_without_nul)]
Snapshot = Annotated[dict[str, JsonValue], AfterValidator(_all_without_nul)]
Id = Annotated[int, Field(gt=0, lt=2**63)]
Version = Annotated[int, Field(gt=0, lt=2**31)]
Quantity = Annotated[int, Field(gt=0, lt=2**31)]
Cents = Annotated[int, Field(ge=0, lt=2**63)]
Price = Annotated[int, Field(ge=0, le=10**12)]  # times the largest quantity it still fits 64 bits
