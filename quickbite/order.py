"""`order`: everything that all services know of one order, by time."""

import asyncio
from datetime import datetime, timedelta
from typing import Annotated

import typer

from quickbite import text
from quickbite.client import connected

SAGA = ("orders", "inventory", "payments")
_SECOND = timedelta(seconds=1)

app = typer.Typer(no_args_is_help=True, help="One order.")


@app.callback()
def order() -> None:
    """One order."""


@app.command()
def timeline(order_id: Annotated[int, typer.Argument(min=1, help="The id of the order.")]) -> None:
    """Show the rows and events of an order in all services."""
    asyncio.run(_timeline(order_id))


async def _timeline(order_id: int) -> None:
    async with connected() as client:
        found = [one async for _, one in client.each(SAGA, f"timeline/{order_id}")]
    rows: list[tuple[str, str, str, str]] = []
    for one in found:
        if one["row"] is None:
            typer.echo(f"{one['service']} has no row of order {order_id}.")
        else:
            typer.echo(f"{one['service']}\n{text.fields(one['row'])}\n")
        rows += [(event["at"], one["service"], event["what"], event["state"]) for event in one["events"]]
    if not rows:
        typer.echo("There are no events of this order.")
        return
    rows.sort()
    first = datetime.fromisoformat(rows[0][0])
    shown = [(at, f"+{(datetime.fromisoformat(at) - first) / _SECOND:.3f} s", *rest) for at, *rest in rows]
    typer.echo(text.table(("at", "after", "service", "event", "state"), shown))
