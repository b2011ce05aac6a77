"""The cost of the gateway: orders through it against direct ones, with TLS against without, and during logins."""

import asyncio
import json
import ssl
import statistics
import urllib.request
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
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


def keys_of(auth: int) -> dict[str, str]:
    """The setting with which a service finds the keys of the tokens."""
    return {"AUTH_JWKS_URL": f"http://127.0.0.1:{auth}/auth/jwks.json"}


@contextmanager
def shop(run: servers.Servers, database: str) -> Iterator[Shop]:
    """Run orders, auth and the gateway."""
    orders, auth = ports.free_block(1), ports.free_block(1)
    environment = {"KAFKA_BOOTSTRAP_SERVERS": run.bootstrap, **keys_of(auth)}
    environment |= {"DATABASE_URL": run.service_url(database, "orders")}
    with (
        processes.running("orders", "orders", "--only", "api", port=orders, environment=environment),
        in_front(run, database, orders, auth) as made,
    ):
        yield made


@contextmanager
def in_front(run: servers.Servers, database: str, orders: int, auth: int) -> Iterator[Shop]:
    """Run auth on the port `auth`, and the gateway in front of the service on the port `orders`."""
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": run.bootstrap,
        "DATABASE_URL": run.service_url(database, "auth"),
        "ADMIN_PASSWORD": "password",
        **keys_of(auth),
    }
    addresses = dict.fromkeys(nginx.UPSTREAMS, orders) | {"auth": auth}
    values = {f"{name.upper()}_UPSTREAM": f"127.0.0.1:{port}" for name, port in addresses.items()}
    home, http = servers.FOLDER / "gateway", (ports.free_block(1), ports.free_block(1))
    engine = nginx.Gateway(home, http, values)
    gateway = Server(engine, home)
    with processes.running("auth", "auth", "--only", "api,worker", port=auth, environment=environment):
        gateway.start()
        try:
            yield Shop(orders, *http, engine.home / certificate.CERTIFICATE)
        finally:
            gateway.stop()


def token_of(port: int) -> str:
    """Log in as the administrator."""
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
        token, tls = token_of(gateway), ssl.create_default_context(cafile=made)
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
