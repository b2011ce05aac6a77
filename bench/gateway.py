"""The cost of the gateway: orders through it compared with orders sent directly, and orders during many logins."""

import asyncio
import json
import statistics
import urllib.request
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager

import uvloop

from bench import processes, report, servers
from bench.client import Connection
from bench.create import load
from bench.report import Rate
from local import nginx, ports
from local.process import Server

CLIENTS = 64
SECONDS = 4.0
WARM_SECONDS = 1.0
ROUNDS = 5
STORM = 16
ADMIN = json.dumps({"username": "admin", "password": "password"}).encode()
ORDER = json.dumps({"sku": "burger", "quantity": 2, "note": "bench"}).encode()


async def placing(port: int, token: str, name: str, seconds: float = SECONDS) -> Rate:
    """Place orders with a token. Each client sends one order at a time."""
    header = f"Authorization: Bearer {token}\r\n"
    free = [await Connection.open(port) for _ in range(CLIENTS)]

    async def call(_: int) -> None:
        connection = free.pop()
        status, answer = await connection.request("POST", "/v1/orders", ORDER, header)
        if status != 202:
            raise SystemExit(f"{name}: {status} {answer!r}")
        free.append(connection)

    await load(name, call, CLIENTS, WARM_SECONDS)
    rate = await load(name, call, CLIENTS, seconds)
    for connection in free:
        connection.close()
    return rate


async def storming(port: int, name: str, place: Awaitable[Rate]) -> tuple[Rate, int]:
    """Let clients log in without pause, with the right password, while orders are placed.

    Returns the rate of the orders and the number of successful logins.
    """
    answers: list[int] = []

    async def log_in() -> None:
        connection = await Connection.open(port)
        while True:
            status, _ = await connection.request("POST", "/auth/login", ADMIN)
            answers.append(status)

    storm = [asyncio.create_task(log_in(), name=name) for _ in range(STORM)]
    rate = await place
    for task in storm:
        task.cancel()
    await asyncio.wait(storm)
    return rate, answers.count(200)


@contextmanager
def shop(run: servers.Servers, database: str) -> Iterator[tuple[int, int]]:
    """Run orders, auth and the gateway. Yields the ports of orders and of the gateway."""
    own = {name: ports.free_block(1) for name in ("orders", "auth", "gateway")}
    common = {
        "KAFKA_BOOTSTRAP_SERVERS": run.bootstrap,
        "AUTH_JWKS_URL": f"http://127.0.0.1:{own['auth']}/auth/jwks.json",
        "ADMIN_PASSWORD": "password",
    }
    with ExitStack() as stack:
        for name in ("auth", "orders"):
            environment = common | {"DATABASE_URL": run.service_url(database, name)}
            arguments = ("--only", "api,worker" if name == "auth" else "api")
            stack.enter_context(processes.running(name, name, *arguments, port=own[name], environment=environment))
        addresses = {name: own.get(name, own["orders"]) for name in nginx.UPSTREAMS}
        values = {f"{name.upper()}_UPSTREAM": f"127.0.0.1:{port}" for name, port in addresses.items()}
        home, http = servers.FOLDER / "gateway", (own["gateway"], ports.free_block(1))
        gateway = Server(nginx.Gateway(home, http, values), home)
        gateway.start()
        stack.callback(gateway.stop)
        yield own["orders"], own["gateway"]


def _token(port: int) -> str:
    login = urllib.request.Request(f"http://127.0.0.1:{port}/auth/login", ADMIN, {"Content-Type": "application/json"})
    with urllib.request.urlopen(login, timeout=5) as answer:  # noqa: S310 - our own gateway
        token: str = json.load(answer)["token"]
        return token


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_gateway"))
    with shop(run, "bench_gateway") as (orders, gateway):
        token = _token(gateway)
        direct, behind = [], []
        for _ in range(ROUNDS):
            direct.append(uvloop.run(placing(orders, token, "directly")))
            behind.append(uvloop.run(placing(gateway, token, "through the gateway")))
        report.show(f"POST /v1/orders with a token, {CLIENTS} clients on the same two cores", *direct, *behind)
        shares = [b.per_second / d.per_second for d, b in zip(direct, behind, strict=True)]
        report.ratio("rate through the gateway / direct rate, median", statistics.median(shares), 0.7, 0.85)
        quiet = uvloop.run(placing(gateway, token, "through the gateway, no logins"))
        place = placing(gateway, token, f"through the gateway, {STORM} clients log in without pause")
        stormy, logins = uvloop.run(storming(gateway, "storm", place))
        report.show("orders while clients log in without pause", quiet, stormy)
        print(f"  successful logins in that time: {logins}")
        report.ratio("rate with logins / rate without", stormy.per_second / quiet.per_second, 0.5, 0.8)
