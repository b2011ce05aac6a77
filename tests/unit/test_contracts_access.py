"""The table of who may write and read what in Kafka, and the settings of a login."""

import pytest

from contracts.access import READS, WRITES
from contracts.topics import configurations
from shared.delivery.kafka import Brokers
from shared.process.configuration import KafkaSettings


@pytest.mark.parametrize("service", WRITES)
def test_the_rules_name_what_the_service_really_reads(service: str) -> None:
    try:
        consumer = __import__(f"{service}.consumer", fromlist=["TOPICS"])
    except ModuleNotFoundError:
        assert service not in READS
    else:
        assert set(READS[service]) == set(consumer.TOPICS)


def test_a_login_without_a_name_is_a_wrong_setting() -> None:
    with pytest.raises(ValueError, match="KAFKA_SECURITY_PROTOCOL=SASL_SSL needs KAFKA_USERNAME"):
        KafkaSettings(kafka_security_protocol="SASL_SSL")


def test_a_password_is_never_shown() -> None:
    assert "hidden" not in repr(Brokers("k:9092", "SASL_SSL", username="orders", password="hidden"))


@pytest.mark.parametrize(("replication", "copies"), [(1, None), (2, None), (3, "2"), (5, "2")])
def test_with_three_copies_two_must_have_a_record(replication: int, copies: str | None) -> None:
    found = configurations(replication)
    assert {one.get("min.insync.replicas") for one in found.values()} == {copies}
    assert found["products.events"]["cleanup.policy"] == "compact"
