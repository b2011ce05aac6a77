"""A rehearsal: every secret of a whole stack is replaced, one after the other, while customers order and look."""

import asyncio
import time
from collections import Counter

import uvloop

from bench import openloop, report, servers
from bench.client import Connection
from local import rotation
from local.entry import NO_LIMITS, Entry
from local.stack import Ports, Stack

RATE, READS, SECONDS = 30, 30, 4.0
PASSWORDS = ("the password of before", "the password of after")


async def _looking(port: int, until: asyncio.Event, ends: Counter[int]) -> None:
    """Read the catalogue through the gateway at a fixed rate, each time with a new connection."""
    while not until.is_set():
        due = time.perf_counter() + 1 / READS
        connection = await Connection.open(port)
        status, _ = await connection.request("GET", "/products/")
        ends[status] += 1
        connection.close()
        await asyncio.sleep(max(0.0, due - time.perf_counter()))


async def _rotated(stack: Stack, name: str, password: str) -> int:
    """Replace one secret during the load. Returns the number of requests that failed."""
    done, looks = asyncio.Event(), Counter[int]()
    looking = asyncio.create_task(_looking(stack.ports.gateway, done, looks))
    load = asyncio.create_task(asyncio.to_thread(openloop.run, stack.ports.orders, RATE, SECONDS, follow=True))
    await asyncio.sleep(0.5)
    started = time.perf_counter()
    await asyncio.to_thread(rotation.rotate, stack, [name], password)
    seconds = time.perf_counter() - started
    found = await load
    done.set()
    await looking
    failed = found.failed + looks.total() - looks[200]
    print(
        f"  {name:<38} {seconds:5.1f} s   {found.ends.total() + looks.total():>5,} requests, {failed} failed"
        f"   slowest order {found.finished.worst:.1f} s",
        flush=True,
    )
    return failed


async def _all(stack: Stack) -> int:
    names = [*rotation.names(stack), rotation.ADMIN]
    return sum([await _rotated(stack, name, PASSWORDS[1]) for name in names])


def main(_: servers.Servers) -> None:
    entry = Entry(limits=NO_LIMITS)
    stack = Stack("rotation", servers.FOLDER / "rotation", Ports.free(), entry=entry, admin_password=PASSWORDS[0])
    stack.reset()
    stack.up()
    try:
        print(f"\nrotation: every secret, while {RATE} orders and {READS} reads a second are served")
        former = {path: path.read_text() for path in stack.secrets.glob("*/*_password")}
        failed = uvloop.run(_all(stack))
        same = [str(path) for path, text in former.items() if path.read_text() == text]
        if same:
            raise SystemExit(f"not replaced: {', '.join(same)}")
        report.audit("requests and orders that failed", failed, 0)
    finally:
        stack.reset()
