"""Wires one service from the packages below, and runs its HTTP server.

What must stay true: nothing is opened before the application starts. At the end, the consumer stops before the relay,
and the relay before the pool.
"""

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

import structlog
import uvloop
from aiohttp import web
from pydantic import BaseModel

from . import metrics, postgres
from .admin import api as admin
from .admin.api import Backend, Books, Describe
from .delivery import figures, partitions
from .delivery.consumer import Consumer
from .delivery.handlers import Handler
from .delivery.handling import Handling
from .delivery.hint import Hint
from .delivery.kafka import Brokers, Subscription
from .delivery.partitions import Forget
from .delivery.relay import Relay
from .delivery.repairs import Repairs
from .postgres import Connection, Pool
from .process import configuration, exporting, lag, logs
from .process.configuration import Settings
from .process.flags import FAIL_HANDLER, Flags
from .process.tasks import DRAIN_SECONDS, Tasks
from .web import application, audit, connections, database, openapi, operations, tls, verification
from .web.admission import ADMISSION
from .web.connections import Connections
from .web.health import TASKS

log = structlog.get_logger()

S = TypeVar("S", bound=Settings)


async def _nothing(_: Connection, __: str) -> dict[str, Any] | None:
    """The default of `describe`: the service has no row of a key that events have."""
    return None


async def _no_books(_: Connection, __: int | None, ___: int | None) -> dict[str, int] | None:
    """The default of `books`: the service has no part of an order."""
    return None


SETTINGS = web.AppKey("SETTINGS", Settings)

LINGER_SECONDS = 3.0
"""How long a draining process leaves idle connections open, so that the client closes them first.

The process that closes an idle connection may lose a request that is on its way. If it closes all connections at the
same moment, nginx loses a request although it tries twice. Both tries use a connection that was just closed (seen: 4 of
13 runs of a rolling restart). nginx closes its idle connections after a second, see `keepalive_timeout` in
`gateway/nginx.conf`.
"""


def create(
    settings: S,
    name: str,
    description: str,
    routes: web.RouteTableDef,
    lifespan: Callable[[web.Application, S], AsyncIterator[None]],
    describe: Describe = _nothing,
    books: Books = _no_books,
) -> web.Application:
    """Create the application of the service `name`. Its routes are added only if this process runs the part `api`.

    `describe(conn, key)` reads the service's own row of a key, and `books(conn, first, last)` counts its part in the
    orders with these ids, for the admin API.
    """
    app = application.create()
    app[SETTINGS] = cast("Settings", settings)
    flags = Flags({FAIL_HANDLER: "the handler of an event type fails"} if settings.failure_flags else None)
    app[admin.BACKEND] = Backend(name, app[TASKS], list(settings.only), describe, books, flags)
    if "api" in settings.only:
        app.add_routes(routes)
        app.add_routes(admin.routes)
        openapi.serve(app, name, description)
        app.add_routes(operations.with_either_ending(routes))
    app.cleanup_ctx.append(lambda started: lifespan(started, settings))
    return app


@asynccontextmanager
async def opened(
    app: web.Application, settings: Settings, name: str, forgets: Sequence[Forget] = ()
) -> AsyncIterator[Pool]:
    """Open what every service needs: the pool, and, if this process runs these parts, verification of tokens and relay.

    `forgets` delete the service's own rows whose retention is over. Sets `database.POOL` and `database.COMMITTED` of
    the application.
    """
    tasks = app[TASKS]
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(postgres.pool(settings.database, size=settings.pool_size, name=name))
        app[database.POOL] = pool
        app[audit.TRAIL] = audit.Trail(pool)
        stack.push_async_callback(tasks.start("event loop lag", lag.run))
        stack.push_async_callback(tasks.start("audit trail", app[audit.TRAIL].run))
        if "api" in settings.only:
            verifier = await stack.enter_async_context(
                verification.verifying(tasks, settings.auth_jwks_url, settings.auth_ca_file)
            )
            app[operations.VERIFIER] = verifier
        publishing = _publishing(tasks, settings, pool, name, forgets, app[ADMISSION].is_busy)
        app[database.COMMITTED] = await stack.enter_async_context(publishing)
        yield pool


@asynccontextmanager
async def _publishing(
    tasks: Tasks, settings: Settings, pool: Pool, name: str, forgets: Sequence[Forget], is_busy: Callable[[], bool]
) -> AsyncIterator[Callable[[], None]]:
    """Run the relay, and care for day partitions. Without the part `relay`, only wake the relays of other processes.

    Yields the function to call after each commit with new events.
    """
    async with AsyncExitStack() as stack:
        if "relay" not in settings.only:
            hint = Hint(pool, name)
            stack.push_async_callback(tasks.start("hint", hint.run))
            yield hint.wake
            return
        relay = Relay(
            settings.database,
            Brokers.of(settings),
            service=name,
            owner=settings.owner,
            source=settings.event_source,
            pace_seconds=settings.relay_pace_seconds,
            lease_seconds=settings.relay_lease_seconds,
            is_busy=is_busy,
        )
        stack.push_async_callback(relay.close)
        stack.push_async_callback(tasks.start("relay", relay.run))
        care = partial(partitions.run, pool, forgets)
        stack.push_async_callback(tasks.start("partitions", care))
        stack.push_async_callback(tasks.start("figures", partial(figures.run, pool, name)))
        stack.push_async_callback(tasks.start("repairs of the outbox", Repairs(pool, None, relay.wake).run))
        yield relay.wake


@dataclass(frozen=True)
class Consumed:
    """What a service consumes: topics, and the event types that it handles or ignores. See `Handling`."""

    topics: Sequence[str]
    handlers: Mapping[type[BaseModel], Handler]
    ignores: Collection[type[BaseModel]] = ()
    states: Collection[type[BaseModel]] = ()
    also_lock: Sequence[str] = ()


@asynccontextmanager
async def consuming(
    app: web.Application,
    settings: Settings,
    name: str,
    wanted: Consumed,
    committed: Callable[[], None] | None = None,
) -> AsyncIterator[None]:
    """Run the consumer, if this process runs the part `consumer`. Call it within `opened`.

    `committed` is called after each commit of the consumer, instead of the application's `COMMITTED`.
    """
    async with AsyncExitStack() as stack:
        after = committed or app[database.COMMITTED]
        handling = Handling(
            app[database.POOL], name, wanted.handlers, after, wanted.also_lock, wanted.ignores, wanted.states
        )
        handling.handlers.flags = app[admin.BACKEND].flags
        app[admin.BACKEND] = replace(app[admin.BACKEND], handling=handling)
        if "consumer" in settings.only:

            def subscribe() -> Subscription:
                brokers, batch = Brokers.of(settings), settings.consumer_batch
                return Subscription(brokers, name, wanted.topics, settings.instance_id, batch)

            consumer = Consumer(subscribe, handling, settings.consumer_pace_seconds)
            stack.push_async_callback(consumer.close)
            stack.push_async_callback(app[TASKS].start("consumer", consumer.run))
            stack.push_async_callback(app[TASKS].start("repairs", Repairs(app[database.POOL], handling).run))
        yield


def run(create_app: Callable[[Any], web.Application], settings_type: type[Settings], name: str) -> None:
    """Run a service until SIGTERM or until one of its tasks ends. Exits with 0 in the first case, 1 in the second."""
    settings = configuration.read(settings_type, name, sys.argv[1:])
    logs.configure(settings.log_level, name, settings.owner)
    metrics.set_build(settings.release)
    with exporting.spans(settings, name):
        status = _run(create_app(settings), settings)
    sys.exit(status)


def _run(app: web.Application, settings: Settings) -> int:
    factory = uvloop.new_event_loop if settings.event_loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_serve(app, settings))


async def _serve(app: web.Application, settings: Settings) -> int:
    tasks = app[TASKS]
    tasks.stop_on_signals()
    runner = web.AppRunner(app, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    try:
        server = cast("web.Server", runner.server)  # set up by the line above
        made = Connections(server, app)
        address = (settings.host, settings.port)
        listener = socket.create_server(address, backlog=connections.BACKLOG, reuse_port=True)
        listening = await connections.listen(listener.dup(), made)
        async with _serving_tls(tasks, settings, made):
            log.info("ready", port=settings.port, pid=os.getpid())
            await tasks.until_stopped()
            log.info("draining")
        listening.close()
        await _serve_accepted(listener, made)
        await _linger(made)
    finally:
        await runner.cleanup()
    log.info("stopped")
    return 1 if tasks.ended.is_set() else 0


@asynccontextmanager
async def _serving_tls(tasks: Tasks, settings: Settings, made: Connections) -> AsyncIterator[None]:
    """Serve the port of TLS too, if there is one."""
    if not settings.https_file:
        yield
        return
    certificate = tls.Certificate(settings.https_file)
    listener = socket.create_server((settings.host, settings.https_port), backlog=connections.BACKLOG, reuse_port=True)
    listening = await connections.listen(listener, made, certificate.context)
    stop = tasks.start("certificate", certificate.run)
    try:
        yield
    finally:
        listening.close()
        await stop()


async def _linger(made: Connections) -> None:
    """Wait until clients have closed their connections.

    While the process drains, each answer asks its client to close the connection (`web/application.py`).
    """
    until = time.monotonic() + LINGER_SECONDS
    while made.open and time.monotonic() < until:  # noqa: ASYNC110 - aiohttp has no event for it
        await asyncio.sleep(0.02)
    made.close_fresh()


async def _serve_accepted(listener: socket.socket, made: Connections) -> None:
    """Close the listener, but serve the connections that the kernel has accepted already.

    Otherwise the kernel would reset these connections.
    """
    waiting = []
    listener.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            waiting.append(listener.accept()[0])
    listener.close()
    for connection in waiting:
        await asyncio.get_running_loop().connect_accepted_socket(made, connection)
