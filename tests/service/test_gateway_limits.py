"""Attacks on the gateway that once worked: on its room, its disk, its log, and on what services believe."""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from local import nginx, ports
from local.entry import Entry
from local.process import Server
from tests.builders import eventually
from tests.service.gateway import KEY, TOKEN, USER, Shop, answer_ok, bearer, opened, request, signed

pytestmark = [pytest.mark.slow, pytest.mark.asyncio]

CLIENT, OTHER, PROXY = "127.0.0.1", "127.0.0.2", "127.0.0.3"
LIMITS = Entry(limits={**Entry().limits, "CONNECTIONS": "256", "REQUESTS_AT_ONCE": "128"})
HALF = request("GET /healthz")[:-2]


# Half a header


def halves(port: int, count: int, sources: list[str]) -> list[socket.socket]:
    """Send half a header on each of many connections, whose addresses are the `sources` in turn."""
    found = []
    for number in range(count):
        found.append(socket.create_connection((ports.LOOPBACK, port), 5, (sources[number % len(sources)], 0)))
        with suppress(ConnectionError):
            found[-1].sendall(HALF)
    return found


def finish(connection: socket.socket) -> bytes:
    """Send the other half, and return the first bytes of the answer."""
    with connection, suppress(ConnectionError):
        connection.sendall(b"\r\n")
        return connection.recv(100)
    return b""


async def test_an_address_has_only_so_many_connections_with_half_a_header(tmp_path: Path) -> None:
    async with opened(tmp_path, CONNECTIONS="20") as shop:
        held = await asyncio.to_thread(halves, shop.port, 200, [OTHER])
        answers = [finish(one) for one in held]
        assert 0 < len([answer for answer in answers if answer.startswith(b"HTTP/1.1 200")]) <= 20
        assert (await shop.ask("GET /v1/orders", source=OTHER)).status == 200  # they count no longer than they live


@pytest.mark.parametrize("addresses", [1, 50])
async def test_thousands_of_half_headers_do_not_keep_others_out(tmp_path: Path, addresses: int) -> None:
    sources = [f"127.0.1.{number}" for number in range(1, addresses + 1)]
    async with opened(tmp_path, LIMITS) as shop:
        attack = asyncio.create_task(asyncio.to_thread(halves, shop.port, 6000, sources))
        statuses = []
        while not attack.done() or len(statuses) < 40:
            statuses.append((await shop.ask("GET /v1/orders", seconds=5)).status)
        for one in await attack:
            one.close()
    assert Counter(statuses) == {200: len(statuses)}


# Proxies


@asynccontextmanager
async def behind_a_proxy(root: Path, **limits: str) -> AsyncIterator[Shop]:
    async with opened(root, Entry(proxies=f"{PROXY}/32, 10.0.0.0/8"), **limits) as shop:
        yield shop


@pytest.mark.parametrize(
    ("source", "forwarded", "client"),
    [
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, "1.1.1.1, 203.0.113.9", "203.0.113.9"),
        (PROXY, "203.0.113.9, 10.1.2.3", "203.0.113.9"),
        (PROXY, "2001:db8::7", "2001:db8::7"),
        (PROXY, "unknown", PROXY),
        (CLIENT, "203.0.113.9", CLIENT),
        (CLIENT, "203.0.113.9, 10.1.2.3", CLIENT),
    ],
)
async def test_only_a_trusted_proxy_says_who_the_client_is(
    tmp_path: Path, source: str, forwarded: str, client: str
) -> None:
    async with behind_a_proxy(tmp_path) as shop:
        headers = (f"X-Forwarded-For: {forwarded}", "X-Forwarded-Proto: https", "X-Real-IP: 9.9.9.9")
        answer = await shop.ask("GET /console/", *headers, source=source)
        seen = shop.only("console")
        assert seen.all("X-Real-IP") == seen.all("X-Forwarded-For") == [client]
        assert seen.all("X-Forwarded-Proto") == ["https" if source == PROXY else "http"]
        assert (await shop.entry(answer.get("X-Request-Id")))["client"] == client


async def test_the_clients_of_a_proxy_have_their_own_limits(tmp_path: Path) -> None:
    async with behind_a_proxy(tmp_path, LOGINS_PER_SECOND="1", CONNECTIONS="4") as shop:

        async def accepted(client: str) -> int:
            asked = [shop.ask("POST /auth/login", f"X-Forwarded-For: {client}", source=PROXY) for _ in range(40)]
            return [answer.status for answer in await asyncio.gather(*asked)].count(200)

        assert 20 < await accepted("203.0.113.9") < 40
        assert await accepted("203.0.113.10") > 20
        assert await accepted("2001:db8::1") > 20
        assert await accepted("2001:db8::2") < 20  # the same client, with another of its many addresses
        assert await accepted("2001:db8:0:1::1") > 20


# What the gateway answers itself


@pytest.mark.parametrize(
    "first",
    [
        *(
            "GET /nowhere",
            "GET /",
            "GET /healthz",
            "GET /docs",
            "GET /docs/documents.json",
            "GET /docs/none",
            "GET /console",
        ),
        *(
            "POST /docs",
            "TRACE /x",
            "TRACE /console/",
            "BREW /nowhere",
            "GET /admin/x",
            "GET /%63onsole/",
            "GET /v1/orders",
        ),
    ],
)
async def test_what_the_gateway_answers_itself_is_limited_too(tmp_path: Path, first: str) -> None:
    async with opened(tmp_path, REQUESTS_PER_SECOND="5") as shop:
        answers = await shop.many(40, first, token=None)
        assert Counter(answer.status for answer in answers)[429] > 20


async def test_a_client_cannot_fill_the_log(tmp_path: Path) -> None:
    async with opened(tmp_path, REQUESTS_PER_SECOND="5") as shop:
        long = "a" * 7000
        for first in (f"GET /{long}", f"{'A' * 7000} /", f"GET /?{long}"):
            answer = await shop.ask(first, "X-Request-Id: long")
            assert answer.status in {200, 404, 405}
        await shop.many(1000, f"GET /{long}")

        async def written() -> list[str]:
            lines = shop.logged().splitlines()
            return lines if len(lines) > 3 else []

        lines = await eventually(written, seconds=5)
        assert max(map(len, lines)) < 1200
        assert len(lines) < 200


# The cache of users


def cached(shop: Shop) -> list[bytes]:
    folder = Path(shop.gateway.values["CACHE_FOLDER"])
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


async def test_no_token_can_be_read_in_the_cache(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        assert (await shop.ask("GET /v1/orders")).status == 200
        (content,) = cached(shop)
        header, claims, signature = signed("good").split(".")
        assert b"X-User-Id: 7" in content
        assert not [part for part in (header, claims, signature[43:], "Bearer") if part.encode() in content]


async def test_refused_tokens_do_not_fill_the_cache(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        tokens = [
            *(bearer(f"unknown {number}") for number in range(100)),
            *(f"Bearer {'a' * n}" for n in range(7000, 7100)),
        ]
        answers = await asyncio.gather(*(shop.ask("GET /v1/orders", token=one) for one in tokens))
        assert {answer.status for answer in answers} == {401}
        assert (len(shop.auth.validations), cached(shop)) == (100, [])


async def test_a_session_that_ended_is_refused_to_all_who_ask_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        shop.auth.sessions["leaving"] = USER
        assert (await shop.ask("GET /v1/orders", token=bearer("leaving"))).status == 200
        del shop.auth.sessions["leaving"]

        async def refused() -> bool:
            return (await shop.ask("GET /v1/orders", token=bearer("leaving"))).status == 401

        await eventually(refused, seconds=5)
        for _ in range(4):
            await asyncio.sleep(0.6)  # longer than a refusal is kept, so that auth is asked again
            answers = await shop.many(50, "GET /v1/orders", token=bearer("leaving"))
            assert Counter(answer.status for answer in answers) == {401: 50}


# Answers that a client puts together


@pytest.mark.parametrize(
    "path", ["/orders%0a", "/v1/orders%0a", "/docs%0a", "/console%0a", "/%0a", "/openapi/orders.json%0a", "/healthz%0a"]
)
async def test_a_line_feed_in_a_path_is_in_no_answer(tmp_path: Path, path: str) -> None:
    async with opened(tmp_path) as shop:
        for end in ("", "X-Evil:%201", "?%0aX-Evil:%201"):
            answer = await shop.ask(f"GET {path}{end}")
            assert (answer.status, answer.get("X-Evil"), answer.get("Location")) == (404, "", "")
        assert shop.seen == {}


# The process


async def test_the_gateway_does_not_run_as_root(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        process = psutil.Process(shop.server.pid)
        assert process.name() == "nginx"
        assert 0 not in process.uids() or os.geteuid() != 0
        assert [child.name() for child in process.children()] == []
        private = [path for path in shop.gateway.home.iterdir() if path.suffix == ".pem"]
        assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
        assert shop.gateway.home.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may use low ports")
async def test_root_can_give_the_gateway_a_low_port(tmp_path: Path) -> None:
    low = next((port for port in range(900, 1000) if ports.is_free(port) and ports.is_free(port + 1)), 0)
    gateway = nginx.Gateway(
        tmp_path, (low, low + 1), {f"{name.upper()}_UPSTREAM": "127.0.0.1:1" for name in nginx.UPSTREAMS}
    )
    server = Server(gateway, tmp_path)
    try:
        server.start()
    finally:
        server.stop()
        gateway.remove()


async def test_a_killed_gateway_starts_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        shop.server.kill()
        shop.server.start()
        assert (await shop.ask("GET /v1/orders", token=TOKEN)).status == 200


# The port of orders that needs no token


@asynccontextmanager
async def with_loopback(root: Path) -> AsyncIterator[tuple[Shop, Shop]]:
    """The gateway as in Docker: the second shop is the port on loopback."""
    template = (nginx.TEMPLATE.parent / "loopback.conf").read_text()
    port = ports.free_block(1)
    own = {"LISTEN_LOOPBACK": str(port), "MACHINE": CLIENT, "LOOPBACK_SECRET": "s3cret"}
    async with opened(root) as shop:
        shop.server.stop()
        (shop.gateway.home / "loopback.conf").write_text(nginx.fill_in(template, {**shop.gateway.values, **own}))
        shop.server.start()
        yield shop, Shop(port, shop.server, shop.upstreams, shop.gateway)


async def test_only_the_port_on_loopback_adds_the_secret(tmp_path: Path) -> None:
    async with with_loopback(tmp_path) as (shop, loopback):
        for one, given in ((loopback, ["s3cret"]), (shop, [])):
            answer = await one.ask("POST /v1/orders?a=b", "X-Loopback-Secret: guess", "Origin: http://shop", body=b"x")
            assert answer.status == 200
            seen = shop.orders.seen.pop()
            assert (seen.all("X-Loopback-Secret"), seen.path, seen.body) == (given, "/v1/orders?a=b", b"x")
            assert seen.all("Host") == (["shop"] if one is loopback else ["orders"])


async def test_other_machines_do_not_reach_the_port_on_loopback(tmp_path: Path) -> None:
    async with with_loopback(tmp_path) as (shop, loopback):
        assert (await loopback.ask("GET /v1/orders", token=None)).status == 200
        refused = await loopback.ask("GET /v1/orders", token=None, source=OTHER)
        assert (refused.status, refused.problem) == (404, "not-found")
        assert len(shop.orders.seen) == 1


# More than the service should have at the same time


PLACE, WAIT = "POST /v1/orders", "GET /v1/orders/1?wait=30"
PLACED, WAITING = 6, 4


@asynccontextmanager
async def narrow(root: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    """A gateway that lets the service have only six new orders, and four requests that wait, at the same time."""
    template = nginx.TEMPLATE.read_text()
    for connections, fewer in (("256", "3"), ("2500", "2")):
        wanted = f"max_conns={connections} "
        assert template.count(wanted) == 2
        template = template.replace(wanted, f"max_conns={fewer} ")
    (root / "template").write_text(template)
    monkeypatch.setattr(nginx, "TEMPLATE", root / "template")
    async with opened(root) as shop:
        yield shop


@pytest.mark.parametrize(
    ("one", "headers", "most"),
    [
        (PLACE, (), PLACED),
        (PLACE, (KEY,), PLACED),
        ("POST /orders/", (), PLACED),
        (WAIT, (), WAITING),
        ("GET /orders/1/?x=1&wait=1", (), WAITING),
    ],
)
async def test_the_gateway_itself_refuses_more_than_the_service_should_have_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, headers: tuple[str, ...], most: int
) -> None:
    freed = asyncio.Event()

    async def wait(_: web.BaseRequest) -> web.StreamResponse:
        await freed.wait()
        return web.Response(status=202)

    async with narrow(tmp_path, monkeypatch) as shop:

        async def all_are_there() -> bool:
            return len(shop.orders.seen) == most

        shop.orders.handler = wait
        asyncio.get_running_loop().call_later(10, freed.set)  # whatever happens
        first = asyncio.create_task(shop.many(most, one, *headers))
        await eventually(all_are_there)
        refused = await shop.many(40, one, *headers)
        assert {(answer.status, answer.problem) for answer in refused} == {(503, "refused")}
        assert {answer.get("Retry-After") for answer in refused} == {"1", "2", "3"}
        assert await all_are_there()
        shop.orders.handler = answer_ok
        for other in (
            WAIT if most == PLACED else PLACE,
            "POST /v1/orders/1/cancel",
            "GET /v1/orders/1",
            "GET /v1/orders",
        ):
            assert (await shop.ask(other)).status == 200, other
        freed.set()
        assert {answer.status for answer in await first} == {202}
        assert (await shop.ask(one, *headers)).status == 200
        assert {seen.all("Host")[0] for seen in shop.orders.seen} == {"orders"}
