"""The proxy of the benchmark of delays: every byte arrives in order, and not before its time."""

import asyncio
import time
from contextlib import suppress

import pytest

from bench import proxy
from local import ports


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("delay", [0.0, 0.005])
async def test_all_bytes_arrive_in_order_after_the_delay(delay: float) -> None:
    ended = asyncio.Event()

    async def reverse_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line[-2::-1] + b"\n")
        await closed(writer)
        ended.set()

    target, port = ports.free_block(1), ports.free_block(1)
    async with await asyncio.start_server(reverse_lines, ports.LOOPBACK, target):
        server = await proxy.serve(port, target, proxy.Delay(delay))
        reader, writer = await asyncio.open_connection(ports.LOOPBACK, port)
        sent = [f"{n:06}".encode() for n in range(2000)]
        started = time.monotonic()
        for line in sent:
            writer.write(line + b"\n")
            await asyncio.sleep(0)
        received = [await reader.readline() for _ in sent]
        took = time.monotonic() - started
        await closed(writer)
        async with asyncio.timeout(20):
            await ended.wait()  # the end of the connection passes too
        server.close()
    assert received == [line[::-1] + b"\n" for line in sent]
    assert took >= 2 * delay


async def test_a_client_of_a_server_that_is_away_is_disconnected() -> None:
    port = ports.free_block(1)
    server = await proxy.serve(port, ports.free_block(1), proxy.Delay())
    reader, writer = await asyncio.open_connection(ports.LOOPBACK, port)
    assert await reader.read() == b""
    await closed(writer)
    server.close()


async def test_a_shorter_delay_overtakes_nothing() -> None:
    delay, target, port = proxy.Delay(0.05), ports.free_block(1), ports.free_block(1)
    received = asyncio.get_running_loop().create_future()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.readexactly(10))
        await closed(writer)

    async with await asyncio.start_server(read, ports.LOOPBACK, target):
        server = await proxy.serve(port, target, delay)
        _, writer = await asyncio.open_connection(ports.LOOPBACK, port)
        for n in range(10):
            delay.seconds = max(0.0, 0.05 - n * 0.01)
            writer.write(b"%d" % n)
            await asyncio.sleep(0.002)
        async with asyncio.timeout(20):
            assert await received == b"0123456789"
        await closed(writer)
        server.close()
