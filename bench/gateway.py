"""The cost of the gateway: orders through it against direct ones, with TLS against without, and during logins."""

import asyncio
import json
import ssl
import statistics
import urllib.request
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import processes, report, servers
from bench.client import Connection
from bench.create import load
from bench.report import Rate
from local import certificate, nginx, ports
from local.process import Server

CLIENTS = 64
SECONDS = 4.0
WARM_SECONDS = 1.0
ROUNDS = 5
STORM = 16
ADMIN = json.dumps({"username": "admin", "password": "password"}).encode()
ORDER = json.dumps({"sku": "burger", "quantity": 2, "note": "bench"}).encode()


async def placing(port: int, token: str, name: str, tls: ssl.SSLContext | None = None) -> Rate:
    """Place orders with a token. Each client sends one order at a time."""
    header = f"Authorization: Bearer {token}\r\n"
    free = [await Connection.open(port, tls) for _ in range(CLIENTS)]

    async def call(_: int) -> None:
        connection = free.pop()
        status, answer = await connection.request("POST", "/v1/orders", ORDER, header)
        if status != 202:
            raise SystemExit(f"{name}: {status} {answer!r}")
        free.append(connection)

    await load(name, call, CLIENTS, WARM_SECONDS)
    rate = await load(name, call, CLIENTS, SECONDS)
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


class Shop(NamedTuple):
    """The ports of orders and of the gateway, and the certificate that the gateway has made."""

    orders: int
    gateway: int
    gateway_tls: int
    certificate: Path


@contextmanager
def shop(run: servers.Servers, database: str) -> Iterator[Shop]:
    """Run orders, auth and the gateway."""
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
        engine = nginx.Gateway(home, http, values)
        gateway = Server(engine, home)
        gateway.start()
        stack.callback(gateway.stop)
        yield Shop(own["orders"], *http, engine.home / certificate.CERTIFICATE)


def _token(port: int) -> str:
    login = urllib.request.Request(f"http://127.0.0.1:{port}/auth/login", ADMIN, {"Content-Type": "application/json"})
    with urllib.request.urlopen(login, timeout=5) as answer:  # noqa: S310 - our own gateway
        token: str = json.load(answer)["token"]
        return token


def _share(rates: list[Rate], others: list[Rate]) -> float:
    """The median of the ratios, each of two rates of the same round."""
    return statistics.median(a.per_second / b.per_second for a, b in zip(rates, others, strict=True))


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_gateway"))
    with shop(run, "bench_gateway") as (orders, gateway, gateway_tls, made):
        token, tls = _token(gateway), ssl.create_default_context(cafile=made)
        direct, behind, encrypted = [], [], []
        for _ in range(ROUNDS):
            direct.append(uvloop.run(placing(orders, token, "directly")))
            behind.append(uvloop.run(placing(gateway, token, "through the gateway")))
            encrypted.append(uvloop.run(placing(gateway_tls, token, "through the gateway, with TLS", tls)))
        title = f"POST /v1/orders with a token, {CLIENTS} clients on the same two cores"
        report.show(title, *direct, *behind, *encrypted)
        report.ratio("rate through the gateway / direct rate, median", _share(behind, direct), 0.7, 0.85)
        report.ratio("rate with TLS / rate without, median", _share(encrypted, behind), 0.8, 0.9)
        quiet = uvloop.run(placing(gateway, token, "through the gateway, no logins"))
        place = placing(gateway, token, f"through the gateway, {STORM} clients log in without pause")
        stormy, logins = uvloop.run(storming(gateway, "storm", place))
        report.show("orders while clients log in without pause", quiet, stormy)
        print(f"  successful logins in that time: {logins}")
        report.ratio("rate with logins / rate without", stormy.per_second / quiet.per_second, 0.5, 0.8)
