"""A corpus of bad input for every documented operation: no input makes an endpoint fail, hang or answer wrongly.

The operations, their bodies, ids and queries are read from the services' OpenAPI documents, so a new operation is
tested too. What must stay true: an operation accepts exactly what its document allows; all other input is refused with
a problem, in time.
"""

import asyncio
import gzip
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from http import HTTPMethod
from io import BytesIO
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import jsonschema_rs
import jwt
import pytest
from multidict import CIMultiDict
from yarl import URL

from documents.folder import DOCS
from local.nginx import SERVICES
from shared.web import problems, tokens
from shared.web.fields import MAX_ID
from tests.acceptance.client import ANSWER_SECONDS
from tests.acceptance.conftest import System
from tests.lag import Lag
from tests.tokens import Mint

AT_ONCE = 8
REFUSED = {400, 413, 414, 415, 431}
"""The statuses for bad input."""
ELSEWHERE = {302, 308, 400, 401, 404, 405, 414}
"""The statuses for a path that may no longer belong to the operation.

`..` may lead to `/`, which redirects.
"""


@dataclass(frozen=True)
class Operation:
    """One operation of a document, and what a good request to it is."""

    service: str
    path: str
    method: str
    described: dict[str, Any]
    components: dict[str, Any]

    @property
    def body(self) -> dict[str, Any] | None:
        """The schema of its body, or None if it has no body."""
        if "requestBody" not in self.described:
            return None
        found = self.described["requestBody"]["content"]["application/json"]["schema"]
        return self.components["schemas"][found["$ref"].rpartition("/")[2]]

    @property
    def example(self) -> dict[str, Any] | None:
        return self.body and self.body["examples"][0]

    @property
    def statuses(self) -> set[int]:
        """The statuses that it may answer while everything works: all documented ones but 503."""
        return {int(status) for status in self.described["responses"]} - {503}

    def parameters(self, where: str) -> list[dict[str, Any]]:
        return [one for one in self.described["parameters"] if one["in"] == where]

    def at(self, **values: str) -> str:
        """Its path with these values, not encoded, and a good value for every other parameter."""

        def value(found: re.Match[str]) -> str:
            return values.get(found[1], "1" if found[1].endswith("id") else "burger")

        return re.sub(r"{(\w+)}", value, self.path)

    def allows(self, schema: dict[str, Any], value: Any) -> bool:
        return bool(jsonschema_rs.is_valid({**schema, "components": self.components}, value))


@cache
def operations() -> list[Operation]:
    documents = {name: json.loads((DOCS / "openapi" / f"{name}.json").read_text()) for name in SERVICES}
    return [
        Operation(name, path, method.upper(), described, document["components"])
        for name, document in documents.items()
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]


@dataclass(frozen=True)
class Request:
    """One request to an operation, and its expected statuses."""

    operation: Operation
    what: str
    right: set[int]
    path: str = ""
    query: str = ""
    method: str = ""
    body: bytes | None = None
    chunked: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = field(default=())
    """Headers of a good request that this request does not have."""

    def __str__(self) -> str:
        return f"{self.method or self.operation.method} {self.operation.path}, {self.what}"


Send = Callable[[Iterable[Request]], Coroutine[Any, Any, int]]


@pytest.fixture
def mint(fuzzed_system: System) -> Mint:
    assert fuzzed_system.mint
    return fuzzed_system.mint


@pytest.fixture
def send(fuzzed_system: System, mint: Mint) -> Send:
    """Send requests, `AT_ONCE` at the same time; fail if there is a wrong answer."""

    async def sent(requests: Iterable[Request]) -> int:
        turn, found = asyncio.Semaphore(AT_ONCE), list[str]()

        async def one(client: aiohttp.ClientSession, request: Request) -> None:
            async with turn:
                found.extend(
                    [
                        f"{request}: {complaint}"
                        async for complaint in _complaints(
                            client, fuzzed_system.gateway_url, request, mint, fuzzed_system.lag
                        )
                    ]
                )

        async with aiohttp.ClientSession(auto_decompress=False) as client:
            tasks = [asyncio.create_task(one(client, request)) for request in requests]
            await asyncio.gather(*tasks)
        assert not found, f"{len(found)} complaints of {len(tasks)}:\n" + "\n".join(found[:40])
        return len(tasks)

    return sent


async def _complaints(
    client: aiohttp.ClientSession, base: str, request: Request, mint: Mint, lag: Lag
) -> AsyncIterator[str]:
    started = time.monotonic()
    try:
        try:
            async with _answer(client, base, request, mint) as answer:
                raw = await answer.read()
        except aiohttp.ServerDisconnectedError:  # nginx had just closed the connection that the client used again
            async with _answer(client, base, request, mint) as answer:
                raw = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        yield f"no answer after {time.monotonic() - started:.1f} s: {error!r}"
        return
    if (seconds := lag.elapsed(started)) > ANSWER_SECONDS:
        yield f"answered after {seconds:.1f} s"
    if answer.status not in request.right:
        yield f"{answer.status} {raw[:200]!r}, not one of {sorted(request.right)}"
    if answer.status >= 400 and answer.method != "HEAD":
        try:
            problem = json.loads(raw)
            known = problems.BY_NAME[problem["type"].removeprefix(problems.PATH)]
            is_problem = problem["status"] == answer.status == known.status and problem["detail"] and problem["title"]
        except (ValueError, KeyError, TypeError):
            is_problem = False
        if not is_problem or answer.content_type != problems.CONTENT_TYPE:
            yield f"{answer.status} is no problem: {answer.content_type} {raw[:200]!r}"


@asynccontextmanager
async def _answer(
    client: aiohttp.ClientSession, base: str, request: Request, mint: Mint
) -> AsyncIterator[aiohttp.ClientResponse]:
    operation = request.operation
    headers = CIMultiDict(mint.admin | {"Content-Type": "application/json", "Idempotency-Key": uuid4().hex})
    for name in request.without:
        del headers[name]
    headers.extend(request.headers)
    body = request.body
    if body is None and operation.example:
        body = json.dumps(operation.example).encode()
    query = "?" + request.query if request.query else ""
    url = URL(base + (request.path or operation.at()) + query, encoded=True)
    timeout = aiohttp.ClientTimeout(total=15)
    sent = _pieces(body or b"") if request.chunked else BytesIO(body or b"")
    method = request.method or operation.method
    async with client.request(
        method, url, data=sent, headers=headers, timeout=timeout, allow_redirects=False
    ) as answer:
        yield answer


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]


def with_bodies() -> list[Operation]:
    return [operation for operation in operations() if operation.body]


def text(value: str) -> str:
    return json.dumps(value)


def words(written: str) -> list[str]:
    return written.split()


NO_OBJECT = {
    "empty": b"",
    "blank": b" \n",
    "null": b"null",
    "an array": b"[]",
    "a text": b'"x"',
    "a number": b"1",
    "true": b"true",
    "single quotes": b"{'a':'b'}",
    "a form": b"userId=u1&sku=burger",
    "no key": b"{1:2}",
    "binary": bytes(range(256)),
    "NaN": b"NaN",
    "Infinity": b'{"a":Infinity}',
    "1e999": b'{"a":1e999',
    "depth 30,000": b"[" * 30_000 + b"]" * 30_000,
    "open brackets": b"[" * 60_000,
    "depth 100,000": b"[" * 100_000 + b"]" * 100_000,
    "a million keys": b"{" + b",".join(b'"%d":1' % n for n in range(1_000_000)) + b"}",
    "1 M blanks": b" " * 1_000_000,
}

DISTORTED: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda good: good[:-1],
    "truncated in a text": lambda good: good[:4],
    "with garbage behind it": lambda good: good + b"x",
    "twice": lambda good: good + good,
    "with a BOM": lambda good: b"\xef\xbb\xbf" + good,
    "in UTF-16": lambda good: good.decode().encode("utf-16"),
    "in UTF-16 without a BOM": lambda good: good.decode().encode("utf-16-le"),
    "in UTF-32": lambda good: good.decode().encode("utf-32"),
    "with invalid UTF-8": lambda good: good[:-1] + b',"x":"\xff\xfe"}',
    "with overlong UTF-8": lambda good: good[:-1] + b',"x":"\xc0\xaf"}',
    "with a surrogate": lambda good: good[:-1] + b',"x":"\xed\xa0\x80"}',
    "with a lone surrogate": lambda good: good[:-1] + rb',"x":"\ud800"}',
    "with a NaN": lambda good: good[:-1] + b',"x":NaN}',
    "with a trailing comma": lambda good: good[:-1] + b",}",
    "with a comment": lambda good: good + b"// x",
    "in an array": lambda good: b"[" + good + b"]",
    "too deep": lambda good: good[:-1] + b',"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
}

STILL_GOOD: dict[str, Callable[[bytes], bytes]] = {
    "with blanks": lambda good: b" \r\n\t" + good + b" \r\n\t",
    "with every field twice": lambda good: good[:-1] + b"," + good[1:],
}

WITH_MORE: dict[str, Callable[[bytes], bytes]] = {
    "with unknown fields": lambda good: good[:-1] + b',"x":1,"__proto__":{"y":1},"":[{}],"\xf0\x9f\x8d\x94":null}',
    "with many unknown fields": lambda good: good[:-1] + b"".join(b',"%d":1' % n for n in range(5_000)) + b"}",
    "with a number beyond all bounds": lambda good: good[:-1] + b',"x":' + b"1" * 300 + b"}",
}
"""Only the tutorial's API ignores unknown fields."""
TUTORIAL = "/v1/"


def bodies(operation: Operation) -> Iterator[Request]:
    good = json.dumps(operation.example).encode()
    refused, accepted = operation.statuses & REFUSED, operation.statuses - REFUSED
    for what, body in NO_OBJECT.items():
        yield Request(operation, what, refused, body=body)
    for what, distorted in DISTORTED.items():
        yield Request(operation, what, refused, body=distorted(good))
    for what, distorted in STILL_GOOD.items():
        yield Request(operation, what, accepted, body=distorted(good))
    for what, distorted in WITH_MORE.items():
        right = accepted if operation.path.startswith(TUTORIAL) else refused
        yield Request(operation, what, right, body=distorted(good))
    yield Request(operation, "in pieces", accepted, body=good, chunked=True)
    yield Request(operation, "too much, in pieces", refused, body=b" " * 200_000, chunked=True)
    for kind in ("text/plain", "application/xml", "x", ""):
        yield Request(operation, f"as {kind}", {415}, headers=(("Content-Type", kind),), without=("Content-Type",))
    kind = "application/json; charset=utf-16"  # the charset is ignored: JSON is UTF-8
    yield Request(operation, kind, accepted, headers=(("Content-Type", kind),), without=("Content-Type",))
    bomb = gzip.compress(b" " * 50_000_000)
    encodings = {
        "a gzip bomb": ("gzip", bomb),
        "half a gzip": ("gzip", gzip.compress(good)[:20]),
        "no gzip": ("gzip", good),
        "a bomb in pieces": ("gzip", bomb[:60_000]),
        "no deflate": ("deflate", b"\0" * 100),
    }
    for what, (encoding, body) in encodings.items():
        pieces = "pieces" in what
        yield Request(operation, what, refused, body=body, headers=(("Content-Encoding", encoding),), chunked=pieces)


# As written in JSON.
VALUES = [
    *words("null true false [] [1] {} 0 -0 1 -1 01 +1 0x10 1.0 1.5 -0.0 1e2 1e999 NaN Infinity -Infinity 'x' \"'"),
    *(str(sign * (2**bits + more)) for bits in (31, 63, 64) for sign in (1, -1) for more in (-1, 0, 1)),
    *("1" * digits for digits in (20, 300, 5_000)),
    *map(text, ["", " ", "1", "true", "a\0b", "\0", "\u202eabc", "a\r\nb", "\ufeff", "\u3000", "\x7f", "'; --", "%00"]),
    *map(text, ["<script>", "\u0430dmin", "\U0001f354", "e\u0301", "../..", "${jndi:x}", "@"]),
    *(r'"\ud800"', r'"\udc00x"', r'"\udc00\ud800"', '"\x01"'),
    *(text("x" * length) for length in (64, 65, 128, 129, 254, 255, 512, 513, 2_000, 2_001, 60_000, 1_000_000)),
]


def is_right(operation: Operation, written: str) -> bool:
    """True if the document allows the body `written`."""

    def refuse(_: str) -> None:
        raise ValueError

    try:
        value = json.loads(
            written, parse_float=refuse, parse_constant=refuse
        )  # 1.0 is not an integer here, see `fields`
        written.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return False
    assert operation.body
    return len(written) < 64 * 1024 and operation.allows(operation.body, value)


def fields(operation: Operation) -> Iterator[Request]:
    """Every field of the body with every value, and every field left out."""
    assert operation.body
    for name in operation.body["properties"]:
        for value in VALUES:
            mark = f"@{name}@"
            written = json.dumps(operation.example | {name: mark}).replace(text(mark), value)  # type: ignore[operator]
            right = operation.statuses - REFUSED if is_right(operation, written) else operation.statuses & REFUSED
            yield Request(operation, f"{name} = {value[:40]}", right, body=written.encode())
        less = {key: value for key, value in (operation.example or {}).items() if key != name}
        right = operation.statuses - REFUSED if is_right(operation, json.dumps(less)) else {400}
        yield Request(operation, f"no {name}", right, body=json.dumps(less).encode())


# As written in a URL.
IN_URLS = [
    *words("0 1 -1 +1 %2B1 1.0 1.5 1e3 0x10 01 00 1_0 1%20 %201 1%0A 1,2 NaN abc true null * ~ $ | '"),
    *(str(2**bits + more) for bits in (31, 63, 64) for more in (-1, 0, 1)),
    *("9" * 30, "1" * 5_000, "1" * 100_000, *map(quote, ("\u0661\u0662", "\uff11", "\u00b2"))),
    *words("%00 1%00 %01 %7F %FF %C0%AF %ED%A0%80 %E2%80%AE % %zz %u0031 %25 %2500 %0D%0AX-Evil:%201 %22 %3Cscript%3E"),
    *words(".. %2e%2e %2e%2e%2f . %2e %2F 1%2F %5C %3F %23 1;a=b"),
    *("x" * 128, "x" * 129, quote("\U0001f354" * 128), quote("\U0001f354" * 129)),
]
_ID = re.compile("[0-9]{1,19}", re.ASCII)


def paths(operation: Operation) -> Iterator[Request]:
    """Every value for every path parameter, and changed paths."""
    names = re.findall(r"{(\w+)}", operation.path)
    for name in names:
        for value in IN_URLS:
            right = operation.statuses | ELSEWHERE
            if name.endswith("id"):
                is_id = _ID.fullmatch(value) and 0 < int(value) <= MAX_ID
                right = operation.statuses - REFUSED if is_id else ELSEWHERE
            yield Request(operation, f"{name} = {value[:40]}", right, path=operation.at(**{name: value}))
    good = operation.at()
    for path in (
        f"/{good}",
        f"{good}//",
        f"{good}/x",
        good.replace("/", "//"),
        good + "%00",
        good + "/..",
        good + ";x",
    ):
        yield Request(operation, path, operation.statuses | ELSEWHERE, path=path)
    for query in ("x" * 10_000, "a=" + "b" * 1_000_000):
        yield Request(operation, "a long query", {414}, query=query)


def queries(operation: Operation) -> Iterator[Request]:
    """Every value for every query parameter, and each parameter twice."""
    accepted, refused = operation.statuses - REFUSED, {400, 414}
    for parameter in operation.parameters("query"):
        name, schema = parameter["name"], parameter["schema"]
        for value in [*IN_URLS, "", "first&" + name + "=second"]:
            if len(value) > 8_000:
                right = refused
            elif schema.get("type") == "integer":
                right = accepted if _ID.fullmatch(value) and operation.allows(schema, int(value)) else refused
            elif "pattern" in schema and re.fullmatch(r"[a-z0-9.]*", value):
                right = accepted if operation.allows(schema, value) else refused
            else:
                right = operation.statuses
            if name == "wait" and right is accepted and float(value) > 0:
                continue  # the answer may take as long as the valid `wait`
            yield Request(operation, f"{name} = {value[:40]}", right, query=f"{name}={value}")
    refuses = operation.parameters("query") and not operation.path.startswith(TUTORIAL)
    for query in ("unknown=1", "=", "a[]=1&a[0]=2", "%00=%00", "&".join(f"p{n}=1" for n in range(500))):
        right = {400} if refuses else operation.statuses - REFUSED
        yield Request(operation, f"query {query[:40]}", right, query=query)
    yield Request(operation, "query &&&", operation.statuses - REFUSED, query="&&&")


def keys(operation: Operation) -> Iterator[Request]:
    for parameter in operation.parameters("header"):
        name, refused = parameter["name"], {400}
        for value in ("", "k" * 256, "\u00e4", "\u20ac"):
            yield Request(operation, f"{name} {value[:9]!r}", refused, headers=((name, value),), without=(name,))
        yield Request(operation, f"two {name}", refused, headers=((name, "another"),))
        for length in (9_000, 40_000):
            too_long = (("X-Long", "x" * length),)
            yield Request(operation, f"a header of {length}", {431}, headers=too_long)


OTHER_VERBS = ("TRACE", "QUERY", "PROPFIND", "LOCK", "PURGE", "FOO", "CONNECT-ED", "A" * 200)


def verbs() -> Iterator[Request]:
    """Every verb that a path does not have, with and without a body.

    The body must not become the next request.
    """
    known = {str(method) for method in HTTPMethod} - {"CONNECT"}
    for path in sorted({operation.path for operation in operations()}):
        there = [operation for operation in operations() if operation.path == path]
        allowed = {operation.method for operation in there} | {"HEAD" for one in there if one.method == "GET"}
        for method in sorted((known | set(OTHER_VERBS)) - allowed):
            for body, chunked in ((b"", False), (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", False), (b"x" * 20_000, True)):
                right = {204} if method == "OPTIONS" else {405}
                yield Request(there[0], f"{len(body)} bytes", right, method=method, body=body, chunked=chunked)
        for operation in there:
            if operation.method == "GET":
                yield Request(operation, "HEAD", operation.statuses - {400}, method="HEAD", body=b"")


def forged(mint: Mint) -> dict[str, str]:
    claims = jwt.decode(mint.token("1", tokens.ADMIN), options={"verify_signature": False})
    head = {"kid": mint.kid, "typ": tokens.TYPE}
    return {
        "nothing": "",
        "no token": "Bearer",
        "another scheme": "Basic YWRtaW46cGFzc3dvcmQ=",
        "not a token": "Bearer abc",
        "dots": "Bearer ...",
        "not Latin-1": "Bearer \u20ac",
        "7 KiB": "Bearer " + "x" * 7_000,
        "signed by another": Mint(mint.kid).admin["Authorization"],
        "alg none": "Bearer " + jwt.encode(claims, None, algorithm="none", headers=head),
        "HS256": "Bearer " + jwt.encode(claims, "k" * 32, algorithm="HS256", headers=head),
        "expired": mint.header("1", tokens.ADMIN, exp=1)["Authorization"],
        "for another audience": mint.header("1", tokens.ADMIN, aud="x")["Authorization"],
        "from another issuer": mint.header("1", tokens.ADMIN, iss="x")["Authorization"],
        "unknown kid": mint.header("1", tokens.ADMIN, header={"kid": "x" * 500})["Authorization"],
    }


def refused_tokens(operation: Operation, mint: Mint) -> Iterator[Request]:
    for what, sent in forged(mint).items():
        yield Request(operation, what, {401}, headers=(("Authorization", sent),), without=("Authorization",))
    yield Request(operation, "two tokens", {400, 401}, headers=tuple(mint.admin.items()))
    too_long = (("Authorization", "Bearer " + "x" * 1_000_000),)
    yield Request(operation, "1 MB", {400, 431}, headers=too_long, without=("Authorization",))


async def test_every_body_is_answered_as_documented(send: Send) -> None:
    assert await send(request for operation in with_bodies() for request in bodies(operation)) > 300


async def test_every_field_accepts_exactly_what_its_document_allows(send: Send) -> None:
    assert await send(request for operation in with_bodies() for request in fields(operation)) > 1000


async def test_every_id_and_path_is_answered_as_documented(send: Send) -> None:
    assert await send(request for operation in operations() for request in paths(operation)) > 500


async def test_every_query_is_answered_as_documented(send: Send) -> None:
    assert await send(request for operation in operations() for request in queries(operation)) > 300


async def test_bad_keys_and_long_headers_are_refused(send: Send) -> None:
    assert await send(request for operation in operations() for request in keys(operation)) > 10


async def test_other_verbs_are_refused_and_head_is_answered(send: Send) -> None:
    assert await send(verbs()) > 300


async def test_invalid_tokens_are_refused(send: Send, mint: Mint) -> None:
    protected = [operation for operation in operations() if operation.described["security"]]
    assert await send(request for operation in protected for request in refused_tokens(operation, mint)) > 100


async def test_system_is_consistent_after_the_corpus(fuzzed_system: System) -> None:
    await fuzzed_system.settled()
