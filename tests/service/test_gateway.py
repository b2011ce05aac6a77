"""The gateway alone: a real nginx in front of fake services, which record the requests that reach them."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from posixpath import normpath
from urllib.parse import unquote

import pytest
import pytest_asyncio
from aiohttp import web

from local import nginx, ports
from shared.web import openapi, problems
from tests.builders import eventually
from tests.lag import Lag
from tests.service.gateway import (
    KEY,
    TOKEN,
    USER,
    Answer,
    Handler,
    Shop,
    answer_ok,
    bearer,
    chunked,
    opened,
    request,
    signed,
    sized,
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SECURITY = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


@pytest_asyncio.fixture(loop_scope="module")
async def limited(tmp_path: Path) -> AsyncIterator[Shop]:
    limits = {"REQUESTS_PER_SECOND": "30", "LOGINS_PER_SECOND": "1", "REQUESTS_AT_ONCE": "4"}
    limits["CONSOLE_LOGINS_PER_MINUTE"] = "6"
    async with opened(tmp_path, **limits) as shop:
        yield shop


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def unharmed(shop: Shop) -> AsyncIterator[None]:
    """After every test, a good request is served at once, and no body was read as a request."""
    yield
    assert not [seen for upstream in shop.upstreams.values() for seen in upstream.seen if "smuggled" in seen.path]
    for upstream in shop.upstreams.values():
        await upstream.reset()
    assert (await shop.ask("POST /v1/orders", body=b"x", seconds=1)).status == 200
    assert shop.only("orders").body == b"x"


# Routing

ROUTES = {
    "/v1/orders": "orders",
    "/v1/orders/1?wait=3": "orders",
    "/orders/": "orders",
    "/orders/1": "orders",
    "/inventory/burger": "inventory",
    "/payments/1": "payments",
    "/auth/jwks.json": "auth",
    "/users/me": "users",
    "/products/": "products",
    "/problems/": "auth",
    "/problems/invalid": "auth",
}
PROTECTED = {"orders", "inventory", "payments", "users"}


@pytest.mark.parametrize(("path", "service"), ROUTES.items())
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
async def test_each_path_is_sent_unchanged_to_its_service(shop: Shop, method: str, path: str, service: str) -> None:
    body = b"" if method in {"GET", "HEAD"} else b"{}"
    assert (await shop.ask(f"{method} {path}", body=body)).status == 200
    seen = shop.only(service)
    assert (seen.method, seen.path, seen.body) == (method, path, body)
    assert seen.all("Host") == [service]


@pytest.mark.parametrize("service", nginx.SERVICES)
async def test_documents_of_services_are_public(shop: Shop, service: str) -> None:
    assert (await shop.ask(f"GET /openapi/{service}.json", token=None)).status == 200
    assert shop.only(service).path == "/openapi.json"


@pytest.mark.parametrize("path", ["/orders", "/users", "/products"])
async def test_a_missing_slash_is_no_error(shop: Shop, path: str) -> None:
    assert (await shop.ask(f"POST {path}?a=%2f&b", body=b"x")).status == 200
    assert shop.only(path[1:]).path == f"{path}?a=%2f&b"


@pytest.mark.parametrize("path", ["/orders/1", "/users/me", "/products", "/v1/orders/1/cancel"])
async def test_anybody_may_ask_which_methods_a_path_has(shop: Shop, path: str) -> None:
    foreign = "Origin: https://evil.example"
    answer = await shop.ask(f"OPTIONS {path}", foreign, "Access-Control-Request-Method: POST", token=None)
    assert answer.status == 200
    assert not [name for name, _ in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/x",
            "/Users/1",
            "/ORDERS/",
            "/usersx",
            "/v1",
            "/v1/ordersx",
            "/v1/users/",
            "/v2/orders",
            "/metrics",
            "/livez",
        ),
        *("/_identity", "/_problem", "/%5fproblem", "//_identity", "/x/../_problem", "/@keyed", "/openapi/x.json"),
        *("/openapi/", "/openapi/orders.jsonx", "/openapi/../openapi.json"),
    ],
)
async def test_an_unknown_path_is_a_404_problem(shop: Shop, path: str) -> None:
    answer = await shop.ask(f"GET {path}")
    assert (answer.status, answer.problem) == (404, "not-found")
    assert shop.seen == {}


ADMIN_PATHS = [
    *("/admin", "/admin/", "/admin/parked", "/admin/timeline/1", "/ADMIN/parked", "//admin/parked", "///admin//parked"),
    *("/%61dmin/parked", "/%61%64%6d%69%6e/parked", "/admin%2fparked", "/%2fadmin/parked", "/%2561dmin/parked"),
    *("/v1/../admin/parked", "/v1/orders/../../admin/parked", "/users/%2e%2e/admin/parked", "/auth/..%2fadmin/parked"),
    *(
        "/orders/..;/../../admin/parked",
        "/./admin/parked",
        "/../admin/parked",
        "/x/%2E./admin/parked",
        "/admin/./parked",
    ),
    *("/openapi/../admin/parked", "/docs/../admin/parked", "/problems/../admin/parked", "http://orders/admin/parked"),
    # To nginx these are paths of a service, but the service itself would read them as paths of its admin API.
    *(
        "/admin/timeline/..%2f..%2forders%2f1",
        "/%61dmin/timeline/..%2f..%2Forders%2f1",
        "/admin/parked/..%2F..%2fusers/",
    ),
    *(
        "/admin/timeline/%2e%2e%2f..%2fauth%2f1",
        "http://x/%61%64min/timeline/..%2f..%2fv1%2forders",
        "/%61dmin/x/..%2f../auth/1",
    ),
]


@pytest.mark.parametrize("path", ADMIN_PATHS)
async def test_no_spelling_of_a_path_reaches_the_admin_api_of_a_service(shop: Shop, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        for header in ("X-A: b", KEY, "Host: orders", "X-Original-URL: /orders/", "X-Rewrite-URL: /admin/parked"):
            answer = await shop.ask(f"{method} {path}", header, body=b"" if method in {"GET", "HEAD"} else b"{}")
            assert answer.status in {400, 404, 405}, (method, header)
    assert shop.seen == {}


@pytest.mark.parametrize("prefix", ["/orders", "/v1/orders", "/inventory", "/auth", "/users", "/products", "/problems"])
async def test_a_path_below_a_services_own_prefix_is_never_rewritten_to_its_admin_api(shop: Shop, prefix: str) -> None:
    for rest in ("/admin/parked", "//admin/parked", "/%2e/admin/parked", "/admin/../admin/parked"):
        await shop.ask(f"GET {prefix}{rest}")
    seen = [seen.path for upstream in shop.upstreams.values() for seen in upstream.seen]
    assert len(seen) == 4
    assert all(path.startswith(prefix + "/") for path in seen)


TRICKS = [
    *("/%75sers/1", "/user%73/1", "/users%2f1", "/users%2F1", "//users/1", "/users//1", "///users///1"),
    *("/products/../users/1", "/products/%2e%2e/users/1", "/products/%2E%2E/users/1", "/products/..%2fusers/1"),
    *("/products%2f..%2fusers%2f1", "/auth/..%2f..%2fusers/1", "/auth/./../users/./1", "/auth/x/../../users/1"),
    *("/products/..;/users/1", "/products;/../users/1", "/auth;/users/1", "/users;x/1", "/users/;1", "/users/1;.json"),
    *("/products/%252e%252e/users/1", "/products/%252fusers", "/auth/%5c..%5cusers/1", r"/auth/..\users/1"),
    *("/auth/validate/../../users/1", "/products?/../users/1", "/users/1?/products/", "/users/1#/products/"),
    *("/products/#/../users/1", "/products#/../../users/1", "http://shop/users/1", "http://auth/users/1"),
    *("http://auth:80/%75sers/1", "/users/%00/products/", "/products/:GET:", "/users/:GET:", "/users/1:GET:products"),
    *(
        "/v1/orders/../../users/1",
        "/v1/%6frders/1",
        "/v1/orders;/1",
        "/v1/../v1/orders",
        "/%76%31/orders",
        "/v1//orders",
    ),
    *("/../users/1", "/..%2fusers/1", "/.%2e/users/1", "/%2e/users/1", "/users/.", "/users/..", "/users/../users/1"),
    *("/inventory/auth/", "/payments/products/", "/docs/../users/1", "/docs/..%2fusers/1", "/healthz/../users/1"),
    *(
        "/openapi/users.json/../../users/1",
        "/openapi/..%2fusers/1",
        "/problems/../users/1",
        "/problems/..%2f..%2fusers/1",
    ),
]


@pytest.mark.parametrize("path", TRICKS)
async def test_no_spelling_of_a_path_avoids_the_token(shop: Shop, path: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        for header in (
            "X-A: b",
            KEY,
            "Idempotency-Key: :GET:",
            "Idempotency-Key: GET:auth:",
            "X-Original-URL: /products/",
        ):
            answer = await shop.ask(f"{method} {path}", header, token=None)
            assert answer.status in {200, 302, 308, 400, 401, 404, 405}
    assert not PROTECTED & shop.seen.keys()
    assert {seen.method for seen in shop.seen.get("products", [])} <= {"GET", "HEAD"}


@pytest.mark.parametrize("path", TRICKS)
async def test_a_path_is_sent_to_the_service_of_its_normal_form(shop: Shop, path: str) -> None:
    normal = normpath("/" + unquote(re.sub("^http://[^/]*|[?#].*", "", path)).lstrip("/"))
    expected = {"v1": "orders", "problems": "auth"}.get(name := normal.split("/")[1], name)
    for method in ("GET", "PATCH"):
        assert (await shop.ask(f"{method} {path}")).status in {200, 302, 308, 400, 404, 405}
    assert shop.seen.keys() <= {expected}


@pytest.mark.parametrize("key", [":GET:", "x:GET:", "GET:products:", "POST:auth:", ":HEAD:\t:GET:"])
async def test_no_idempotency_key_makes_a_write_public(shop: Shop, key: str) -> None:
    for first in ("PATCH /products/1", "POST /products/", "DELETE /users/1", "POST /v1/orders"):
        answer = await shop.ask(first, f"Idempotency-Key: {key}", body=b"{}", token=None)
        assert (answer.status, answer.problem) == (401, "unauthenticated")
    assert shop.seen == {}


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "BREW", "GETS", "XGET", "PROPFIND"])
async def test_an_unknown_verb_reaches_a_service_only_as_a_bare_question(shop: Shop, method: str) -> None:
    inner = request("GET /users/smuggled")
    for sent in (
        request(f"{method} /users/1", "X-User-Id: 1"),
        request(f"{method} /users/1", sized(inner), body=inner),
        request(f"{method} /users/1", "Transfer-Encoding: chunked", body=chunked(inner)),
    ):
        assert (await shop.send(sent)).status in {200, 400}
    for seen in (users := shop.upstreams["users"]).seen:
        question = "OPTIONS" if method == "OPTIONS" else "TRACE"
        assert (seen.method, seen.path, seen.body) == (question, "/users/1", b"")
        assert {name.lower() for name, _ in seen.headers} <= {"host", "x-request-id"}
    assert users.unread == 0


# Tokens


async def test_a_request_without_a_token_reaches_no_service(limited: Shop) -> None:
    for first in ("GET /v1/orders", "POST /orders/", "DELETE /users/1", "POST /products/", "HEAD /payments/1"):
        answer = await limited.ask(first, KEY, token=None)
        assert (answer.status, answer.get("WWW-Authenticate")) == (401, "Bearer")
        assert first.startswith("HEAD") or answer.problem == "unauthenticated"
    assert (limited.seen, limited.auth.validations) == ({}, [])


@pytest.mark.parametrize(
    "odd",
    [
        "Bearer bad",
        f"Basic {signed('good')}",
        signed("good"),
        "Bearer",
        f"{TOKEN} x",
        f"{TOKEN}.",
        f"{TOKEN}a",
        TOKEN[:-1],
        "Bearer " + "a" * 8000,
    ],
)
async def test_a_request_with_an_odd_token_reaches_no_service_and_not_auth(shop: Shop, odd: str) -> None:
    answer = await shop.ask("GET /v1/orders", token=odd)
    assert (answer.status, answer.problem, answer.get("WWW-Authenticate")) == (401, "unauthenticated", "Bearer")
    assert (shop.seen, shop.auth.validations) == ({}, [])


async def test_a_request_with_a_refused_token_reaches_no_service(shop: Shop) -> None:
    for _ in range(2):
        answer = await shop.ask("GET /v1/orders", token=bearer("bad"))
        assert (answer.status, answer.problem, answer.get("WWW-Authenticate")) == (401, "unauthenticated", "Bearer")
    assert shop.seen == {}
    assert [seen.all("Authorization") for seen in shop.auth.validations] == [[bearer("bad")]] * 2


async def test_two_tokens_are_refused(shop: Shop) -> None:
    assert (await shop.ask("GET /v1/orders", "Authorization: Bearer other")).status in {400, 401}
    assert (await shop.ask("GET /v1/orders", f"Authorization: {TOKEN}")).status in {400, 401}
    assert shop.seen == {}


NAMES = ("X-User-Id", "X-User-Roles", "X-Real-IP", "X-Forwarded-For", "X-Request-Id", "X-Loopback-Secret")
SPOOFED = [
    f"{spelling}: evil{number}"
    for name in NAMES
    for spelling in (name, name.lower(), name.upper(), name.replace("-", "_"), name.replace("-", "_", 1))
    for number in range(2)
]
OWN = {
    "GET /v1/orders": USER,
    "POST /v1/orders": USER,
    "PATCH /users/1": USER,
    "DELETE /users/1": USER,
    "POST /products/": USER,
    "GET /products/": {},
    "POST /auth/login": {},
    "POST /auth/logout": {},
    "GET /auth/jwks.json": {},
    "GET /openapi/users.json": {},
    "GET /problems/": {},
}


@pytest.mark.parametrize("first", OWN)
@pytest.mark.parametrize("key", ["X-A: b", KEY])
async def test_forged_identity_headers_reach_no_service(shop: Shop, first: str, key: str) -> None:
    shop.auth.sessions[name := f"spoof {first} {key}"] = USER
    answer = await shop.ask(first, key, *SPOOFED, "Connection: X-User-Id, X-Real-IP", token=bearer(name))
    assert answer.status == 200
    ((seen,),) = shop.seen.values()
    assert {name: seen.all(name) for name in USER} == {name: [OWN[first][name]] if OWN[first] else [] for name in USER}
    assert seen.all("X-Real-IP") == seen.all("X-Forwarded-For") == [ports.LOOPBACK]
    assert seen.all("X-Request-Id") == [answer.get("X-Request-Id")]
    for reached in [seen, *shop.auth.validations]:
        assert "evil" not in str(reached.headers)
    assert len(shop.auth.validations) == bool(OWN[first])


@pytest.mark.parametrize(
    "how", ["X-User-Id : 1", " X-User-Id: 1", "X-User-Id\t: 1", "X-User-Id\0: 1", "X-A: b\rX-User-Id: 1"]
)
async def test_a_badly_spelled_header_is_not_corrected_by_the_gateway(shop: Shop, how: str) -> None:
    answer = await shop.ask("GET /products/", how, token=None)
    assert answer.status in {200, 400}
    for seen in shop.upstreams["products"].seen:
        assert not [name for name, value in seen.headers if "user" in name.lower() or "User" in value]


@pytest.mark.parametrize(
    "sent", ["", "a" * 129, "a b c d e f", "évilévil", "<script>1", "aaaa\taaaa", '"; DROP --', "%0d%0aX: y"]
)
async def test_an_invalid_request_id_is_replaced_everywhere(shop: Shop, sent: str) -> None:
    answer = await shop.ask("GET /products/", f"X-Request-Id: {sent}")
    assert re.fullmatch("[0-9a-f]{32}", answer.get("X-Request-Id"))
    assert shop.only("products").all("X-Request-Id") == [answer.get("X-Request-Id")]


async def test_a_valid_request_id_is_kept_in_answer_service_and_log(shop: Shop) -> None:
    assert (await shop.ask("GET /nowhere", "X-Request-Id: My.id_12-4")).get("X-Request-Id") == "My.id_12-4"
    assert (await shop.ask("GET /v1/orders", "X-Request-Id: My.id_12-3")).get("X-Request-Id") == "My.id_12-3"
    assert shop.only("orders").all("X-Request-Id") == ["My.id_12-3"]

    assert (await shop.entry("My.id_12-3"))["status"] == 200
    assert (await shop.entry("My.id_12-4"))["status"] == 404


async def test_auth_validates_a_token_once_in_two_seconds(shop: Shop) -> None:
    shop.auth.sessions["busy"] = {"X-User-Id": "8", "X-User-Roles": "user"}
    started = time.monotonic()
    await shop.many(
        1, "GET /v1/orders", token=bearer("busy")
    )  # later, those who come during an update get the old answer
    for _ in range(8):
        answers = await shop.many(200, "GET /v1/orders", token=bearer("busy"))
        assert {answer.status for answer in answers} == {200}
        await asyncio.sleep(0.3)
    passed = time.monotonic() - started
    assert passed / 4 <= len(shop.auth.validations) <= 2 + passed / 2
    assert {tuple(seen.all("X-User-Id")) for seen in shop.orders.seen} == {("8",)}


async def test_requests_with_the_same_token_share_one_validation(shop: Shop) -> None:
    shop.auth.sessions["cold"] = USER
    await shop.many(6, "GET /v1/orders", token=bearer("cold"))
    assert len(shop.auth.validations) == 1


async def test_two_tokens_never_share_a_user(shop: Shop) -> None:
    prefix = "p" * 5000
    names = [f"{prefix}{n}" for n in range(5)] + [f"{n}{prefix}" for n in range(5)]
    names += ["t", "T", "tt", "t.", "t;", "t t", "t,t", "bearer", "Bearer", "t=", "t?", "t%20"]
    shop.auth.sessions = {name: {"X-User-Id": f"u{n}", "X-User-Roles": f"r{n}"} for n, name in enumerate(names)}
    sent = [(f"{word}{signed(name)}", name) for name in names for word in ("Bearer ", "bearer ", "BEARER ", "Bearer  ")]

    async def ask(number: int, header: str, name: str) -> None:
        answer = await shop.ask(f"GET /users/{number}", token=header)
        assert answer.status == 200, (header[:20], name[:9])

    for _ in range(3):
        await asyncio.gather(*(ask(number, *one) for number, one in enumerate(sent)))
    assert len(shop.upstreams["users"].seen) == 3 * len(sent)
    for seen in shop.upstreams["users"].seen:
        own = shop.auth.sessions[sent[int(seen.path.removeprefix("/users/"))][1]]
        assert {name: seen.all(name) for name in own} == {name: [value] for name, value in own.items()}
    assert len(names) <= len(shop.auth.validations) <= len(sent)


async def test_while_auth_is_down_only_known_tokens_are_accepted(shop: Shop) -> None:
    shop.auth.sessions["known"] = USER
    assert (await shop.ask("GET /v1/orders", token=bearer("known"))).status == 200
    await shop.auth.stop()
    started = time.monotonic()
    while time.monotonic() - started < 3.5:  # longer than a token is cached while auth answers
        assert (await shop.ask("GET /v1/orders", token=bearer("known"))).status == 200
        await asyncio.sleep(0.2)
    unknown = await shop.ask("GET /v1/orders", token=bearer("unknown"))
    assert (unknown.status, unknown.problem, unknown.get("Retry-After")) == (503, "unavailable", "1")
    unknown = await shop.ask("POST /v1/orders", token=bearer("unknown"), body=b"{}")
    assert (unknown.status, unknown.problem, unknown.get("Retry-After")) == (503, "refused", "1")
    assert (await shop.ask("GET /v1/orders", token=None)).status == 401
    assert {tuple(seen.all("X-User-Id")) for seen in shop.orders.seen} == {("7",)}


async def test_while_auth_hangs_every_request_is_answered_in_three_seconds(shop: Shop, lag: Lag) -> None:
    shop.auth.sessions["patient"] = USER
    assert (await shop.ask("GET /v1/orders", token=bearer("patient"))).status == 200
    await asyncio.sleep(3.1)  # now its cached validation is stale
    shop.auth.hang = asyncio.Event()
    started = time.monotonic()
    try:
        *known, unknown = await asyncio.gather(
            *(shop.ask("GET /v1/orders", token=bearer("patient")) for _ in range(50)),
            shop.ask("GET /v1/orders", token=bearer("stranger")),
        )
    finally:
        shop.auth.hang.set()  # otherwise the end of a failed test would wait for it
    assert lag.elapsed(started) < 3
    assert {answer.status for answer in known} == {200}
    assert (unknown.status, unknown.problem) == (503, "unavailable")


async def test_a_logout_is_noticed_in_three_seconds(shop: Shop, lag: Lag) -> None:
    shop.auth.sessions["leaving"] = USER
    assert (await shop.ask("GET /v1/orders", token=bearer("leaving"))).status == 200
    del shop.auth.sessions["leaving"]

    async def refused() -> bool:
        return (await shop.ask("GET /v1/orders", token=bearer("leaving"))).status == 401

    started = time.monotonic()
    await eventually(refused)
    assert lag.elapsed(started) < 3.5
    assert all([await refused() for _ in range(20)])


# Retries


async def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    assert request.transport
    request.transport.abort()
    return web.Response()


TRIES = {
    ("GET /v1/orders", ""): (2, "unavailable"),
    ("GET /products/", ""): (2, "unavailable"),
    ("GET /auth/jwks.json", ""): (2, "unavailable"),
    ("POST /v1/orders", KEY): (2, "outcome-unknown"),
    ("POST /inventory/burger/restock", KEY): (2, "outcome-unknown"),
    ("POST /v1/orders", ""): (1, "outcome-unknown"),
    ("POST /v1/orders", "Idempotency-Key:"): (1, "outcome-unknown"),
    ("POST /products/", KEY): (1, "outcome-unknown"),
    ("POST /auth/login", KEY): (1, "outcome-unknown"),
    ("POST /auth/logout", ""): (1, "outcome-unknown"),
    ("PATCH /users/1", KEY): (1, "outcome-unknown"),
    ("DELETE /users/1", ""): (1, "outcome-unknown"),
    ("DELETE /v1/orders/1", KEY): (1, "outcome-unknown"),
    ("PUT /users/1", ""): (1, "outcome-unknown"),
}


async def warm(shop: Shop, count: int = 10) -> None:
    """Leave the gateway with open connections to services, any of which may be closed later."""
    arrived = asyncio.Barrier(count * 3)

    async def together(request: web.BaseRequest) -> web.StreamResponse:
        await arrived.wait()
        return web.Response()

    for name in ("orders", "users", "products"):
        shop.upstreams[name].handler = together
    paths = ("/v1/orders", "/users/1", "/products/")
    async with asyncio.timeout(5):
        await asyncio.gather(*(shop.ask(f"GET {path}") for path in paths for _ in range(count)))
    for upstream in shop.upstreams.values():
        upstream.seen = []


@pytest.mark.parametrize(("sent", "expected"), TRIES.items(), ids=[" ".join(sent) for sent in TRIES])
@pytest.mark.parametrize("body", [b"", b'{"quantity": 1}'], ids=["bare", "body"])
@pytest.mark.parametrize("warmed", [False, True], ids=["", "warm"])
async def test_an_unanswered_request_is_retried_once_and_only_if_that_is_safe(
    shop: Shop, sent: tuple[str, str], expected: tuple[int, str], body: bytes, warmed: bool
) -> None:
    if warmed:
        await warm(shop)
    for upstream in shop.upstreams.values():
        upstream.handler = hang_up
    answer = await shop.ask(sent[0], *filter(None, sent[1:]), body=body)
    assert (answer.status, answer.problem, answer.get("Retry-After")) == (503, expected[1], "1")
    ((*tries,),) = shop.seen.values()
    assert [seen.body for seen in tries] == [body] * expected[0]


@pytest.mark.parametrize("size", [1, 1000, 10_000, 65_536])
@pytest.mark.parametrize("chunks", [False, True])
async def test_a_retry_with_a_key_has_the_whole_body_and_is_answered(shop: Shop, size: int, chunks: bool) -> None:
    async def first_not(request: web.BaseRequest) -> web.StreamResponse:
        return await (hang_up if len(shop.orders.seen) == 1 else answer_ok)(request)

    shop.orders.handler = first_not
    body = bytes(n % 251 for n in range(size))
    framed = ("Transfer-Encoding: chunked", chunked(body[:1], body[1:] or b"x")) if chunks else (sized(body), body)
    text = request("POST /v1/orders", KEY, framed[0], body=framed[1])
    if chunks and size == 1:
        body += b"x"
    assert (await shop.send(text[:200], text[200:], pause=0.05)).status == 200
    assert [seen.body for seen in shop.orders.seen] == [body, body]
    assert [seen.all("X-User-Id") for seen in shop.orders.seen] == [["7"], ["7"]]


@pytest.mark.parametrize("first", ["GET /v1/orders", "POST /v1/orders", "PATCH /users/1", "DELETE /users/1"])
async def test_a_request_that_could_not_be_sent_is_refused(shop: Shop, first: str) -> None:
    await shop.orders.stop()
    await shop.upstreams["users"].stop()
    for header in ("X-A: b", KEY):
        answer = await shop.ask(first, header, body=b"{}")
        assert (answer.status, answer.get("Retry-After")) == (503, "1")
        assert answer.problem == ("unavailable" if first.startswith("GET") else "refused")


async def test_the_outcome_is_unknown_if_a_service_dies_between_two_tries(shop: Shop) -> None:
    async def die(request: web.BaseRequest) -> web.StreamResponse:
        assert shop.orders._runner
        for site in list(shop.orders._runner.sites):
            await site.stop()
        return await hang_up(request)

    shop.orders.handler = die
    answer = await shop.ask("POST /v1/orders", KEY, body=b"{}")
    assert (answer.status, answer.problem) == (503, "outcome-unknown")
    assert len(shop.orders.seen) == 1
    await shop.orders.stop()


# Answers of a service


async def die_in_the_middle(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = 1_000_000
    await response.prepare(request)
    await response.write(b"a" * 100_000)
    await asyncio.sleep(0.05)
    return await hang_up(request)


async def die_in_a_chunk(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(b"a" * 100)
    await asyncio.sleep(0.05)
    return await hang_up(request)


@pytest.mark.parametrize(
    "sent", [("GET /v1/orders", "X-A: b"), ("POST /v1/orders", KEY), ("POST /v1/orders", "X-A: b")]
)
@pytest.mark.parametrize("handler", [die_in_the_middle, die_in_a_chunk])
async def test_a_truncated_answer_looks_truncated_and_its_request_is_not_retried(
    shop: Shop, sent: tuple[str, str], handler: Handler
) -> None:
    shop.orders.handler = handler
    answer = await shop.ask(*sent, body=b"{}")
    assert answer.status == 200
    assert len(answer.body) < 1_000_000 if answer.get("Content-Length") else not answer.body.endswith(b"0\r\n\r\n")
    shop.only("orders")


async def test_too_large_headers_of_a_service_are_a_problem(shop: Shop) -> None:
    async def huge(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"X-Huge": "a" * 30_000})

    shop.orders.handler = huge
    assert (await shop.ask("GET /v1/orders")).problem == "unavailable"
    assert (await shop.ask("POST /v1/orders", body=b"{}")).problem == "outcome-unknown"
    assert len(shop.orders.seen) == 2


@pytest.mark.parametrize("junk", [b"HTTP/1.1 200 OK\r\nX-A", b"nonsense\r\n\r\n", b"HTTP/1.1 999\r\n\r\n", b"\0" * 99])
async def test_an_invalid_answer_of_a_service_does_not_reach_the_client(shop: Shop, junk: bytes) -> None:
    async def answer_junk(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.write(junk)
        request.transport.close()
        return web.Response()

    shop.orders.handler = answer_junk
    answer = await shop.raw(request("POST /v1/orders", sized(b"{}"), body=b"{}"))
    shop.only("orders")
    assert b"Python" not in answer


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 409, 413, 422, 429, 500, 501, 502, 503, 504])
@pytest.mark.parametrize("first", ["GET /v1/orders", "POST /v1/orders", "POST /auth/login", "DELETE /users/1"])
async def test_problems_of_a_service_pass_unchanged(shop: Shop, first: str, status: int) -> None:
    text = json.dumps({"type": "/problems/own", "status": status, "detail": "said by the service"}).encode()
    headers = {"Retry-After": "7", "Allow": "POST", "WWW-Authenticate": "Own", "Location": "/x/1", "ETag": '"1"'}

    async def own(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=text, content_type="application/problem+json", headers=headers)

    for upstream in shop.upstreams.values():
        upstream.handler = own
    for key in ("X-A: b", KEY):
        answer = await shop.ask(first, key, body=b"{}")
        assert (answer.status, answer.body, answer.problem) == (status, text, "own")
        assert {name: answer.get(name) for name in headers} == headers
    assert [len(seen) for seen in shop.seen.values()] == [2]


async def test_head_has_headers_and_no_body(shop: Shop) -> None:
    for path, status in {"/v1/orders": 200, "/nowhere": 404, "/docs": 200, "/healthz": 200}.items():
        answer = await shop.ask(f"HEAD {path}")
        assert (answer.status, answer.body) == (status, b"")
        assert int(answer.get("Content-Length")) > 0
    assert shop.only("orders").method == "HEAD"


async def test_every_answer_has_the_same_security_headers_once(shop: Shop) -> None:
    headers = dict.fromkeys([*SECURITY, "x-request-id", "server"], "a service's own")

    async def own(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers=headers)

    shop.orders.handler = own
    pages = [await shop.ask(f"GET {path}") for path in ("/docs", "/docs/documents.json", "/docs/start.js")]
    pages.append(await shop.ask("GET /docs/start.js", "Range: bytes=9999999-"))
    everything = [
        *[await shop.ask(first) for first in ("GET /v1/orders", "GET /users/1", "GET /nowhere", "GET /healthz")],
        *[await shop.ask(first) for first in ("GET /console", "POST /docs", "TRACE /x")],
        *pages,
        await shop.ask("GET /v1/orders", token=None),
        await shop.ask("POST /v1/orders", body=b"a" * 70_000),
        await shop.ask("GET /" + "a" * 9000),
        await shop.ask("GET /v1/orders", "X-A: " + "a" * 9000),
        await shop.ask("GET /v1/orders HTTP/7.0"),
        await shop.ask("GET /v1/orders", "Transfer-Encoding: x"),
        await shop.ask("GET /docs/start.js", "If-Match: x"),
        await shop.ask("get /"),
    ]
    for answer in everything:
        policy = openapi.CONTENT_POLICY if answer in pages else SECURITY["content-security-policy"]
        assert {name: answer.get(name) for name in SECURITY} == SECURITY | {"content-security-policy": policy}
        assert answer.get("Server") == "nginx"
        assert re.fullmatch("[0-9a-f]{32}", answer.get("X-Request-Id"))
        if answer.status >= 400:
            assert answer.problem in problems.BY_NAME
            assert problems.BY_NAME[answer.problem].status == answer.status
            assert (answer.get("Retry-After") == "1") == problems.BY_NAME[answer.problem].retry
    assert {answer.status for answer in everything} >= {200, 400, 401, 404, 405, 413, 414, 431, 501, 505}


# The API page


async def test_the_page_and_its_files_are_served_with_their_types(shop: Shop) -> None:
    files = {"/docs": "text/html", "/docs/swagger-ui.css": "text/css", "/docs/start.js": "application/javascript"}
    files |= {"/docs/swagger-ui-bundle.js": "application/javascript", "/docs/favicon-32x32.png": "image/png"}
    for path, kind in files.items():
        answer = await shop.ask(f"GET {path}", token=None)
        assert (answer.status, answer.get("Content-Type")) == (200, kind)
        assert answer.get("Content-Security-Policy") == openapi.CONTENT_POLICY
        assert answer.body == (nginx.DOCS / (path[6:] or "index.html")).read_bytes()
    listed = await shop.ask("GET /docs/documents.json", token=None)
    assert listed.get("Content-Type") == "application/json"
    for one in json.loads(listed.body):
        assert (await shop.ask(f"GET {one['url']}", token=None)).status == 200


async def test_the_events_are_served_with_their_schemas_and_a_page_without_scripts(shop: Shop) -> None:
    files = {"/asyncapi.json": "application/json", "/events/OrderCreated.schema.json": "application/json"}
    files |= {"/events/index.html": "text/html", "/events/page.css": "text/css"}
    for path, kind in files.items():
        answer = await shop.ask(f"GET {path}", token=None)
        assert (answer.status, answer.get("Content-Type")) == (200, kind)
        assert answer.body == (nginx.EVENTS / path[1:]).read_bytes()
    page = await shop.ask("GET /events/", token=None)
    assert page.body == (nginx.EVENTS / "events" / "index.html").read_bytes()
    assert "script" not in page.get("Content-Security-Policy")
    assert "style-src 'self'" in page.get("Content-Security-Policy")
    bare = await shop.ask("GET /events", token=None)
    assert (bare.status, bare.get("Location")) == (308, "/events/")


@pytest.mark.parametrize(
    "path",
    [
        *("/docs/../openapi.py", "/docs/%2e%2e/openapi.py", "/docs/..%2fopenapi.py", "/docs../openapi.py"),
        *("/docs/x/../../openapi.py", "/docs..%2fopenapi.py", "/docs/....//openapi.py", "/docs/%252e%252e/openapi.py"),
        *("/docs//etc/passwd", "/docs/../../../../../../etc/passwd", "/docs/.git", "/docs/..%5copenapi.py"),
        *("/docs/%00", "/docs/start.js%00.html", "/docs/x"),
        *("/events/../architecture.md", "/events../architecture.md", "/events/..%2farchitecture.md", "/events/x"),
    ],
)
async def test_no_other_file_on_the_disk_can_be_read(shop: Shop, path: str) -> None:
    answer = await shop.ask(f"GET {path}")
    assert answer.status in {400, 404}
    assert answer.problem in {"invalid", "not-found"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs/start.js"])
async def test_the_page_can_only_be_read(shop: Shop, method: str, path: str) -> None:
    answer = await shop.ask(f"{method} {path}")
    assert (answer.status, answer.problem, answer.get("Allow")) == (405, "method-not-allowed", "GET, HEAD")


async def test_the_health_check_needs_no_service(shop: Shop) -> None:
    for upstream in shop.upstreams.values():
        await upstream.stop()
    assert (await shop.ask("GET /healthz", token=None)).body == b"ok"


# Bytes on the wire

INNER = request("GET /users/smuggled", close=False)
BODY = b'{"quantity": 1}'
BROKEN = {
    "no request at all": b"\r\n\r\n\r\n\r\nx\r\n\r\n",
    "garbage": bytes(range(1, 256)) * 3,
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.0": request("GET /v1/orders HTTP/3.0"),
    "negative length": request("POST /v1/orders", "Content-Length: -1"),
    "length of text": request("POST /v1/orders", "Content-Length: abc"),
    "length of 2^70": request("POST /v1/orders", f"Content-Length: {2**70}"),
    "length with a sign": request("POST /v1/orders", "Content-Length: +15", body=BODY),
    "length in hex": request("POST /v1/orders", "Content-Length: 0xf", body=BODY),
    "lengths with a comma": request("POST /v1/orders", "Content-Length: 15, 15", body=BODY),
    "no value for a length": request("POST /v1/orders", "Content-Length:", body=BODY),
    "two lengths": request("POST /v1/orders", sized(BODY), "Content-Length: 1", body=BODY),
    "the same length twice": request("POST /v1/orders", sized(BODY), sized(BODY), body=BODY),
    "length and chunks": request("POST /v1/orders", sized(BODY), "Transfer-Encoding: chunked", body=chunked(INNER)),
    "chunks and length": request(
        "POST /v1/orders", "Transfer-Encoding: chunked", "Content-Length: 4", body=chunked(INNER)
    ),
    "empty chunks, then more": request(
        "POST /v1/orders", sized(INNER), "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + INNER
    ),
    "unknown encoding": request("POST /v1/orders", "Transfer-Encoding: x", body=INNER),
    "chunked twice": request("POST /v1/orders", "Transfer-Encoding: chunked, chunked", body=chunked(INNER)),
    "two encodings": request(
        "POST /v1/orders", "Transfer-Encoding: chunked", "Transfer-Encoding: x", body=chunked(INNER)
    ),
    "identity and chunked": request("POST /v1/orders", "Transfer-Encoding: identity, chunked", body=chunked(INNER)),
    "chunked with a tab": request("POST /v1/orders", "Transfer-Encoding:\vchunked", body=chunked(INNER)),
    "chunks in HTTP/1.0": request("POST /v1/orders HTTP/1.0", "Transfer-Encoding: chunked", body=chunked(INNER)),
    "bad chunk size": request("POST /v1/orders", "Transfer-Encoding: chunked", body=b"zz\r\n" + INNER),
    "chunk size with a sign": request("POST /v1/orders", "Transfer-Encoding: chunked", body=b"-1\r\n" + INNER),
    "chunk size with 0x": request("POST /v1/orders", "Transfer-Encoding: chunked", body=b"0x5\r\nabcde\r\n0\r\n\r\n"),
    "huge chunk size": request("POST /v1/orders", "Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\nabc"),
    "chunk longer than said": request(
        "POST /v1/orders", "Transfer-Encoding: chunked", body=b"3\r\nabcdef\r\n0\r\n\r\n"
    ),
    "space before colon": request("POST /v1/orders", "Content-Length : 15", body=BODY),
    "space in an encoding's name": request("POST /v1/orders", "Transfer-Encoding : chunked", body=chunked(INNER)),
    "NUL in a header": request("GET /v1/orders", "X-A: a\x00b"),
    "NUL in a name": request("GET /v1/orders", "X\x00A: b"),
    "NUL in a path": request("GET /v1/orders/\x00"),
    "encoded NUL": request("GET /v1/orders/%00"),
    "bad percent": request("GET /v1/orders/%zz"),
    "space in a path": request("GET /v1/orders/a b"),
    "CR alone": request("GET /v1/orders", "X-A: b\rX-B: c"),
    "no host": b"GET /v1/orders HTTP/1.1\r\n\r\n",
    "two hosts": request("GET /v1/orders", "Host: other"),
    "bad host": b"GET /v1/orders HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "a verb in small letters": request("get /v1/orders"),
    "no verb": request(" /v1/orders"),
    "CONNECT": request("CONNECT shop:80"),
    "only a word": b"GET\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_invalid_http_gets_a_problem_or_a_closed_connection(shop: Shop, name: str) -> None:
    for sent in (BROKEN[name], BROKEN[name].replace(b"Host: ", b"Idempotency-Key: k\r\nHost: ", 1)):
        raw = await shop.raw(sent)
        if raw.startswith(b"HTTP/"):
            answer = Answer.of(raw)
            assert answer.status in {400, 404, 405, 408, 413, 501, 505}
            assert answer.problem in problems.BY_NAME
            assert raw.count(b"HTTP/1.1 ") == 1
    assert shop.seen == {}


TOO_MUCH = {
    "body": (request("POST /v1/orders", "Content-Length: 65537", body=b" " * 65537), 413),
    "public body": (request("POST /auth/login", "Content-Length: 65537", body=b" " * 65537), 413),
    "chunks": (request("POST /v1/orders", "Transfer-Encoding: chunked", body=chunked(*[b"a" * 9000] * 8)), 413),
    "one chunk": (request("POST /v1/orders", "Transfer-Encoding: chunked", body=b"10001\r\n" + b"a" * 65537), 413),
    "path": (request("GET /v1/orders/" + "a" * 9000), 414),
    "query": (request("GET /v1/orders?" + "a" * 9000), 414),
    "path without end": (b"GET /" + b"a" * 100_000, 414),
    "header": (request("GET /v1/orders", "X-A: " + "a" * 9000), 431),
    "header without end": (request("GET /v1/orders")[:-4] + b"\r\nX-A: " + b"a" * 100_000, 431),
    "headers": (request("GET /v1/orders", *(f"X-{n}: {'a' * 4000}" for n in range(10))), 431),
    "1,000 long headers": (request("GET /v1/orders", *(f"X-{n}: {'a' * 1000}" for n in range(1000))), 431),
    "token": (request("GET /v1/orders", token="Bearer " + "a" * 1_000_000), 431),
}


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_a_too_large_request_is_refused(shop: Shop, name: str) -> None:
    text, expected = TOO_MUCH[name]
    for sent in (text, text.replace(b"Host: ", b"Idempotency-Key: k\r\nHost: ", 1)):
        answer = await shop.send(sent)
        assert answer.status == expected
        assert problems.BY_NAME[answer.problem].status == expected
    assert shop.seen == {}


ODD = {
    "chunks": request("POST /v1/orders", "Transfer-Encoding: chunked", body=chunked(BODY)),
    "a byte a chunk": request(
        "POST /v1/orders", "Transfer-Encoding: chunked", body=chunked(*(b"%c" % b for b in BODY))
    ),
    "chunk extension": request(
        "POST /v1/orders", "Transfer-Encoding: chunked", body=b"f;a=b\r\n" + BODY + b"\r\n0\r\n\r\n"
    ),
    "trailer": request(
        "POST /v1/orders", "Transfer-Encoding: chunked", body=chunked(BODY)[:-2] + b"X-User-Id: 1\r\n\r\n"
    ),
    "HTTP/1.0": request("POST /v1/orders HTTP/1.0", sized(BODY), body=BODY),
    "an absolute address": request("POST http://shop/v1/orders", sized(BODY), body=BODY),
    "1,000 headers": request("POST /v1/orders", *(f"X-{n}: a" for n in range(90)), sized(BODY), body=BODY),
    "high bytes in a header": request("POST /v1/orders", "X-A: \xff\xfe", sized(BODY), body=BODY),
    "upgrade": request("POST /v1/orders", "Upgrade: websocket", sized(BODY), body=BODY),
    "empty lines first": b"\r\n\r\n" + request("POST /v1/orders", sized(BODY), body=BODY),
    "lines without CR": request("POST /v1/orders", sized(BODY)).replace(b"\r\n", b"\n") + BODY,
}


@pytest.mark.parametrize("name", ODD)
async def test_unusual_but_valid_http_is_served(shop: Shop, name: str) -> None:
    assert (await shop.send(ODD[name])).status == 200
    seen = shop.only("orders")
    assert (seen.path.removeprefix("http://shop"), seen.body) == ("/v1/orders", BODY)
    assert seen.all("X-User-Id") == ["7"]
    assert seen.all("Upgrade") == []


@pytest.mark.parametrize("key", ["X-A: b", KEY])
async def test_a_body_of_64_kib_arrives(shop: Shop, key: str) -> None:
    body = bytes(n % 251 for n in range(65536))
    assert (await shop.ask("POST /v1/orders", key, body=body)).status == 200
    assert shop.only("orders").body == body


@pytest.mark.parametrize("key", ["X-A: b", KEY])
async def test_a_client_that_expects_100_continue_gets_it(shop: Shop, key: str) -> None:
    for path in ("/v1/orders", "/auth/login"):
        reader, writer = await asyncio.open_connection(ports.LOOPBACK, shop.port)
        writer.write(request(f"POST {path}", key, "Content-Length: 3", "Expect: 100-continue"))
        async with asyncio.timeout(2):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            writer.write(b"abc")
            assert b"HTTP/1.1 200 " in await reader.read()
        writer.close()


SMUGGLED = {
    "behind a body of no length": request("POST /v1/orders", "Content-Length: 0", close=True) + INNER,
    "as a body": request("POST /v1/orders", sized(INNER), body=INNER),
    "as a body of a GET": request("GET /v1/orders", sized(INNER), body=INNER),
    "as a body of a public GET": request("GET /products/", sized(INNER), body=INNER),
    "as chunks": request("POST /v1/orders", "Transfer-Encoding: chunked", body=chunked(INNER)),
    "as a chunk's extension": request("POST /v1/orders", "Transfer-Encoding: chunked", body=b"1;\n" + INNER),
    "as a trailer": request("POST /v1/orders", "Transfer-Encoding: chunked", body=b"0\r\n" + INNER),
    "as an underscored encoding": request("POST /v1/orders", "Transfer_Encoding: chunked", sized(INNER), body=INNER),
    "where the service does not read": request("PATCH /users/1", sized(INNER), body=INNER),
    "in a header": request("GET /v1/orders", "X-A: b\nGET /users/smuggled HTTP/1.1\nHost: x"),
    "in a query": request("GET /v1/orders?a%20HTTP/1.1%0d%0aHost:x%0d%0a%0d%0aGET%20/users/smuggled"),
    "in a path": request("GET /users/1%20HTTP/1.1%0d%0a%0d%0aGET%20/x"),
    "in a key": request(
        "POST /v1/orders", "Idempotency-Key: %0d%0a%0d%0aGET /users/2 HTTP/1.1", sized(BODY), body=BODY
    ),
    "said to be shorter": request("POST /v1/orders", "Content-Length: 3", body=b"abc" + INNER),
}


@pytest.mark.parametrize("name", SMUGGLED)
@pytest.mark.parametrize("reads", [True, False])
async def test_no_part_of_a_request_becomes_another_request(shop: Shop, name: str, reads: bool) -> None:
    for upstream in shop.upstreams.values():
        upstream.reads = reads
    for sent in (SMUGGLED[name], SMUGGLED[name].replace(b"Host: ", b"Idempotency-Key: k\r\nHost: ", 1)):
        half = len(sent) - len(INNER)
        await shop.raw(sent)
        await shop.raw(sent[:half], sent[half:], pause=0.02)
    for upstream in shop.upstreams.values():
        upstream.reads = True
    before = len(shop.orders.seen)
    assert {answer.status for answer in await shop.many(20, "GET /v1/orders")} == {200}  # on the connections left open
    assert {(seen.path, seen.body) for seen in shop.orders.seen[before:]} == {("/v1/orders", b"")}
    assert "smuggled" not in str([seen.path for seen in shop.upstreams["users"].seen])


async def test_pipelined_requests_are_answered_in_order_and_independently(shop: Shop) -> None:
    raw = await shop.raw(
        request("GET /v1/orders", close=False)
        + request("POST /v1/orders", KEY, sized(BODY), body=BODY, close=False)
        + request("GET /v1/orders", token=None, close=False)
        + request("GET /products/", token=None, close=False)
        + request("PATCH /users/1", "Transfer-Encoding: chunked", body=chunked(BODY), close=False)
        + request("GET /nowhere")
    )
    assert re.findall(rb"HTTP/1\.1 (\d+) ", raw) == [b"200", b"200", b"401", b"200", b"200", b"404"]
    assert shop.upstreams["products"].seen[0].all("X-User-Id") == []


async def test_a_client_that_disconnects_at_any_byte_does_no_harm(shop: Shop) -> None:
    whole = request("POST /v1/orders", KEY, sized(BODY), body=BODY, close=False)

    async def hang_up_after(count: int) -> None:
        _, writer = await asyncio.open_connection(ports.LOOPBACK, shop.port)
        writer.write(whole[:count])
        await writer.drain()
        if count % 2:
            writer.transport.abort()
        writer.close()

    for start in range(0, len(whole), 16):
        await asyncio.gather(*(hang_up_after(n) for n in range(start, min(start + 16, len(whole)))))
    assert {seen.body for seen in shop.orders.seen} <= {BODY}


# Slow clients


@dataclass
class Timed:
    """When and how the gateway ended a slow client."""

    seconds: float = 0.0
    raw: bytes = b""
    statuses: list[int] = field(default_factory=list)


async def timed(shop: Shop, *pieces: bytes, pause: float = 0.0) -> Timed:
    started = time.monotonic()
    raw = await shop.raw(*pieces, pause=pause)
    return Timed(time.monotonic() - started, raw, [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", raw)])


async def test_slow_senders_of_every_kind_are_ended_while_others_are_served(shop: Shop, lag: Lag) -> None:
    length, chunks = (
        request("POST /v1/orders", "Content-Length: 99"),
        request("POST /v1/orders", "Transfer-Encoding: chunked"),
    )
    keyed_length, keyed_chunks = (text.replace(b"Host: ", b"Idempotency-Key: k\r\nHost: ") for text in (length, chunks))
    byte = [b" "] * 99
    # The first number is the seconds that the client has, the second is the status that it gets at the end.
    slow: dict[str, tuple[float, int | None, Awaitable[Timed]]] = {
        "no header": (2, None, timed(shop, b"GET")),
        "headers a byte at a time": (
            2,
            None,
            timed(shop, *(b"%c" % b for b in b"GET / HTTP/1.1\r\nX-A: " + b"a" * 99), pause=0.1),
        ),
        "never a byte": (3, 400, timed(shop, length)),
        "stops in the middle": (3, 400, timed(shop, length + b"a")),
        "a byte at a time": (3, 400, timed(shop, length, *byte, pause=0.1)),
        "a chunk that never ends": (3, 400, timed(shop, chunks + b"ff\r\n{")),
        "chunks without end": (3, 400, timed(shop, chunks, *[b"1\r\n \r\n"] * 99, pause=0.1)),
        "never a byte, with a key": (3, None, timed(shop, keyed_length)),
        "stops in the middle, with a key": (3, None, timed(shop, keyed_length + b"a")),
        "a chunk that never ends, with a key": (3, None, timed(shop, keyed_chunks + b"ff\r\n{")),
        # There is no limit for the whole body, so these have all the time that they need.
        "a byte at a time, with a key": (8, 200, timed(shop, keyed_length, *byte, pause=0.08)),
        "chunks that end late, with a key": (
            8,
            200,
            timed(shop, keyed_chunks, *[b"1\r\n \r\n"] * 80, b"0\r\n\r\n", pause=0.1),
        ),
    }

    async def others() -> list[float]:
        taken = []
        for _ in range(40):
            started = time.monotonic()
            assert (await shop.ask("GET /v1/orders")).status == 200
            taken.append(time.monotonic() - started)
            await asyncio.sleep(0.1)
        return taken

    began = time.monotonic()
    taken, *found = await asyncio.gather(others(), *(work for _, _, work in slow.values()))
    late = lag.seconds(began, time.monotonic())
    assert max(taken) < 1 + late
    for (name, (seconds, status, _)), one in zip(slow.items(), found, strict=True):
        assert one.seconds < seconds + 1.5 + 2 * late, name
        assert one.statuses == ([status] if status else []), name


async def test_a_client_that_does_not_read_is_disconnected_and_the_service_is_free(shop: Shop) -> None:
    freed = asyncio.Event()

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"a" * 65536)
        finally:
            freed.set()

    shop.orders.handler = endless
    _, writer = await asyncio.open_connection(ports.LOOPBACK, shop.port, limit=1024)
    writer.write(request("GET /v1/orders"))
    started = time.monotonic()
    async with asyncio.timeout(13):
        await freed.wait()
    assert time.monotonic() - started > 9  # send_timeout, and not much more
    writer.close()


# The console and the storefront


@pytest.mark.parametrize(
    ("first", "owner"),
    [
        *((first, "console") for first in ("GET /console/", "HEAD /console/", "POST /console/login")),
        *((first, "storefront") for first in ("GET /", "HEAD /", "GET /?x=%2f", "POST /shop/orders")),
        ("GET /console/orders/1?x=%2f", "console"),
        ("GET /shop/orders/1?x=%2f", "storefront"),
    ],
)
async def test_pages_need_no_token_of_the_shop_and_see_the_address_that_the_browser_asked(
    shop: Shop, first: str, owner: str
) -> None:
    body = b"a=b" if first.startswith("POST") else b""
    answer = await shop.ask(first, *SPOOFED, "Cookie: session=x", body=body, token=None)
    seen = shop.only(owner)
    assert (answer.status, f"{seen.method} {seen.path}", seen.body) == (200, first, body)
    assert (seen.all("Host"), seen.all("Cookie"), seen.all("X-Forwarded-Proto")) == (["shop"], ["session=x"], ["http"])
    assert seen.all("X-Real-IP") == seen.all("X-Forwarded-For") == [ports.LOOPBACK]
    assert seen.all("X-Request-Id") == [answer.get("X-Request-Id")]
    assert "evil" not in str(seen.headers)
    assert shop.auth.validations == []


async def test_the_consoles_missing_slash_is_redirected(shop: Shop) -> None:
    answer = await shop.ask("GET /console", token=None)
    assert (answer.status, answer.get("Location")) == (308, "/console/")


@pytest.mark.parametrize(
    "path",
    [
        *("/otlp/v1/traces", "/readyz", "/metrics", "/console/../otlp/v1/traces", "/console/..%2fotlp/v1/traces"),
        *("/otlp/v1/..%2f..%2fconsole/", "/readyz/..%2fconsole/", "/%6ftlp/..%2fconsole/", "/products/..%2fconsole/"),
        *("/admin/..%2fconsole/", "/%63onsole/", "//console/", "/./console/", "/CONSOLE/", "/consolex", "/console;/"),
        *("/readyz/..%2fshop/orders", "/shop/..%2fmetrics", "/products/..", "/users/..%2f", "/shop", "/Shop/", "/./"),
        "http://shop/otlp/v1/traces",
    ],
)
async def test_nothing_but_pages_is_public(shop: Shop, path: str) -> None:
    for method in ("GET", "POST"):
        answer = await shop.ask(f"{method} {path}", body=b"" if method == "GET" else b"{}")
        assert (answer.status, answer.problem) == (404, "not-found")
    assert shop.seen == {}


@pytest.mark.parametrize("path", ["/console/", "/", "/shop/orders"])
async def test_no_page_is_asked_about_an_unknown_verb(shop: Shop, path: str) -> None:
    answer = await shop.ask(f"TRACE {path}")
    assert (answer.status, answer.problem, answer.get("Allow")) == (405, "method-not-allowed", "GET, HEAD, POST")
    assert shop.seen == {}


async def test_without_the_console_its_pages_are_a_clear_problem_and_the_shop_works(shop: Shop) -> None:
    await shop.upstreams["console"].stop()
    for first in ("GET /console/", "POST /console/login", "DELETE /console/x"):
        answer = await shop.ask(first, token=None)
        assert (answer.status, answer.problem, answer.get("Retry-After")) == (503, "unavailable", "1")
        assert b"the console does not answer" in answer.body
    assert (await shop.ask("GET /v1/orders")).status == 200


async def test_without_the_storefront_the_first_page_is_that_of_the_api_and_the_shop_works(shop: Shop) -> None:
    await shop.upstreams["storefront"].stop()
    front = await shop.ask("GET /", token=None)
    assert (front.status, front.get("Location")) == (302, "/docs")
    for first in ("GET /shop/orders/1", "POST /shop/orders"):
        answer = await shop.ask(first, token=None)
        assert (answer.status, answer.problem, answer.get("Retry-After")) == (503, "unavailable", "1")
        assert b"the storefront does not answer" in answer.body
    assert (await shop.ask("GET /v1/orders")).status == 200


async def test_a_storefront_that_fails_is_not_hidden(shop: Shop) -> None:
    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=500, text="a page about the failure")

    shop.upstreams["storefront"].handler = fail
    answer = await shop.ask("GET /", token=None)
    assert (answer.status, answer.body) == (500, b"a page about the failure")


async def test_the_gateway_starts_although_the_names_of_pages_have_no_address(tmp_path: Path) -> None:
    nowhere = {"CONSOLE_UPSTREAM": "console.invalid:8086", "STOREFRONT_UPSTREAM": "storefront.invalid:8087"}
    async with opened(tmp_path, **nowhere) as shop:
        assert (await shop.ask("GET /v1/orders")).status == 200
        assert (await shop.ask("GET /console/", token=None)).problem == "unavailable"
        assert (await shop.ask("GET /", token=None)).get("Location") == "/docs"


async def test_while_auth_is_down_the_console_is_reached(shop: Shop) -> None:
    await shop.auth.stop()
    assert (await shop.ask("GET /console/", token=None)).status == 200


@pytest.mark.parametrize(("path", "owner"), [("/console/logs/stream", "console"), ("/shop/orders/1", "storefront")])
async def test_an_event_of_a_page_arrives_when_it_is_sent(shop: Shop, path: str, owner: str) -> None:
    seen = asyncio.Semaphore(0)

    async def events(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await response.write(b"data: %d\n\n" % number)
            await asyncio.wait_for(seen.acquire(), 10)
        return response

    shop.upstreams[owner].handler = events
    reader, writer = await asyncio.open_connection(ports.LOOPBACK, shop.port)
    writer.write(request(f"GET {path}", token=None))
    for number in range(3):
        assert await asyncio.wait_for(reader.readuntil(b"data: %d\n\n" % number), 5)
        seen.release()
    assert await reader.read()
    writer.close()


@pytest.mark.parametrize(("path", "owner"), [("/console/", "console"), ("/", "storefront"), ("/shop/x", "storefront")])
async def test_pages_have_their_own_content_policy_and_a_browser_tells_where_a_form_came_from(
    shop: Shop, path: str, owner: str
) -> None:
    own = "default-src 'none'; script-src 'self'"

    async def page(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(headers={"Content-Security-Policy": own})

    expected = SECURITY | {"referrer-policy": "same-origin"}
    answer = await shop.ask(f"GET {path}")
    assert {name: answer.get(name) for name in SECURITY} == expected
    shop.upstreams[owner].handler = page
    answer = await shop.ask(f"GET {path}")
    assert {name: answer.get(name) for name in SECURITY} == expected | {"content-security-policy": own}


@pytest.mark.parametrize("path", ["/console/login", "/console/./lo%67in", "/console/login/"])
async def test_logins_to_the_console_have_a_stricter_limit(limited: Shop, path: str) -> None:
    answers = [await limited.ask(f"POST {path}", body=b"a=b", token=None) for _ in range(12)]
    assert 6 <= Counter(answer.status for answer in answers)[200] <= 8
    assert (answers[-1].problem, answers[-1].get("Retry-After")) == ("too-many-requests", "1")
    assert (await limited.ask("GET /console/login", token=None)).status == 200
    assert (await limited.ask("POST /auth/login", body=b"{}", token=None)).status == 200
    assert (await limited.ask(f"POST {path}", body=b"a=b", token=None, source=OTHER)).status == 200


# Traces

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    "first", ["GET /v1/orders", "POST /v1/orders", "GET /products/", "DELETE /users/1", "GET /console/"]
)
async def test_the_public_cannot_decide_which_traces_are_kept(shop: Shop, first: str) -> None:
    for key in ("X-A: b", KEY):
        await shop.ask(
            first, key, f"traceparent: {TRACE}", f"Traceparent: {TRACE}", "tracestate: a=b", "TRACESTATE: c=d"
        )
        await shop.ask(first, key, f"TraceParent: {TRACE}", "X-Client-Traceparent: evil", "X_Client_Traceparent: evil")
    ((*seen,),) = shop.seen.values()
    assert len(seen) == 4
    for one in [*seen, *shop.auth.validations]:
        assert one.all("traceparent") == one.all("tracestate") == []
        assert "evil" not in str(one.headers)


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        (TRACE, [TRACE]),
        ("cc-" + TRACE[3:] + "-what-the-future-will-be", ["cc-" + TRACE[3:]]),
        ("ff-" + TRACE[3:], []),
        (TRACE.upper(), []),
        (TRACE + "0", []),
        (TRACE[:-1], []),
        (" x" + TRACE, []),
        ("00-" + "0" * 32 + TRACE[35:], []),
        (TRACE[:36] + "0" * 16 + "-01", []),
        ("x" * 5000, []),
        ("\u00e4", []),
        ("", []),
    ],
)
async def test_the_trace_of_a_client_is_passed_on_under_another_name_if_it_is_valid(
    shop: Shop, sent: str, passed: list[str]
) -> None:
    assert (await shop.ask("GET /v1/orders", f"traceparent: {sent}")).status == 200
    assert shop.only("orders").all("X-Client-Traceparent") == passed


# The log


async def test_the_log_has_a_json_object_for_each_request(shop: Shop) -> None:
    before = time.time()
    answer = await shop.ask("POST /v1/orders?a=b", "User-Agent: x", body=b"x")
    entry = await shop.entry(answer.get("X-Request-Id"))
    assert before - 1 < datetime.fromisoformat(entry.pop("time")).timestamp() < time.time() + 1
    assert 0 <= entry.pop("duration") < 15
    assert 0 <= float(entry.pop("upstream_seconds")) < 15
    assert entry == {
        "level": "info",
        "service": "gateway",
        "event": "POST /v1/orders 200",
        "method": "POST",
        "path": "/v1/orders",
        "status": 200,
        "request_id": answer.get("X-Request-Id"),
        "user_id": "7",
        "upstream": f"{ports.LOOPBACK}:{shop.orders.port}",
        "upstream_status": "200",
        "bytes": 2,
        "client": ports.LOOPBACK,
    }


async def test_the_log_shows_what_failed_and_why(shop: Shop) -> None:
    await shop.orders.stop()
    answer = await shop.ask("GET /v1/orders/1")
    entry = await shop.entry(answer.get("X-Request-Id"))
    assert (entry["level"], entry["path"], entry["status"]) == ("error", "/v1/orders/1", 503)
    address = f"{ports.LOOPBACK}:{shop.orders.port}"
    assert (entry["upstream"], entry["upstream_status"]) == (f"{address}, {address}", "502, 502")


async def test_every_line_of_the_log_is_json_whatever_a_client_sends(shop: Shop) -> None:
    before = len(shop.logged())
    for sent in (*BROKEN.values(), b"GET /\r\n", request('GET /"\\\x01\xff{}'), request("GET /%0a%22%00")):
        await shop.raw(sent)
    last = await shop.ask('GET /v1/orders"\\<script>')
    await shop.entry(last.get("X-Request-Id"))
    lines = shop.logged()[before:].splitlines()
    assert len(lines) > len(BROKEN) / 2
    assert {json.loads(line)["service"] for line in lines} == {"gateway"}


async def test_no_token_or_query_is_logged_also_if_a_request_fails(shop: Shop) -> None:
    before = len(shop.logged())
    query = "token=eyJhbGciOiJFZERTQSJ9.secret.secret"
    await shop.orders.stop()
    answers = [
        await shop.ask(
            f"{first}?{query}", f"Referer: http://shop/?{query}", f"Cookie: {query}", token=f"Bearer {query}"
        )
        for first in (
            "GET /v1/orders",
            "POST /v1/orders",
            "GET /docs/none",
            "GET /products/",
            "TRACE /x",
            "GET /console/",
        )
    ]
    await shop.ask(f"GET /v1/orders?{query}")
    await shop.ask("GET /v1/orders?" + query * 300)
    await shop.raw(request(f"GET /x?{query} HTTP/9"))
    await shop.entry((await shop.ask("GET /nowhere")).get("X-Request-Id"))
    assert {answer.status for answer in answers} >= {200, 401, 404, 405}
    assert "secret" not in shop.logged()[before:]


# Limits


OTHER = "127.0.0.2"


async def test_too_many_requests_of_an_address_get_429_with_retry_after_and_no_others_do(limited: Shop) -> None:
    answers = [await limited.ask("GET /v1/orders") for _ in range(100)]
    found = Counter(answer.status for answer in answers)
    assert 30 < found[200] < 70
    assert found[429] == 100 - found[200]
    refused = next(answer for answer in answers if answer.status == 429)
    assert (refused.problem, refused.get("Retry-After")) == ("too-many-requests", "1")
    assert len(limited.orders.seen) == found[200]
    assert (await limited.ask("GET /v1/orders", source=OTHER)).status == 200
    assert limited.orders.seen[-1].all("X-Real-IP") == [OTHER]

    async def again() -> bool:
        return (await limited.ask("GET /v1/orders")).status == 200

    await eventually(again, seconds=3)


@pytest.mark.parametrize(
    "path",
    [
        "/auth/login",
        "/auth/register",
        "/auth/refresh",
        "/auth/login/",
        "/auth/x/../lo%67in",
        "/auth/visitor",
        "/shop/orders",
    ],
)
async def test_logins_have_their_own_limit_which_does_not_affect_other_requests(limited: Shop, path: str) -> None:
    answers = [await limited.ask(f"POST {path}", body=b"{}", token=None) for _ in range(26)]
    found = Counter(answer.status for answer in answers)
    assert 21 <= found[200] <= 23
    assert answers[-1].problem == "too-many-requests"
    assert answers[-1].get("Retry-After") == "1"
    assert (await limited.ask("GET /v1/orders")).status == 200
    assert (await limited.ask(f"POST {path}", body=b"{}", token=None, source=OTHER)).status == 200


async def test_an_address_cannot_exceed_its_connections_with_slow_requests(limited: Shop) -> None:
    head = request("POST /v1/orders", KEY, "Content-Length: 50")
    drips = [asyncio.create_task(timed(limited, head, *[b" "] * 50, pause=0.03)) for _ in range(4)]
    drips_done = asyncio.gather(*drips)

    await asyncio.sleep(0.1)  # they must be first

    async def full() -> bool:
        answer = await limited.ask("GET /v1/orders")
        return answer.status == 429 and answer.problem == "too-many-requests" and answer.get("Retry-After") == "1"

    await eventually(full, seconds=1, pause=0.1)
    assert (await limited.ask("GET /v1/orders", source=OTHER)).status == 200
    assert [one.statuses for one in await drips_done] == [[200]] * 4  # and no service had to wait for them
    assert (await limited.ask("GET /v1/orders")).status in {200, 429}
