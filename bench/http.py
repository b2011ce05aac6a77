"""POST /v1/orders: the orders service compared with a transaction per request, and with a bare INSERT."""

import asyncio
import json
from itertools import count

import asyncpg
import uvloop

from bench import processes, report, servers
from bench.client import Connection
from bench.create import load
from bench.report import Rate
from local import ports

CLIENTS = 64
SECONDS = 6.0
WARM_SECONDS = 1.0


async def measure(name: str, port: int) -> tuple[Rate, int]:
    """Put load on one server. Returns the rate, and the number of all answers, including the warm-up."""
    connections = [await Connection.open(port) for _ in range(CLIENTS)]
    free = list(connections)
    answered = count()
    body = json.dumps({"userId": "u1", "sku": "burger", "quantity": 2, "note": "bench"}).encode()

    async def call(_: int) -> None:
        connection = free.pop()
        status, answer = await connection.request("POST", "/v1/orders", body)
        if status != 202:
            raise SystemExit(f"{name}: {status} {answer!r}")
        next(answered)
        free.append(connection)

    await load(name, call, CLIENTS, WARM_SECONDS)
    rate = await load(name, call, CLIENTS, SECONDS)
    for connection in connections:
        connection.close()
    return rate, next(answered)


async def _orders(url: str) -> int:
    conn = await asyncpg.connect(url)
    found: int = await conn.fetchval("select count(*) from orders")
    await conn.close()
    return found


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_http"))
    url = run.service_url("bench_http", "orders")
    environment = {
        "DATABASE_URL": url,
        "KAFKA_BOOTSTRAP_SERVERS": run.bootstrap,
        "POOL_SIZE": "16",
        "REQUIRE_TOKEN": "false",
    }
    rivals = {
        "group commit (the orders service)": ("orders", ["--only", "api"]),
        "a transaction per request (the same app)": ("bench.rivals", ["singly", "--only", "api"]),
        "one bare INSERT per request, no event": ("bench.rivals", ["minimal"]),
    }
    rates, answered = [], 0
    for name, (module, arguments) in rivals.items():
        port = ports.free_block(1)
        with processes.running("http", module, *arguments, port=port, environment=environment) as process:
            before = processes.cpu_seconds(process)
            rate, done = uvloop.run(measure(name, port))
            cpu = (processes.cpu_seconds(process) - before) * rate.count / done
            rates.append(Rate(rate.name, rate.count, rate.seconds, rate.latencies, cpu))
            answered += done
    report.show(f"POST /v1/orders, {CLIENTS} clients on the same two cores", *rates)
    report.ratio("compared with a transaction per request", rates[0].per_second / rates[1].per_second, 2.5, 4)
    report.ratio("compared with a bare INSERT", rates[0].per_second / rates[2].per_second, 1, 2)
    report.audit("answers of 202 = orders", answered, asyncio.run(_orders(url)))
