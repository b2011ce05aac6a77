"""Whole sagas a second: place orders over HTTP as fast as possible, until the last is CONFIRMED, all on two cores."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from bench import report, servers, shop
from bench.client import Connection
from bench.report import Rate

ORDERS = 40_000
WARM_UP = 500
CLIENTS = 64
LIMIT_SECONDS = 55.0  # below the orders' deadline


async def place(ports: Sequence[int], orders: int, clients: int) -> None:
    """Place `orders` orders. Each client sends one order at a time, always to the same port."""
    left = iter(range(orders))

    async def client(port: int) -> None:
        connection = await Connection.open(port)
        for number in left:
            order = {"userId": f"u{number % 1000}", "sku": ("burger", "pizza", "fries")[number % 3], "quantity": 1}
            status, answer = await connection.request("POST", "/v1/orders", json.dumps(order).encode())
            if status != 202:
                raise SystemExit(f"{status} {answer!r}")
        connection.close()

    await asyncio.gather(*[client(ports[n % len(ports)]) for n in range(clients)])


async def all_final(made: shop.Shop, orders: int) -> dict[str, int]:
    """Wait until no order is PENDING. Exits after `LIMIT_SECONDS`."""
    until = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < until:
        found = await made.counts()
        if found.get("PENDING", 0) == 0 and sum(found.get(s, 0) for s in ("CONFIRMED", "CANCELLED")) == orders:
            return found
        await asyncio.sleep(0.1)
    raise SystemExit(f"not all orders are final: {await made.counts()}")


@dataclass(frozen=True)
class Sagas:
    """How long it took to accept the orders and to finish them, the CPU seconds of each process, and the counts."""

    accepted_seconds: float
    seconds: float
    cpu: Counter[str]
    found: dict[str, int]


async def finish(made: shop.Shop, orders: int) -> Sagas:
    """Place orders as fast as possible, until the last is CONFIRMED. A few come before, to warm up."""
    await place(made.ports, WARM_UP, 8)
    await all_final(made, WARM_UP)
    before, started = made.cpu(), time.perf_counter()
    await place(made.ports, orders, CLIENTS)
    accepted = time.perf_counter() - started
    found = await all_final(made, orders + WARM_UP)
    done = Sagas(accepted, time.perf_counter() - started, made.cpu() - before, found)
    report.audit("orders = CONFIRMED", orders + WARM_UP, found["CONFIRMED"])
    return done


async def _measure(made: shop.Shop) -> None:
    done = await finish(made, ORDERS)
    used, found = done.cpu, done.found
    rate = Rate("whole sagas, HTTP to CONFIRMED", ORDERS, done.seconds)
    accepted = Rate("orders accepted", ORDERS, done.accepted_seconds)
    report.show("saga: everything on the same two cores, generator included", accepted, rate)
    report.ratio("whole sagas, thousands a second", rate.per_second / 1000, 2.5, 6)
    report.most(
        "CPU of services, Postgres and Kafka per order, at saturation", used.total() / ORDERS * 1e6, "us", 800, 400
    )
    print("  by process:", ", ".join(f"{name} {seconds / ORDERS * 1e6:.0f} us" for name, seconds in used.items()))
    # OrderCreated, OrderConfirmed; InventoryReserved; PaymentSucceeded
    report.audit(
        "outbox rows by service", 2 * (ORDERS + WARM_UP), found["orders"], 2 * found["inventory"], 2 * found["payments"]
    )


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_saga"))
    with shop.running(run, "bench_saga") as made:
        uvloop.run(_measure(made))
