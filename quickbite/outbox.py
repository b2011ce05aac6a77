"""`outbox`: what is not published, what Kafka refused, and how to publish again."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import typer

from quickbite import text
from quickbite.client import Failed, connected
from quickbite.config import SERVICES
from quickbite.parked import Service, Why, followed, required

app = typer.Typer(no_args_is_help=True, help="The events that a service publishes.")

Time = Annotated[str, typer.Argument(help="A time with its zone, such as 2026-01-31T12:00:00Z.")]


@app.command()
def lanes() -> None:
    """Show for each lane who publishes it, and how much waits."""

    def rows(service: str, found: dict[str, Any]) -> list[tuple[object, ...]]:
        _report_transaction(found["held_back_by"])
        return [
            (
                *(service, one["lane"], one["owner"] if one["held"] else "nobody"),
                *(one["rows"], text.size(one["bytes"]), text.ago(one["oldest"])),
            )
            for one in found["lanes"]
        ]

    heads = ("service", "lane", "published by", "rows wait", "bytes", "oldest")
    asyncio.run(_print(heads, rows))


@app.command()
def refused() -> None:
    """List the rows that Kafka refused, and those that wait behind them."""

    def rows(service: str, found: dict[str, Any]) -> list[tuple[object, ...]]:
        return [
            (service, one["topic"], one["key"], text.ago(one["refused_at"]), one["reason"]) for one in found["refused"]
        ]

    asyncio.run(_print(("service", "topic", "key", "age", "reason"), rows))


@app.command()
def republish(service: Service, since: Time, *, reason: Why = "") -> None:
    """Publish again what was written since a time. Consumers drop the events that they know."""
    asyncio.run(_repair(service, "lanes/republish", since, reason))


@app.command()
def rebase(service: Service, restored_at: Time, *, reason: Why = "") -> None:
    """Continue after a database was restored into another cluster, at that time. See docs/operations.md first."""
    asyncio.run(_repair(service, "lanes/rebase", restored_at, reason))


async def _print(heads: tuple[str, ...], rows: Callable[[str, dict[str, Any]], list[tuple[object, ...]]]) -> None:
    found: list[tuple[object, ...]] = []
    async with connected() as client:
        async for service, answer in client.each(SERVICES, "lanes"):
            found += rows(service, answer)
    typer.echo(text.table(heads, found) if found else "None.")


def _report_transaction(found: dict[str, Any] | None) -> None:
    if found and found["seconds"] and found["seconds"] > 5:
        typer.echo(
            "An open write transaction holds all outboxes back. A superuser can end it: pg_terminate_backend(pid)"
        )
        typer.echo(text.fields(found))


async def _repair(service: str, path: str, since: str, reason: str) -> None:
    required(reason, "the broker lost its disk")
    moment = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(since)
    if moment is None or moment.tzinfo is None:
        raise Failed(f"{since!r} is no time with its zone, such as 2026-01-31T12:00:00Z")
    async with connected() as client:
        made = await client.post(service, path, {"since": moment.isoformat(), "reason": reason})
        await followed(client, service, made["repair"])
