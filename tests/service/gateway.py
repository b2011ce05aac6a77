"""A gateway for tests: a real nginx in front of fake services, which record the requests that reach them."""

import asyncio
import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from local import nginx, ports
from local.entry import ONLY_HERE, Entry
from local.process import Server
from shared.errors import Unauthenticated
from shared.web import operations, problems
from tests.builders import eventually

SERVICE_SECONDS = 2.8  # as in shared/web/deadline.py


def signed(name: str) -> str:
    """A token in the form of those that auth signs. Only the fake of auth knows its name."""
    return f"eyJhbGciOiJFZERTQSJ9.{encoded(name.encode())}.{encoded(hashlib.sha512(name.encode()).digest())}"


def encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")


def name_of(sent: str) -> str:
    """The name of a token. Raises `KeyError` if nobody signed it."""
    name = urlsafe_b64decode(sent.split(".")[1] + "==").decode()
    if sent != signed(name):
        raise KeyError(sent)
    return name


def bearer(name: str) -> str:
    return f"Bearer {signed(name)}"


TOKEN = bearer("good")
KEY = "Idempotency-Key: k"
USER = {"X-User-Id": "7", "X-User-Roles": "user"}


@dataclass(frozen=True)
class Seen:
    """A request as a service received it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    async def of(cls, request: web.BaseRequest) -> "Seen":
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in request.raw_headers]
        return cls(request.method, request.raw_path, headers, await request.read())

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def answer_ok(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="ok")


class Upstream:
    """A fake service that records its requests and answers with `handler`."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self.seen: list[Seen] = []
        self.unread = 0
        self.reads = True
        self.handler: Handler = answer_ok
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, ports.LOOPBACK, self.port, backlog=1024).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
        self._runner = None

    async def reset(self) -> None:
        self.seen, self.unread, self.reads, self.handler = [], 0, True, answer_ok
        if not self._runner:
            await self.start()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            async with asyncio.timeout(SERVICE_SECONDS if self.reads else 0):
                self.seen.append(await Seen.of(request))
        except (TimeoutError, ConnectionError, web.RequestPayloadError):
            self.unread += 1
            return problems.response("invalid", "no body")
        return await self.handler(request)


class Auth(Upstream):
    """A fake of auth: `sessions` has the headers of the users of valid tokens, by the names of the tokens."""

    def __init__(self, port: int) -> None:
        super().__init__("auth", port)
        self.validations: list[Seen] = []
        self.sessions: dict[str, dict[str, str]] = {}
        self.hang: asyncio.Event | None = None

    async def reset(self) -> None:
        await super().reset()
        self.validations, self.sessions, self.hang = [], {"good": USER}, None

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path != "/auth/validate":
            return await super()._serve(request)
        self.validations.append(await Seen.of(request))
        if self.hang:
            await self.hang.wait()
        try:
            sent = operations.bearer(request.headers.getall("Authorization", []))
            headers = self.sessions[name_of(sent)] | {"Cache-Control": "no-store"}
            return web.Response(status=204, headers=headers)
        except (Unauthenticated, KeyError):
            return problems.response("unauthenticated", "no such token")


@dataclass(frozen=True)
class Answer:
    """A complete answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> "Answer":
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return cls(int(first.split(" ")[1]), headers, body, raw)

    def get(self, name: str) -> str:
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, (name, values)
        return values[0] if values else ""

    @property
    def problem(self) -> str:
        assert self.get("content-type") == "application/problem+json", self.raw
        found = json.loads(self.body)
        assert found["status"] == self.status
        return str(found["type"]).removeprefix(problems.PATH)


def request(first: str, *headers: str, body: bytes = b"", token: str | None = TOKEN, close: bool = True) -> bytes:
    """A request as bytes; a length of the body must be in `headers`."""
    lines = [f"{first} HTTP/1.1" if "HTTP/" not in first else first, "Host: shop"]
    if token is not None:
        lines.append(f"Authorization: {token}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def sized(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


@dataclass
class Shop:
    """A gateway and the fake services behind it."""

    port: int
    server: Server
    upstreams: dict[str, Upstream]
    gateway: nginx.Gateway

    @property
    def auth(self) -> Auth:
        auth = self.upstreams["auth"]
        assert isinstance(auth, Auth)
        return auth

    @property
    def orders(self) -> Upstream:
        return self.upstreams["orders"]

    @property
    def seen(self) -> dict[str, list[Seen]]:
        """The requests that reached services, by service, without the validations of tokens."""
        return {name: upstream.seen for name, upstream in self.upstreams.items() if upstream.seen}

    def only(self, service: str) -> Seen:
        """The only request that reached any service."""
        assert {name: len(seen) for name, seen in self.seen.items()} == {service: 1}
        return self.upstreams[service].seen[0]

    async def raw(self, *pieces: bytes, pause: float = 0.0, source: str = ports.LOOPBACK, seconds: float = 15) -> bytes:
        """Send the pieces; return everything that is received until the connection ends."""
        reader, writer = await asyncio.open_connection(ports.LOOPBACK, self.port, local_addr=(source, 0))
        got = bytearray()

        async def receive() -> None:
            try:
                while data := await reader.read(65536):
                    got.extend(data)
            except ConnectionError:
                pass

        try:
            async with asyncio.timeout(seconds):
                receiving = asyncio.create_task(receive())
                try:
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                        if pause:
                            await asyncio.wait([receiving], timeout=pause)
                        if receiving.done():
                            break
                except ConnectionError:
                    pass
                await receiving
        finally:
            writer.close()
        return bytes(got)

    async def send(self, *pieces: bytes, **how: Any) -> Answer:
        """Send one request, which must ask to close the connection."""
        return Answer.of(await self.raw(*pieces, **how))

    async def ask(self, first: str, *headers: str, body: bytes = b"", token: str | None = TOKEN, **how: Any) -> Answer:
        """Send a well-formed request."""
        lengths = [sized(body)] if body else []
        return await self.send(request(first, *headers, *lengths, body=body, token=token), **how)

    async def many(self, count: int, first: str, *headers: str, **how: Any) -> list[Answer]:
        """Send the request `count` times at once."""
        return await asyncio.gather(*(self.ask(first, *headers, **how) for _ in range(count)))

    def logged(self) -> str:
        return self.server.log.read_text()

    async def entry(self, request_id: str) -> dict[str, Any]:
        """The line of the access log about a request. It is written within a second."""

        async def found() -> list[Any]:
            lines = [json.loads(line) for line in self.logged().splitlines() if line.startswith("{")]
            return [line for line in lines if line["request_id"] == request_id]

        (entry,) = await eventually(found, seconds=5)
        return dict(entry)


@asynccontextmanager
async def opened(root: Path, entry: Entry = ONLY_HERE, **values: str) -> AsyncIterator[Shop]:
    first = ports.free_block(2 + len(nginx.UPSTREAMS))
    where = dict(zip(nginx.UPSTREAMS, range(first + 2, first + 11), strict=False))
    upstreams = {name: Auth(port) if name == "auth" else Upstream(name, port) for name, port in where.items()}
    addresses = {f"{name.upper()}_UPSTREAM": f"{ports.LOOPBACK}:{port}" for name, port in where.items()}
    gateway = nginx.Gateway(root, (first, first + 1), addresses | values, entry)
    server = Server(gateway, root)
    server.start()
    try:
        for upstream in upstreams.values():
            await upstream.reset()
        yield Shop(first, server, upstreams, gateway)
    finally:
        server.stop()
        gateway.remove()
        for upstream in upstreams.values():
            await upstream.stop()
