"""Types of event fields, with their descriptions. Each accepts only what Postgres can store.

Other events are rejected before a handler.
"""

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
Id = Annotated[int, Field(gt=0, lt=2**63)]
Cents = Annotated[int, Field(ge=0, lt=2**63)]

Version = Annotated[int, Field(gt=0, lt=2**31, description="Counts the events of the key.")]
OrderId = Annotated[Id, Field(description="The id of the order.")]
ProductId = Annotated[Id, Field(description="The id of the product.")]
UserId = Annotated[Text, Field(description="The id of the user.")]
Sku = Annotated[Text, Field(description="The sku of the product.")]
Name = Annotated[Text, Field(description="The name that customers see.")]
Snapshot = Annotated[
    dict[str, JsonValue],
    AfterValidator(_all_without_nul),
    Field(description="The product as it was when the order was placed. It does not change later."),
]
Quantity = Annotated[int, Field(gt=0, lt=2**31, description="How many units.")]
Amount = Annotated[Cents, Field(description="The price of the whole order in cents.")]
# The largest price times the largest quantity fits into 64 bits.
Price = Annotated[int, Field(ge=0, le=10**12, description="The price of one unit in cents.")]
Currency = Annotated[Text, Field(description="The currency, such as EUR.")]
Deadline = Annotated[Time, Field(description="An order that is not final at this time is cancelled.")]
ProviderRef = Annotated[Text, Field(description="The provider's reference of the charge.")]
