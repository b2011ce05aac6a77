"""Shipping has models of its own for the events that it reads. They must fit what the shop publishes."""

import os
import subprocess
import sys

import pytest

from contracts import catalogue
from examples.shipping import consumer, contracts
from shared.delivery import events
from tests.builders import order_confirmed, record
from tests.conftest import ROOT

NOBODY = "127.0.0.1:1"


def test_shipping_declares_every_type_of_its_topic_once() -> None:
    published = [event.__name__ for event in catalogue.EVENTS if event.topic in consumer.TOPICS]
    declared = [model.__name__ for model in (*consumer.HANDLERS, *consumer.IGNORES)]

    assert sorted(declared) == sorted(published)


def test_shipping_reads_what_orders_publishes() -> None:
    received = events.decode(record(order_confirmed(7)), contracts.OrderConfirmed)

    assert received.event == contracts.OrderConfirmed(order_id=7, sku="burger", quantity=2)


@pytest.mark.parametrize(
    ("command", "variable", "value"),
    [
        (
            ["alembic", "-c", "examples/shipping/alembic.ini", "upgrade", "head"],
            "ADMIN_DATABASE_URL",
            "postgresql://u@",
        ),
        (["examples.shipping.topics"], "KAFKA_BOOTSTRAP_SERVERS", ""),
    ],
    ids=["alembic", "topics"],
)
def test_a_server_that_does_not_answer_ends_a_command_with_a_line_that_names_the_variable(
    command: list[str], variable: str, value: str
) -> None:
    done = subprocess.run(  # noqa: S603  # our own program
        [sys.executable, "-m", *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, variable: value + NOBODY},
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert last.endswith(f"set {variable}")
    assert "Traceback" not in done.stderr
