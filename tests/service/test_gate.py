"""A late process refuses whole requests from their bytes, and leaves everything else to aiohttp."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator

import pytest
import uvloop
from aiohttp import web

from shared.web import application, gate
from shared.web.admission import ADMISSION, MIN_IN_FLIGHT, Admission, Closed
from shared.web.operations import Access, operation
from tests.builders import eventually
from tests.service.raw import Connect, Streams, served

HEAD = b"\r\nHost: localhost\r\n"
POST = b"POST /work HTTP/1.1" + HEAD + b'Content-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'


@operation(Access.PUBLIC, {200: None})
async def work(request: web.Request) -> web.Response:
    """Work."""
    return web.Response(text=(await request.text()) or "done")


@operation(Access.PUBLIC, {200: None}, essential=True)
async def stop(_: web.Request) -> web.Response:
    """Stop."""
    return web.Response(text="stopped")


class Late:
    """What the admission watches: a queue that is late, or not."""

    seconds = 60.0
    next: float | None = None
    """From the second question on."""

    def __call__(self) -> float:
        now = self.seconds
        self.seconds, self.next = now if self.next is None else self.next, None
        return now


@pytest.fixture
def late() -> Late:
    return Late()


@pytest.fixture
def admission() -> Admission:
    return Admission()


@pytest.fixture
async def connect(late: Late, admission: Admission) -> AsyncIterator[Connect]:
    app = application.create()
    app[ADMISSION] = admission
    app.router.add_post("/work", work)
    app.router.add_get("/work/{id}", work)
    app.router.add_get("/work/stop", stop)
    app.router.add_post("/work/{id}/stop", stop)
    app[ADMISSION].watch("test", late)
    for _ in range(MIN_IN_FLIGHT):
        app[ADMISSION].enter()
    async with served(app) as opened:
        yield opened


async def ask(streams: Streams, *chunks: bytes) -> tuple[int, bytes, bytes]:
    """Send chunks. Returns status, head and body of one answer."""
    reader, writer = streams
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
        await asyncio.sleep(0.02)  # so that each chunk comes alone
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), head, b"" if chunks[0].startswith(b"HEAD") else await reader.readexactly(length)


async def test_a_whole_request_is_refused_and_its_connection_stays(connect: Connect, late: Late) -> None:
    one = await connect()
    for _ in range(3):
        status, head, body = await ask(one, POST)
        assert (status, b"/problems/refused" in body) == (503, True)
        assert b"\r\nRetry-After: " in head
        assert b"Connection: close" not in head  # what a handler answers to an unread body closes the connection
    late.seconds = 0.0
    assert (await ask(one, POST))[::2] == (200, b'{"a":1}')


async def test_a_request_after_answered_ones_is_refused_from_its_bytes(connect: Connect, late: Late) -> None:
    one = await connect()
    for _ in range(2):
        late.seconds = 0.0
        assert (await ask(one, POST))[::2] == (200, b'{"a":1}')
        late.seconds = 60.0
        status, head, _ = await ask(one, POST)
        assert (status, b"X-Request-Id" in head) == (503, False)


async def test_a_request_that_was_let_in_is_not_refused_later(connect: Connect, late: Late) -> None:
    late.next = 60.0
    late.seconds = 0.0
    assert (await ask(await connect(), POST))[::2] == (200, b'{"a":1}')
    assert (await ask(await connect(), POST))[0] == 503


def test_a_request_that_comes_right_after_an_answer_is_refused_from_its_bytes(late: Late, admission: Admission) -> None:
    """aiohttp waits for the next request a turn of the event loop after the answer; uvloop reads before that."""
    late.seconds = 0.0
    assert uvloop.run(_second_answer(late, admission)) == (503, False)


async def _second_answer(late: Late, admission: Admission) -> tuple[int, bool]:
    """Send two requests, the second right after the first answer. Returns its status, and if a handler answered it."""
    loop, asked = asyncio.get_running_loop(), threading.Event()

    @operation(Access.PUBLIC, {200: None})
    async def answer_then_block(_: web.Request) -> web.Response:
        """Block the loop in the same turn, after the answer is sent, until the client has asked again."""
        resumed = loop.create_future()
        loop.call_soon(resumed.set_result, None)
        loop.call_soon(loop.call_soon, asked.wait, 5.0)
        await resumed
        return web.Response(text='{"a":1}')

    def client(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(POST)
            while b'{"a":1}' not in connection.recv(1000):
                pass
            late.seconds = 60.0
            connection.sendall(POST)
            asked.set()
            return connection.recv(1000)

    app = application.create()
    app[ADMISSION] = admission
    app.router.add_post("/work", answer_then_block)
    admission.watch("test", late)
    for _ in range(MIN_IN_FLIGHT):
        admission.enter()
    async with served(app) as connect:
        port = (await connect())[1].get_extra_info("peername")[1]
        answer = await asyncio.to_thread(client, port)
    return int(answer[9:12]), b"X-Request-Id" in answer


async def test_a_closed_operation_is_refused_with_its_reason_and_no_other(
    connect: Connect, late: Late, admission: Admission
) -> None:
    late.seconds = 0.0
    one = await connect()
    admission.closed = {"POST /work": Closed("saga", "a new one would wait")}
    for _ in range(2):
        status, head, body = await ask(one, POST)
        assert (status, b"X-Request-Id" in head, b'"a new one would wait"' in body) == (503, False, True)
        assert (await ask(one, b"GET /work/1 HTTP/1.1" + HEAD + b"\r\n"))[0] == 200
    admission.closed = {}
    assert (await ask(one, POST))[0] == 200


async def test_with_parameters_too(connect: Connect) -> None:
    one = await connect()
    for path in (b"/work/17", b"/work/a-1?wait=30"):
        status, head, _ = await ask(one, b"GET " + path + b" HTTP/1.1" + HEAD + b"\r\n")
        assert (status, b"X-Request-Id" in head) == (503, False)


@pytest.mark.parametrize("line", [b"GET /work/stop", b"POST /work/17/stop", b"GET /livez", b"GET /metrics"])
async def test_what_must_be_answered_is_answered(connect: Connect, line: bytes) -> None:
    assert (await ask(await connect(), line + b" HTTP/1.1" + HEAD + b"\r\n"))[0] == 200


@pytest.mark.parametrize(
    "chunks",
    [
        (POST[:20], POST[20:]),
        (POST[:-3], POST[-3:]),
        (
            POST.replace(b"Content-Length: 7", b"Transfer-Encoding: chunked")[:-7]
            + b"7\r\n"
            + POST[-7:]
            + b"\r\n0\r\n\r\n",
        ),
        (POST.replace(b"Content-Length", b"Connection: close\r\nContent-Length"),),
        (b"HEAD /work/1 HTTP/1.1" + HEAD + b"\r\n",),
    ],
)
async def test_everything_else_is_refused_by_a_handler(connect: Connect, chunks: tuple[bytes, ...]) -> None:
    status, head, _ = await ask(await connect(), *chunks)
    assert (status, b"X-Request-Id" in head) == (503, True)


async def test_two_requests_in_one_chunk_get_two_answers(connect: Connect, late: Late) -> None:
    late.seconds = 0.0
    reader, writer = await connect()
    writer.write(POST + POST)
    for _ in range(2):
        await reader.readuntil(b'{"a":1}')


async def test_a_body_that_looks_like_a_request_is_a_body(connect: Connect, late: Late) -> None:
    late.seconds = 0.0
    one = await connect()
    one[1].write(b"POST /work HTTP/1.1" + HEAD + b"Content-Length: %d\r\n\r\n" % len(POST))
    await asyncio.sleep(0.05)  # now the request is under way
    late.seconds = 60.0
    assert (await ask(one, POST))[::2] == (200, POST)


@pytest.mark.usefixtures("late")
async def test_the_rest_of_a_header_that_looks_like_a_request_is_a_header(connect: Connect) -> None:
    status, head, _ = await ask(await connect(), b"GET /livez HTTP/1.1\r\nX-Odd: ", POST)
    assert (status, b"X-Request-Id" in head) == (200, True)


async def test_every_request_that_was_handed_on_is_taken_back(
    connect: Connect, late: Late, admission: Admission
) -> None:
    late.seconds = 0.0
    for chunk in (
        POST,
        POST.replace(b"POST /work", b"POST /no where"),
        POST.replace(b"HTTP/1.1", b"HTTP/9.9"),
        POST[:-7],
    ):
        reader, writer = await connect()
        for _ in range(3):
            writer.write(chunk)
        writer.write_eof()
        await reader.read()

    async def none_is_left() -> bool:
        return admission._handed == 0

    await eventually(none_is_left)


@pytest.mark.parametrize(
    ("data", "is_whole"),
    [
        (POST, True),
        (POST[:-1], False),
        (POST + b"x", False),
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\nGET /", False),
        (b"GET / HTTP/1.1\r\nContent-Length:\r\n 5\r\n\r\n", False),
        (b"", False),
    ],
)
def test_only_exactly_one_request_is_whole(data: bytes, is_whole: bool) -> None:
    assert gate.is_whole(data) is is_whole
