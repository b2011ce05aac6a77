from typing import Any

import pytest
from pydantic import ValidationError

from contracts import topics
from contracts.catalogue import EVENTS, TOPICS
from tests.builders import order_created


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.__name__)
def test_every_event_has_a_known_topic_and_one_of_its_fields_as_key(event: type) -> None:
    assert event.topic in TOPICS
    assert event.key_field in event.model_fields
    assert "version" in event.model_fields


def test_every_topic_has_a_dead_letter_topic_that_accepts_larger_records() -> None:
    configured = topics.configurations()
    assert set(configured) == {name for topic in TOPICS for name in (topic, f"{topic}.dlq")}
    assert all(int(configured[f"{topic}.dlq"]["max.message.bytes"]) > 2 * 900_000 for topic in TOPICS)


@pytest.mark.parametrize("product", [{"a": "\x00"}, {"\x00": 1}, {"a": [{"b": "x\x00"}]}], ids=ascii)
def test_a_snapshot_with_nul_which_postgres_cannot_store_is_refused(product: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="NUL"):
        order_created(product=product)


@pytest.mark.parametrize("product", [{"a": "\\u0000"}, {"\\u0000": None}, {"a": ["\\x00", 1.5, None, True]}], ids=ascii)
def test_a_snapshot_with_the_text_of_a_nul_escape_is_accepted(product: dict[str, Any]) -> None:
    assert order_created(product=product).product == product
