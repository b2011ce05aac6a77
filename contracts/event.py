"""The base class of every event of the shop."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from contracts.fields import Version


class Event(BaseModel):
    """The base class of an event type: `class OrderCreated(Event, topic="orders.events", key_field="order_id")`.

    Events of one key are delivered in order. `version` counts the events of the aggregate.
    """

    model_config = ConfigDict(frozen=True, strict=True, use_attribute_docstrings=True)
    topic: ClassVar[str]
    key_field: ClassVar[str]

    version: Version

    def __init_subclass__(cls, topic: str, key_field: str, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        cls.topic, cls.key_field = topic, key_field
