"""`demo`: places three orders through the gateway, and prints the events about them with their times."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import aiohttp
import typer

from quickbite.client import Failed, read_settings
from shared.delivery import kafka
from shared.delivery.events import Record
from shared.delivery.kafka import Brokers, Tail
from shared.process import configuration
from shared.process.configuration import KafkaSettings

SECONDS = 20.0
TOPICS = ("orders.events", "inventory.events", "payments.events")
RESERVED = ("OrderCreated", "InventoryReserved")


@dataclass(frozen=True)
class Story:
    """An order to place, its expected end, and the events about it, the last one last."""

    title: str
    body: dict[str, int]
    end: str
    events: Sequence[str]


STORIES = (
    Story(
        "2 burgers: there are enough, and the card is good",
        {"product_id": 1, "quantity": 2},
        "CONFIRMED",
        (*RESERVED, "PaymentSucceeded", "OrderConfirmed"),
    ),
    Story(
        "1 lobster: sold out",
        {"product_id": 5},
        "CANCELLED out_of_stock",
        ("OrderCreated", "InventoryRejected", "OrderCancelled"),
    ),
    Story(
        "100 sushi: the provider declines 1,800.00, and the stock goes back",
        {"product_id": 4, "quantity": 100},
        "CANCELLED payment_declined",
        (*RESERVED, "PaymentFailed", "OrderCancelled", "InventoryReleased"),
    ),
)


@dataclass(frozen=True)
class SeenEvent:
    """An event as it was read from Kafka. `at` is the time of its creation, in Unix seconds."""

    at: float
    type: str
    key: str
    where: str


class News:
    """Reads new events from Kafka and returns them by order."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._seen: list[SeenEvent] = []

    async def of(self, order_id: int, wanted: Sequence[str], seconds: float) -> list[SeenEvent]:
        """Wait until all `wanted` types have arrived or the time is over. Returns the events sorted by time."""
        until = time.monotonic() + seconds
        while True:
            found = sorted((event for event in self._seen if event.key == str(order_id)), key=lambda event: event.at)
            if set(wanted) <= {event.type for event in found} or time.monotonic() > until:
                return found
            self._seen.extend(map(_seen_event, await self._tail.poll(0.1)))


@asynccontextmanager
async def reading(brokers: Brokers) -> AsyncIterator[News]:
    """Read the topics of the saga, from their current end."""
    tail = Tail(brokers, TOPICS)
    try:
        await tail.start()
        yield News(tail)
    finally:
        await tail.close()


async def run(gateway: str, brokers: Brokers, password: str) -> bool:
    """Run all stories. Returns True if each ended as expected."""
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with reading(brokers) as news, aiohttp.ClientSession(gateway, timeout=timeout) as session:
        started = time.time()
        login = await _ask(session, "POST", "/auth/login", {"username": "admin", "password": password})
        session.headers["Authorization"] = f"Bearer {login['token']}"
        typer.echo(f"Logged in as admin at {gateway} in {(time.time() - started) * 1000:.0f} ms.")
        return all([await _tell(session, news, story) for story in STORIES])


async def _tell(session: aiohttp.ClientSession, news: News, story: Story) -> bool:
    started = time.time()
    order = await _ask(session, "POST", "/orders/", story.body)
    lines: list[tuple[float, str, str, str | None]] = [(time.time(), "accepted", "POST /orders/ 202", None)]
    final = await _ask(session, "GET", f"/orders/{order['id']}?wait=10")
    end = " ".join([final["status"], *filter(None, [final.get("reason")])])
    colour = typer.colors.GREEN if end == story.end else typer.colors.RED
    lines.append((time.time(), end, "answer to ?wait=10", colour))
    events = await news.of(order["id"], story.events, 5.0)
    lines += [(event.at, event.type, event.where, typer.colors.CYAN) for event in events]
    typer.secho(f"\norder {order['id']}: {story.title}", bold=True)
    for at, what, where, shade in sorted(lines, key=lambda line: line[0]):
        typer.echo(f"  {(at - started) * 1000:6.0f} ms  {typer.style(f'{what:<26}', fg=shade)}  {where}")
    return end == story.end


async def _ask(session: aiohttp.ClientSession, method: str, path: str, body: object = None) -> Any:
    try:
        async with session.request(method, path, json=body) as answer:
            found = await answer.json(content_type=None)
            if not answer.ok:
                raise Failed(f"{method} {path}: {answer.status} {found.get('detail', '')}")
            return found
    except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
        raise Failed(f"{method} {path}: {error!r}. Is the stack running? `make up` starts it.") from error


def _seen_event(record: Record) -> SeenEvent:
    headers = {name: value or b"" for name, value in record.headers}
    at = datetime.fromisoformat(headers["ce_time"].decode()).timestamp()
    where = f"{record.topic}[{record.partition}] at {record.offset}"
    return SeenEvent(at, headers["ce_type"].decode(), (record.key or b"").decode(), where)


def demo() -> None:
    """Place three orders through the gateway, and print the path of each, event by event."""
    settings = read_settings()
    brokers = replace(Brokers.of(configuration.load(KafkaSettings)), servers=settings.place("kafka"))
    try:
        ended_well = asyncio.run(run(settings.address("gateway"), brokers, settings.admin_password))
    except kafka.Unavailable as error:
        advice = "`make demo` knows the user and the password" if not brokers.username else "`make up` starts the stack"
        raise Failed(f"Kafka at {brokers.servers}: {error}. {advice}.") from error
    if not ended_well:
        raise Failed("A story did not end as expected.")
