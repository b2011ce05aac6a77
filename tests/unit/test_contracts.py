import pytest

from contracts import topics
from contracts.catalogue import EVENTS, TOPICS


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.__name__)
def test_every_event_goes_to_a_known_topic_under_one_of_its_own_fields(event: type) -> None:
    assert event.topic in TOPICS
    assert event.key_field in event.model_fields
    assert "version" in event.model_fields


def test_every_topic_has_a_dead_letter_topic_that_takes_larger_records() -> None:
    configured = topics.configurations()
    assert set(configured) == {name for topic in TOPICS for name in (topic, f"{topic}.dlq")}
    assert all(int(configured[f"{topic}.dlq"]["max.message.bytes"]) > 2 * 900_000 for topic in TOPICS)
