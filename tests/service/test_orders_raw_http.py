"""Bytes that no well-behaved client sends: the orders service answers in time or disconnects, and keeps working."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from shared import metrics
from tests.builders import eventually
from tests.lag import Lag

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = json.dumps({"userId": "u1", "sku": "burger", "quantity": 2, "note": "x"}).encode()
ANSWER_SECONDS = 3.1


def request(*headers: str, body: bytes = BODY, first: str = "POST /v1/orders HTTP/1.1") -> bytes:
    return (
        "\r\n".join([first, "Host: localhost", "Content-Type: application/json", *headers, "", ""]).encode("latin-1")
        + body
    )


def sized(body: bytes = BODY) -> str:
    return f"Content-Length: {len(body)}"


async def exchange(client: Any, *pieces: bytes, pause: float = 0.0, eof: bool = False) -> bytes:
    """Send the pieces; return everything until an answer is complete or the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if eof:
            with suppress(OSError):  # the server has closed the connection already; its answer may still be there
                writer.write_eof()
        return await _answer(reader)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(30):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            return head + await reader.readexactly(int(length.split(b":")[1]))
        except asyncio.IncompleteReadError as error:
            return error.partial


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def answers_of_5xx() -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.REQUESTS.collect()
        for sample in family.samples
        if sample.name.endswith("_count") and sample.labels["http_response_status_code"].startswith("5")
    }


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def unharmed(orders_for_all: Any) -> AsyncIterator[None]:
    """After every test, a good order is accepted at once, and no answer was a 5xx."""
    before = answers_of_5xx()
    yield
    async with asyncio.timeout(1):
        assert (await orders_for_all.post("/v1/orders", data=BODY)).status == 202
    assert answers_of_5xx() == before


BROKEN = {
    "no request at all": b"\r\n\r\n\r\n\r\nx",
    "garbage": bytes(range(1, 256)) * 3,
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /v1/orders/1\r\n\r\n",
    "HTTP/3.0": request(sized(), first="POST /v1/orders HTTP/3.0"),
    "negative length": request("Content-Length: -1"),
    "length of text": request("Content-Length: abc"),
    "length of 2^70": request(f"Content-Length: {2**70}"),
    "length with a sign": request("Content-Length: +61"),
    "two lengths": request(sized(), "Content-Length: 1"),
    "length and chunks": request(sized(), "Transfer-Encoding: chunked"),
    "chunks and length": request("Transfer-Encoding: chunked", sized(), body=b"3\r\nabc\r\n0\r\n\r\n"),
    "unknown transfer encoding": request("Transfer-Encoding: x"),
    "chunked twice": request("Transfer-Encoding: chunked, chunked"),
    "bad chunk size": request("Transfer-Encoding: chunked", body=b"zz\r\nabc\r\n0\r\n\r\n"),
    "huge chunk size": request("Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\nabc"),
    "space before colon": request("Content-Length : 61"),
    "folded header": request("X-A: 1\r\n  2", "Bad\x00Header: 1"),
    "header without colon": request("nonsense"),
    "NUL in a header": request("X-A: a\x00b", sized()),
    "long header": request("X-A: " + "a" * 100_000, sized()),
    "long path": request(sized(), first="POST /" + "a" * 100_000 + " HTTP/1.1"),
    "1,000 long headers": request(*(f"X-{n}: {'a' * 8000}" for n in range(1000)), sized()),
    "a made-up verb": request(sized(), first="BREW /v1/orders HTTP/1.1"),
    "a verb in small letters": request(sized(), first="post /v1/orders HTTP/1.1"),
    "a verb of NULs": request(sized(), first="\0\0 /v1/orders HTTP/1.1"),
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_invalid_http_gets_a_4xx_or_a_closed_connection(orders_for_all: Any, sent: bytes) -> None:
    answer = await exchange(orders_for_all, sent, eof=True)
    assert answer == b"" or 400 <= status(answer) < 500


ODD = {
    "chunks": request("Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "a byte a chunk": request(
        "Transfer-Encoding: chunked", body=b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    ),
    "HTTP/1.0": request(sized(), first="POST /v1/orders HTTP/1.0"),
    "an absolute address": request(sized(), first="POST http://x/v1/orders HTTP/1.1"),
    "1,000 headers": request(*(f"X-{n}: a" for n in range(100)), sized()),
    "gzip": request(sized(gzip.compress(BODY)), "Content-Encoding: gzip", body=gzip.compress(BODY)),
    "high bytes in a header": request("X-A: \xff\xfe", sized()),
    "upgrade": request("Connection: upgrade", "Upgrade: websocket", sized()),
}


@pytest.mark.parametrize("sent", ODD.values(), ids=ODD)
async def test_unusual_but_valid_http_is_served(orders_for_all: Any, sent: bytes) -> None:
    assert status(await exchange(orders_for_all, sent)) == 202


async def test_two_authorization_headers_are_refused(orders_for_all: Any) -> None:
    sent = request("Authorization: Bearer a", "Authorization: Bearer b", sized())
    assert status(await exchange(orders_for_all, sent)) == 401


async def test_a_thousand_headers_are_read_or_refused(orders_for_all: Any) -> None:
    answer = await exchange(orders_for_all, request(*(f"X-{n}: a" for n in range(1000)), sized()))
    assert status(answer) in {202, 400, 431}


BAD_BODIES = {
    "no body": (request(sized(b""), body=b""), 400),
    "no length": (request(body=b""), 400),
    "length too small": (request("Content-Length: 5"), 400),
    "length a byte too small": (request(sized()) + b"x", 400),
    "impossible expectation": (request(sized(), "Expect: x"), 417),
    "not gzip at all": (request(sized(), "Content-Encoding: gzip"), 400),
    "cut gzip": (
        request(sized(gzip.compress(BODY)[:-12]), "Content-Encoding: gzip", body=gzip.compress(BODY)[:-12]),
        400,
    ),
    "not deflate at all": (request(sized(), "Content-Encoding: deflate"), 400),
    "unknown encoding": (request(sized(), "Content-Encoding: x"), 202),
    "100 KB said": (request("Content-Length: 100000", body=b" " * 100_000), 413),
}


@pytest.mark.parametrize(("sent", "expected"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_never_causes_a_server_error(orders_for_all: Any, sent: bytes, expected: int) -> None:
    assert status(await exchange(orders_for_all, sent)) == expected


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_cannot_be_decompressed_closes_its_connection(orders_for_all: Any, encoding: str) -> None:
    answer = await exchange(orders_for_all, request(sized(), f"Content-Encoding: {encoding}"))
    assert status(answer) == 400
    assert b"connection: close" in answer.lower()  # otherwise a gateway would send the request of another client on it


@pytest.mark.parametrize("layers", [1, 2])
async def test_a_gzip_bomb_is_not_decompressed_completely(orders_for_all: Any, layers: int) -> None:
    bomb = bytes(100_000_000)
    for _ in range(layers):
        bomb = gzip.compress(bomb, 6)
    encoding = ", ".join(["gzip"] * layers)
    used = time.process_time()
    answer = await exchange(orders_for_all, request(sized(bomb), f"Content-Encoding: {encoding}", body=bomb))
    assert status(answer) in {400, 413}
    assert time.process_time() - used < 0.5  # to decompress it all takes more CPU


@pytest.mark.parametrize("query", ["userId=\xff\xfe", "sku=\xed\xa0\x80", "status=\xff", "cursor=\xff", "limit=\xb2"])
async def test_invalid_utf8_in_a_query_never_causes_a_server_error(orders_for_all: Any, query: str) -> None:
    answer = await exchange(orders_for_all, request(first=f"GET /v1/orders?{query} HTTP/1.1", body=b""))
    assert status(answer) in {200, 400}


@pytest.mark.parametrize("path", ["/v1/orders/\xff", "/v1/orders/1?wait=\xff", "/\xff", "/v1/orders/\xed\xa0\x80"])
async def test_invalid_utf8_in_a_path_is_a_client_error(orders_for_all: Any, path: str) -> None:
    answer = await exchange(orders_for_all, request(first=f"GET {path} HTTP/1.1", body=b""))
    assert status(answer) in {400, 404}


async def test_a_client_that_disconnects_at_any_byte_does_no_harm(orders_for_all: Any) -> None:
    whole = request(sized(), "Idempotency-Key: hangs-up")

    async def hang_up(after: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", orders_for_all.port)
        writer.write(whole[:after])
        await writer.drain()
        if after % 2:
            writer.transport.abort()
        writer.close()

    for start in range(0, len(whole), 16):
        await asyncio.gather(*(hang_up(n) for n in range(start, min(start + 16, len(whole) + 1))))
    answer = await exchange(orders_for_all, whole)
    assert status(answer) == 202


async def test_an_order_is_placed_even_if_its_client_disconnects(orders_for_all: Any) -> None:
    before = await (await orders_for_all.get("/v1/orders?userId=gone")).json()
    assert before["orders"] == []
    sent = json.dumps({"userId": "gone", "sku": "burger", "quantity": 1}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", orders_for_all.port)
    writer.write(request(sized(sent), body=sent))
    await writer.drain()
    writer.transport.abort()

    async def placed() -> bool:
        return len((await (await orders_for_all.get("/v1/orders?userId=gone")).json())["orders"]) == 1

    await eventually(placed)


async def test_slow_bodies_of_every_kind_are_answered_in_time_and_place_nothing(orders_for_all: Any, lag: Lag) -> None:
    head = request(sized(), body=b"")
    chunked = request("Transfer-Encoding: chunked", body=b"")
    slow = {
        "never a byte": exchange(orders_for_all, head),
        "stops in the middle": exchange(orders_for_all, head + BODY[:-1]),
        "a byte at a time": exchange(orders_for_all, head, *(bytes([b]) for b in BODY[:28]), pause=0.1),
        "a chunk that never ends": exchange(orders_for_all, chunked + b"ffff\r\n{"),
        "chunks without end": exchange(orders_for_all, chunked, *(b"1\r\n \r\n" for _ in range(28)), pause=0.1),
    }
    started = time.monotonic()
    answers = dict(zip(slow, await asyncio.gather(*slow.values()), strict=True))
    assert lag.elapsed(started) < 2 * ANSWER_SECONDS
    assert {name: status(answer) for name, answer in answers.items()} == dict.fromkeys(slow, 400)


async def test_pipelined_requests_are_answered_in_order(orders_for_all: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", orders_for_all.port)
    writer.write(request(sized()) * 5 + request(body=b"", first="GET /v1/orders/x HTTP/1.1"))
    await writer.drain()
    assert [status(await _answer(reader)) for _ in range(6)] == [202] * 5 + [400]
    writer.close()


async def test_a_client_that_disconnects_within_its_body_is_counted_as_a_client_error(orders_for_all: Any) -> None:
    before = metrics.REQUESTS.labels("/v1/orders", "POST", 400)._sum.get()
    _, writer = await asyncio.open_connection("127.0.0.1", orders_for_all.port)
    writer.write(request(sized())[:-1])
    await writer.drain()
    await asyncio.sleep(0)
    writer.transport.abort()

    async def answered() -> bool:
        return bool(metrics.REQUESTS.labels("/v1/orders", "POST", 400)._sum.get() > before)

    await eventually(answered, seconds=2)
