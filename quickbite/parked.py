"""`parked`: list, show, replay and drop events that could not be handled."""

import asyncio
from typing import Annotated, Any

import typer

from quickbite import text
from quickbite.client import Client, Failed, connected
from quickbite.config import SERVICES

CONSUMERS = tuple(name for name in SERVICES if name != "products")  # products consumes nothing
FOLLOW_SECONDS = 0.5

app = typer.Typer(no_args_is_help=True, help="Events that could not be handled.")

Service = Annotated[str, typer.Argument(help="The service that parked them: orders, inventory, payments, ...")]
Key = Annotated[str | None, typer.Option(help="Only events of this key, for example an order id.")]
Type = Annotated[str | None, typer.Option("--type", help="Only events of this type.")]
Error = Annotated[str | None, typer.Option(help="Only events whose error contains this text.")]
Age = Annotated[float | None, typer.Option("--older-than", help="Only events parked longer ago, in seconds.")]
Ids = Annotated[list[int] | None, typer.Option("--id", help="Only this parked event; repeatable.")]
Rate = Annotated[int, typer.Option("--per-second", min=1, max=1000, help="How many events a second, at most.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it is kept with your name.")]


@app.command("list")
def list_(*, key: Key = None, type_: Type = None, error: Error = None, older_than: Age = None) -> None:
    """List what is parked in all services: causes first, then the events."""
    asyncio.run(_list(_conditions(key, type_, error, older_than)))


async def _list(query: dict[str, Any]) -> None:
    without = []
    async with connected() as client:
        async for service, found in client.each(CONSUMERS, "parked", **query):
            if found["events"]:
                typer.echo(_listed(service, found))
            else:
                without.append(service)
    if without:
        typer.echo(f"Nothing is parked in {', '.join(without)}.")


def _listed(service: str, found: dict[str, Any]) -> str:
    head = (
        f"{service}: {found['events']} events are parked, {found['keys']} keys wait, oldest {text.ago(found['oldest'])}"
    )
    causes = [
        (one["events"], one["keys"], text.ago(one["first"]), text.ago(one["last"]), one["type"], one["error"])
        for one in found["causes"]
    ]
    events = [
        (one["id"], one["key"], one["type"], text.ago(one["parked_at"]), "yes" if one["blocks"] else "no", one["error"])
        for one in found["parked"]
    ]
    return "\n\n".join(
        [
            head,
            text.table(("events", "keys", "first", "last", "type", "error"), causes),
            text.table(("id", "key", "type", "age", "stops key", "error"), [(*e[:5], e[5][:80]) for e in events]),
            "",
        ]
    )


@app.command()
def show(service: Service, parked_id: Annotated[int, typer.Argument(help="The id that `list` shows.")]) -> None:
    """Show one parked event: its record, headers and value."""

    async def read() -> None:
        async with connected() as client:
            found = await client.get(service, f"parked/{parked_id}")
        headers, value = found.pop("headers"), found.pop("value")
        typer.echo(text.fields(found, ""))
        typer.echo("headers\n" + text.fields(headers))
        typer.echo(f"value\n  {text.line(value)}")

    asyncio.run(read())


@app.command()
def replay(
    service: Service,
    *,
    reason: Why = "",
    key: Key = None,
    type_: Type = None,
    error: Error = None,
    older_than: Age = None,
    ids: Ids = None,
    per_second: Rate = 50,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; show what would change.")] = False,
) -> None:
    """Handle parked events again, in order, with those that wait behind them."""
    body = _conditions(key, type_, error, older_than, ids)
    if dry_run:
        asyncio.run(_rehearse(service, {**body, "dry_run": True, "reason": reason or "dry run"}))
    else:
        asyncio.run(_repair(service, "replay", {**body, "reason": required(reason), "per_second": per_second}))


@app.command()
def drop(
    service: Service,
    *,
    reason: Why = "",
    key: Key = None,
    type_: Type = None,
    error: Error = None,
    older_than: Age = None,
    ids: Ids = None,
    per_second: Rate = 50,
) -> None:
    """Resolve parked events without handling them. Events that wait behind them stay parked: replay those."""
    body = _conditions(key, type_, error, older_than, ids)
    if all(value is None for value in body.values()):
        raise Failed("choose what to drop: --id, --key, --type, --error or --older-than")
    asyncio.run(_repair(service, "drop", {**body, "reason": required(reason), "per_second": per_second}))


@app.command()
def follow(service: Service, repair_id: Annotated[int, typer.Argument(help="The number of the repair.")]) -> None:
    """Follow a replay or a drop until it ends. It also goes on without a follower."""

    async def run() -> None:
        async with connected() as client:
            await followed(client, service, repair_id)

    asyncio.run(run())


@app.command()
def history() -> None:
    """List the repairs of all services: who did what, and why."""

    async def read() -> None:
        rows = []
        async with connected() as client:
            async for service, found in client.each(SERVICES, "repairs"):
                for one in found["repairs"]:
                    where = (one["requested_at"], service, one["id"], one["action"])
                    rows.append((*where, one["requested_by"], one["outcome"] or "under way", one["reason"]))
        heads = ("at", "service", "repair", "action", "by user", "outcome", "reason")
        typer.echo(text.table(heads, sorted(rows)) if rows else "No repair was made.")

    asyncio.run(read())


def _conditions(
    key: str | None, type_: str | None, error: str | None, older_than: float | None, ids: list[int] | None = None
) -> dict[str, Any]:
    return {"key": key, "type": type_, "error": error, "older_than_seconds": older_than, "ids": ids or None}


def required(reason: str, example: str = "the bug is mended in release 7") -> str:
    """The reason. Raises `Failed` if it is blank."""
    if not reason.strip():
        raise Failed(f"a reason is required: --reason '{example}'")
    return reason


async def _rehearse(service: str, body: dict[str, Any]) -> None:
    async with connected() as client:
        found = await client.post(service, "replay", body)
    typer.echo(f"{found['chosen']} events would be replayed; the first {len(found['rehearsed'])} were tried:\n")
    for one in found["rehearsed"]:
        what = f"{one['parked_id']}  key {one['key']}  {one['type']}: {one['outcome']}  {one['detail']}"
        typer.echo(text.line(what).rstrip())
        for table, changes in one["changes"].items():
            typer.echo(f"    table {table}: {changes}")
            for row in one["rows"][table]:
                typer.echo(f"        {text.line(row)}")
        for event in one["events"]:
            typer.echo(f"    event {event['type']}: {text.line(event['value'])}")
    typer.echo("\nNothing was changed.")


async def _repair(service: str, action: str, body: dict[str, Any]) -> None:
    async with connected() as client:
        found = await client.post(service, action, body)
        if not found["chosen"]:
            typer.echo("No parked event fits.")
            return
        typer.echo(
            f"{found['chosen']} events chosen. If this command ends early: parked follow {service} {found['repair']}"
        )
        await followed(client, service, found["repair"])


async def followed(client: Client, service: str, repair_id: int) -> None:
    """Print the progress of a repair until it ends."""
    last = ""
    while True:
        found = await client.get(service, f"repairs/{repair_id}")
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(found["counts"].items()))
        if counts != last:
            typer.echo(f"  {counts}")
            last = counts
        if found["ended_at"] is not None:
            break
        await asyncio.sleep(FOLLOW_SECONDS)
    typer.echo(f"ended: {found['outcome']}")
    for one in found["left"]:
        typer.echo(f"  {one['parked_id']} {one['outcome']}: {text.line(one['detail'])[:200]}")
