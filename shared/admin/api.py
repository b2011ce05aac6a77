"""HTTP in, for administrators: timeline, parked events, repairs, lanes, health.

What must stay true: each operation asks for an administrator's token, also where `REQUIRE_TOKEN=false`. The gateway
does not route here. Each change has an author and a reason, which are kept.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, Field

from ..delivery import inspection, rehearsal, repairs
from ..delivery.handling import Handling
from ..delivery.repairs import Action, Author, Selection
from ..errors import Conflict, Invalid, NotFound
from ..postgres import Connection
from ..process.flags import Flag, Flags, in_seconds
from ..process.tasks import Tasks
from ..web import audit, database, deadline, requests, responses
from ..web.fields import MAX_ID, QUERY, Cursor, Limit, Line, Moment, Text, request_like
from ..web.operations import Access, caller, operation

REHEARSED = 20
"""So many events are rehearsed for one request: they hold the locks of their keys."""

CLOCKS_DIFFER = timedelta(hours=1)
"""Some services take the time of a row from their own clock, and that of its events is always Postgres'."""

Describe = Callable[[Connection, str], Awaitable[dict[str, Any] | None]]
"""The service's own row of a key, with `created_at`, or None."""


Books = Callable[[Connection, int | None, int | None], Awaitable[dict[str, int] | None]]
"""The part of a service in the orders with ids from `first` to `last`: `count`, `units`, `cents`. None: it has no part.

Without ids, the service that owns orders chooses the newest that are over since a minute, and adds `first` and `last`.
"""


@dataclass(frozen=True)
class Backend:
    """What the admin API of one service needs. Without `handling`, the service consumes nothing."""

    name: str
    tasks: Tasks
    parts: list[str]
    describe: Describe
    books: Books
    flags: Flags
    handling: Handling | None = None


BACKEND = web.AppKey("ADMIN", Backend)

routes = web.RouteTableDef()

Ids = Annotated[list[Annotated[int, Field(gt=0, lt=2**63)]], Field(min_length=1, max_length=1000)]
Reason = Annotated[str, Line(500)]


class Conditions(BaseModel):
    """Which parked events: every condition that is present must hold. `error` is a part of the error's text."""

    key: Text | None = None
    type: Text | None = None
    error: Text | None = None
    older_than_seconds: Annotated[float, Field(ge=0, le=10**9)] | None = None

    def selection(self) -> Selection:
        age = self.older_than_seconds
        before = None if age is None else datetime.now(UTC) - timedelta(seconds=age)
        return Selection(None, self.key, self.type, self.error, before)


class Listing(Conditions):
    """The query of the list of parked events."""

    model_config = QUERY

    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Drop(Conditions):
    """Parked events to drop."""

    model_config = request_like({"key": "17", "reason": "the bug is mended"})

    ids: Ids | None = None
    reason: Reason
    per_second: Annotated[int, Field(ge=1, le=1000)] = 50

    def selection(self) -> Selection:
        return replace(super().selection(), ids=self.ids)


class Replay(Drop):
    """Parked events to handle again. With `dry_run` nothing is changed."""

    dry_run: bool = False


class SetFlag(BaseModel):
    """A part that fails for a while. `delay_seconds` is for flags that delay."""

    model_config = request_like({"name": "fail_handler", "type": "OrderCreated", "key": "17", "reason": "a drill"})

    name: Text
    type: Text | None = None
    key: Text | None = None
    delay_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    seconds: Annotated[float, Field(ge=1, le=3600)] = 300.0
    """How long the flag lasts."""
    reason: Reason


class Range(BaseModel):
    """The query of the books: ids of orders."""

    model_config = QUERY

    first: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    last: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class Page(BaseModel):
    """The query of the audit trail."""

    model_config = QUERY

    before: Cursor | None = None
    limit: Limit = 100


class Republish(BaseModel):
    """Publish again what was written since a time."""

    model_config = request_like({"since": "2026-01-31T12:00:00Z", "reason": "the broker lost its disk"})

    since: Moment
    reason: Reason


class Window(BaseModel):
    """The query of a timeline."""

    model_config = QUERY

    since: Moment | None = None
    until: Moment | None = None


@routes.get("/admin/health")
@operation(Access.ADMIN, {200: None})
async def health(request: web.Request) -> web.Response:
    """What runs here, what hangs, what holds the outbox back, and how much is parked."""
    backend = request.app[BACKEND]

    async def read(conn: Connection) -> dict[str, Any]:
        return {
            "parked": dict(await inspection.open_parked(conn, backend.name)),
            "held_back_by": await inspection.held_back_by(conn),
        }

    found = await database.reading(request, read)
    state = {"parts": backend.parts, "hanging": backend.tasks.hanging(), "draining": backend.tasks.draining}
    paused = backend.handling.paused if backend.handling else []
    return responses.json({"service": backend.name, **state, "paused_types": paused, **found})


@routes.get("/admin/timeline/{key}")
@operation(Access.ADMIN, {200: None}, query=Window)
async def timeline(request: web.Request, window: Window) -> web.Response:
    """The service's row of a key, and the events of the key that it wrote or parked."""
    backend, key = request.app[BACKEND], _key(request)

    async def read(conn: Connection) -> dict[str, Any]:
        row = await backend.describe(conn, key)
        first = row["created_at"] - CLOCKS_DIFFER if row else None
        found = await inspection.timeline(conn, backend.name, key, window.since, window.until, first)
        return {"service": backend.name, "row": row, "events": found}

    return responses.json(await database.reading(request, read))


@routes.get("/admin/parked")
@operation(Access.ADMIN, {200: None}, query=Listing)
async def parked(request: web.Request, wanted: Listing) -> web.Response:
    """Parked events that are not resolved, and their causes."""
    name = request.app[BACKEND].name
    chosen = wanted.selection()

    async def read(conn: Connection) -> dict[str, Any]:
        return {
            **dict(await inspection.open_parked(conn, name)),
            "causes": await inspection.causes(conn, name),
            "parked": await inspection.parked(conn, name, chosen, wanted.limit),
        }

    return responses.json(await database.reading(request, read))


@routes.get("/admin/parked/{id}")
@operation(Access.ADMIN, {200: None})
async def parked_one(request: web.Request) -> web.Response:
    """One parked event, with its headers and its value."""
    id_ = requests.path_id(request)
    return responses.json(await database.reading(request, lambda conn: inspection.parked_one(conn, id_)))


@routes.post("/admin/replay")
@operation(Access.ADMIN, {200: None, 202: None}, body=Replay)
async def replay(request: web.Request, wanted: Replay) -> web.Response:
    """Handle parked events again, with those that wait behind them. With `dry_run`, show what this would change."""
    if not wanted.dry_run:
        return await _repair(request, "replay", wanted)
    handling = _handling(request)
    chosen = wanted.selection()
    ids = await database.reading(request, lambda conn: repairs.choose(conn, handling.consumer, chosen, "replay"))
    pool = request.app[database.POOL]
    found = await deadline.within(request, rehearsal.rehearse(pool, handling, ids[:REHEARSED]))
    return responses.json({"chosen": len(ids), "rehearsed": found})


@routes.post("/admin/drop")
@operation(Access.ADMIN, {202: None}, body=Drop)
async def drop(request: web.Request, wanted: Drop) -> web.Response:
    """Resolve parked events without handling them. At least one condition is required."""
    _handling(request)
    if wanted.selection() == Selection():
        raise Invalid("choose what to drop: ids, key, type, error or older_than_seconds")
    return await _repair(request, "drop", wanted)


@routes.get("/admin/repairs")
@operation(Access.ADMIN, {200: None})
async def all_repairs(request: web.Request) -> web.Response:
    """The last fifty repairs: who did what, and why."""
    return responses.json({"repairs": await database.reading(request, repairs.progress)})


@routes.get("/admin/repairs/{id}")
@operation(Access.ADMIN, {200: None})
async def repair(request: web.Request) -> web.Response:
    """One repair: its progress, and the events that stayed parked."""
    id_ = requests.path_id(request)

    async def read(conn: Connection) -> dict[str, Any]:
        found = await repairs.progress(conn, id_)
        if not found:
            raise NotFound
        return {**found[0], "left": await repairs.details(conn, id_)}

    return responses.json(await database.reading(request, read))


@routes.get("/admin/audit")
@operation(Access.ADMIN, {200: None}, query=Page)
async def acts(request: web.Request, page: Page) -> web.Response:
    """The audit trail of this service, newest first."""
    before = MAX_ID if page.before is None else page.before
    found = await database.reading(request, lambda conn: audit.last(conn, before, page.limit))
    return responses.json({"service": request.app[BACKEND].name, "acts": found})


@routes.get("/admin/lanes")
@operation(Access.ADMIN, {200: None})
async def all_lanes(request: web.Request) -> web.Response:
    """The lanes of the outbox, what is not published, what Kafka refused, and the transaction that holds all back."""

    async def read(conn: Connection) -> dict[str, Any]:
        return {
            "lanes": await inspection.lanes(conn),
            "refused": await inspection.refused(conn),
            "held_back_by": await inspection.held_back_by(conn),
        }

    return responses.json(await database.reading(request, read))


@routes.post("/admin/lanes/republish")
@operation(Access.ADMIN, {202: None}, body=Republish)
async def republish(request: web.Request, wanted: Republish) -> web.Response:
    """Publish again what was written since a time. Consumers drop the events that they know."""
    return await _outbox_repair(request, "republish", wanted)


@routes.post("/admin/lanes/rebase")
@operation(Access.ADMIN, {202: None}, body=Republish)
async def rebase(request: web.Request, wanted: Republish) -> web.Response:
    """After a restore into another cluster: publish what was not published. `since` is the time of the restore."""
    return await _outbox_repair(request, "rebase", wanted)


@routes.get("/admin/books")
@operation(Access.ADMIN, {200: None}, query=Range)
async def books(request: web.Request, wanted: Range) -> web.Response:
    """The part of this service in a range of orders. If all services agree, nothing was lost and nothing doubled."""
    backend = request.app[BACKEND]
    found = await database.reading(request, lambda conn: backend.books(conn, wanted.first, wanted.last))
    return responses.json({"service": backend.name, "books": found})


@routes.get("/admin/flags")
@operation(Access.ADMIN, {200: None})
async def flags(request: web.Request) -> web.Response:
    """The failure flags that are set in this process, those that it knows, and the types of events that it handles."""
    backend = request.app[BACKEND]
    active = [{"id": id_, **asdict(flag)} for id_, flag in backend.flags.active().items()]
    types = sorted(model.__name__ for model in backend.handling.handlers.by_type) if backend.handling else []
    return responses.json({"service": backend.name, "allowed": backend.flags.allowed, "types": types, "flags": active})


@routes.post("/admin/flags")
@operation(Access.ADMIN, {201: None}, body=SetFlag, problems=[409])
async def set_flag(request: web.Request, wanted: SetFlag) -> web.Response:
    """Make a part of this process fail for a while, to see what happens then."""
    flag = Flag(
        wanted.name,
        in_seconds(wanted.seconds),
        caller(request).user_id,
        wanted.reason,
        wanted.type,
        wanted.key,
        wanted.delay_seconds,
    )
    return responses.json({"id": request.app[BACKEND].flags.set(flag)}, 201)


@routes.post("/admin/flags/{id}/end")
@operation(Access.ADMIN, {200: None})
async def end_flag(request: web.Request) -> web.Response:
    """End a failure flag now."""
    request.app[BACKEND].flags.end(requests.path_id(request), caller(request).user_id)
    return responses.json({"ended": True})


async def _repair(request: web.Request, action: Action, wanted: Drop) -> web.Response:
    handling = _handling(request)
    selection = wanted.selection()
    what = {name: value for name, value in asdict(selection).items() if value is not None}

    async def ask(conn: Connection) -> dict[str, Any]:
        ids = await repairs.choose(conn, handling.consumer, selection, action)
        if not ids:
            return {"chosen": 0}
        author = Author(caller(request).user_id, wanted.reason)
        id_ = await repairs.request(conn, action, author, what, ids, wanted.per_second)
        return {"chosen": len(ids), "repair": id_}

    return responses.json(await database.writing(request, (), ask), 202)


async def _outbox_repair(request: web.Request, action: Action, wanted: Republish) -> web.Response:
    author = Author(caller(request).user_id, wanted.reason)
    what = {"since": wanted.since.isoformat()}

    async def ask(conn: Connection) -> dict[str, Any]:
        return {"repair": await repairs.request(conn, action, author, what)}

    return responses.json(await database.writing(request, (), ask), 202)


def _handling(request: web.Request) -> Handling:
    handling = request.app[BACKEND].handling
    if handling is None:
        raise Conflict("this service consumes no events")
    return handling


def _key(request: web.Request) -> str:
    key = request.match_info["key"]
    if "\x00" in key:
        raise Invalid("invalid key")
    return key
