"""Connections of a service: their number is bounded, and a client that sends no request is disconnected."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
import uvloop
from aiohttp import web

from shared.web import application, connections
from shared.web.operations import Access, operation
from tests.builders import eventually
from tests.service.raw import Connect, Streams, served

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@operation(Access.PUBLIC, {200: None})
async def work(_: web.Request) -> web.Response:
    """Work."""
    return web.Response()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open a connection to a service."""
    app = application.create()
    app.router.add_get("/work", work)
    async with served(app) as opened:
        yield opened


async def ask(streams: Streams) -> bytes:
    streams[1].write(GET)
    return await streams[0].readuntil(b"\r\n")


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_OPEN", 3)
    monkeypatch.setattr(connections, "RESERVED", 0)


@pytest.mark.usefixtures("_few")
async def test_a_connection_too_many_is_refused_and_harms_no_other(connect: Connect) -> None:
    known = [await connect() for _ in range(3)]
    for one in known:
        assert await ask(one) == b"HTTP/1.1 200 OK\r\n"
    for _ in range(5):
        extra = await connect()
        extra[1].write(GET)
        answer = await extra[0].read()  # until the end: complete, and not reset
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert b'"/problems/refused"' in answer
    for one in known:
        await one[0].readuntil(b"ok")
        assert await ask(one) == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.usefixtures("_few")
async def test_the_last_connections_are_for_health_only(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "RESERVED", 1)
    known = [await connect() for _ in range(3)]
    assert [await ask(one) for one in known] == [b"HTTP/1.1 200 OK\r\n"] * 3
    answer = b""
    for path, status in ((b"/work", b"503"), (b"/metrics", b"200"), (b"/livez", b"200"), (b"/work", b"503")):
        reader, writer = await connect()
        writer.write(GET.replace(b"/healthz", path))
        answer = await reader.read()  # until the end: each makes room for the next
        assert answer.startswith(b"HTTP/1.1 " + status), path
    assert b'"/problems/refused"' in answer


@pytest.mark.usefixtures("_few")
async def test_a_closed_connection_makes_room(connect: Connect) -> None:
    known = [await connect() for _ in range(3)]
    assert [await ask(one) for one in known] == [b"HTTP/1.1 200 OK\r\n"] * 3
    known[0][1].close()

    async def admitted() -> bool:
        return await ask(await connect()) == b"HTTP/1.1 200 OK\r\n"

    await eventually(admitted)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: 1"])
async def test_a_client_that_sends_no_whole_header_is_disconnected(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    reader, writer = await connect()
    writer.write(sent)
    assert await asyncio.wait_for(reader.read(), 30) == b""


async def test_an_idle_connection_is_kept_after_its_first_request(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    one = await connect()
    assert await ask(one) == b"HTTP/1.1 200 OK\r\n"
    await one[0].readuntil(b"ok")
    late = await connect()
    assert await asyncio.wait_for(late[0].read(), 30) == b""  # by now the time of the first header is over
    assert await ask(one) == b"HTTP/1.1 200 OK\r\n"


async def test_a_client_that_sends_its_header_byte_by_byte_gets_no_more_time(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    reader, writer = await connect()
    started = asyncio.get_running_loop().time()
    await asyncio.sleep(0.8)
    writer.write(b"GET")
    await asyncio.wait_for(reader.read(), 30)
    ended = asyncio.get_running_loop().time()
    later = await connect()
    await asyncio.wait_for(later[0].read(), 30)  # this one had a whole second, on the same machine
    assert ended - started < 0.4 + asyncio.get_running_loop().time() - ended


CLIENTS = 200


def test_many_connections_are_accepted_in_a_few_turns_of_the_event_loop() -> None:
    async def turns() -> int:
        app = application.create()
        runner = web.AppRunner(app)
        await runner.setup()
        assert runner.server is not None
        made, listener = (
            connections.Connections(runner.server, app),
            socket.create_server(("127.0.0.1", 0), backlog=512),
        )
        address = listener.getsockname()
        listening = await connections.listen(listener, made)
        with ExitStack() as stack:
            for _ in range(CLIENTS):
                stack.enter_context(socket.create_connection(address))
            found = 0
            while made.open < CLIENTS:
                await asyncio.sleep(0)
                found += 1
        listening.close()
        await runner.cleanup()
        return found

    assert uvloop.run(turns()) < CLIENTS / 4  # uvloop alone accepts one in each turn


def test_a_listen_queue_that_fills_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=32) as listener, ExitStack() as stack:
        seen = []
        for _ in range(8):
            seen.append(connections._is_filling(listener))
            stack.enter_context(socket.create_connection(listener.getsockname()))
    assert (seen[0], seen[-1]) == (False, True)
