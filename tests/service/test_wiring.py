"""How `app.py` of each service wires it: which topics, handlers, locks and settings its parts really get."""

from importlib import import_module
from typing import Any

import pytest

from contracts.catalogue import TOPICS
from orders.placement import Placement
from payments.domain import Claim
from shared import service
from shared.delivery.consumer import Consumer
from shared.delivery.handling import Handling
from shared.delivery.kafka import Subscription
from shared.delivery.relay import Relay
from shared.web import database
from shared.web.admission import ADMISSION
from tests.service.conftest import Serve

ALL_PARTS = ["api", "relay", "consumer", "worker"]
SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")


class Wired:
    """What the parts of a service were created with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.relays: list[dict[str, Any]] = []
        self.subscriptions: list[Subscription] = []
        self.handlings: list[Handling] = []
        self.consumers: list[Consumer] = []
        wired = self

        class WiredRelay(Relay):
            def __init__(self, *arguments: Any, **settings: Any) -> None:
                wired.relays.append(settings)
                super().__init__(*arguments, **settings)

        class WiredHandling(Handling):
            def __init__(self, *arguments: Any, **settings: Any) -> None:
                wired.handlings.append(self)
                super().__init__(*arguments, **settings)

        class WiredConsumer(Consumer):
            def __init__(self, *arguments: Any, **settings: Any) -> None:
                wired.consumers.append(self)
                super().__init__(*arguments, **settings)

        monkeypatch.setattr(service, "Relay", WiredRelay)
        monkeypatch.setattr(service, "Handling", WiredHandling)
        monkeypatch.setattr(service, "Consumer", WiredConsumer)


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> Wired:
    return Wired(monkeypatch)


@pytest.mark.parametrize("name", SERVICES)
async def test_a_relay_publishes_under_its_services_name_with_its_settings(
    serve: Serve, wired: Wired, name: str
) -> None:
    service = await serve(name, only=ALL_PARTS, instance_id="x-7", event_source="/shop", relay_lease_seconds=7.0)
    (relay,) = wired.relays
    config = import_module(f"{name}.config")
    extra = {"admin_password": "a password"} if name == "auth" else {}
    assert relay == {
        "service": name,
        "owner": "x-7",
        "source": "/shop",
        "pace_seconds": config.Settings(**extra).relay_pace_seconds,
        "lease_seconds": 7.0,
        "is_busy": service.app[ADMISSION].is_busy,
    }


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "products"])
async def test_a_consumer_reads_its_topics_with_its_handlers_under_its_own_group(
    serve: Serve, wired: Wired, name: str
) -> None:
    await serve(name, only=ALL_PARTS, consumer_batch=17, instance_id="x-7")
    consumer = import_module(f"{name}.consumer")
    (handling,), (loop,) = wired.handlings, wired.consumers
    subscription = loop._subscribe()
    assert subscription._topics == list(consumer.TOPICS)
    assert set(consumer.TOPICS) <= set(TOPICS)
    assert subscription._consumer._group_id == handling.consumer == name
    assert subscription._consumer._group_instance_id == "x-7"
    assert subscription._batch == 17
    if name != "payments":  # its handlers belong to a worker
        assert handling.handlers.by_type == consumer.HANDLERS
    await subscription.close()


async def test_inventorys_consumer_takes_turns_with_restocks(serve: Serve, wired: Wired) -> None:
    await serve("inventory", only=ALL_PARTS)
    inventory = import_module("inventory.service")
    assert wired.handlings[0].also_lock == inventory.STOCK_LOCK == ("stock",)


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "inventory"])
async def test_no_other_consumer_takes_turns(serve: Serve, wired: Wired, name: str) -> None:
    await serve(name, only=ALL_PARTS)
    assert all(handling.also_lock == () for handling in wired.handlings)


@pytest.mark.parametrize("name", SERVICES)
async def test_a_commit_wakes_the_relay(serve: Serve, wired: Wired, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    woken: list[str] = []
    monkeypatch.setattr(Relay, "wake", lambda self: woken.append(self._service))
    client = await serve(name, only=ALL_PARTS)
    before = len(woken)
    client.app[database.COMMITTED]()
    for handling in wired.handlings:
        handling.committed()
    assert woken[before:] == [name] * (1 + len(wired.handlings))


@pytest.mark.parametrize("name", SERVICES)
async def test_without_its_part_a_process_runs_no_relay_and_no_consumer(serve: Serve, wired: Wired, name: str) -> None:
    await serve(name, only=["api"])
    assert (wired.relays, wired.consumers) == ([], [])


@pytest.mark.parametrize(("parts", "claims"), [(["consumer"], False), (["consumer", "worker"], True)])
async def test_a_consumer_of_payments_claims_calls_only_for_a_worker_in_its_process(
    serve: Serve, wired: Wired, parts: list[str], claims: bool
) -> None:
    """A claim without a worker would delay the payment until the claim is over."""
    workers: list[Any] = []
    app = import_module("payments.app")
    real = app.consumer.handlers

    def handlers(worker: Any) -> Any:
        workers.append(worker)
        return real(worker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.consumer, "handlers", handlers)
        await serve("payments", only=parts)
    claim: Claim = workers[0].claim(1)
    assert (claim.token != 0, claim.until > workers[0].now()) == (claims, claims)


async def test_orders_places_with_its_deadline_and_its_workers(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    class WiredPlacement(Placement):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            made.append((arguments[1:2], settings))
            super().__init__(*arguments, **settings)

    monkeypatch.setattr("orders.app.Placement", WiredPlacement)
    await serve("orders", only=["api"], order_deadline_seconds=12.0, group_commit_workers=3)
    assert made == [((12.0,), {"workers": 3})]
