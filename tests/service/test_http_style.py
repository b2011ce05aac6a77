"""What all services have in common over HTTP: slashes, methods, request ids, caching, and calls without a token."""

import re
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from shared.process import secret
from tests.service.conftest import Client, Serve
from tests.tokens import USER, Mint

BURGERS = {"product_id": 1, "quantity": 2}


async def problem(answer: Any) -> tuple[int, str]:
    shown = await answer.json(content_type="application/problem+json")
    return answer.status, shown["detail"]


# Slashes and methods


@pytest.mark.parametrize("ending", ["", "/"])
async def test_a_slash_at_the_end_of_a_path_means_nothing(serve: Serve, mint: Mint, ending: str) -> None:
    orders, products = await serve("orders"), await serve("products")
    for path in ("/orders", "/v1/orders"):
        body = BURGERS if path == "/orders" else {"sku": "burger", "quantity": 2}
        placed = await orders.post(path + ending, json=body, headers=mint.header())
        assert placed.status == 202
        own = f"{path}/{(await placed.json())['id']}"
        assert placed.headers["Location"] == own
        assert (await orders.get(own + ending, headers=mint.header())).status == 200
        assert (await orders.post(f"{own}/cancel{ending}", headers=mint.header())).status == 202
        assert len((await (await orders.get(path + ending, headers=mint.header())).json())["orders"]) >= 1
    assert (await products.get(f"/products/1{ending}")).status == 200


@pytest.mark.parametrize(
    ("service", "path", "methods"),
    [
        ("orders", "/orders/", {"GET", "HEAD", "POST"}),
        ("orders", "/v1/orders/1", {"GET", "HEAD"}),
        ("products", "/products/1", {"GET", "HEAD", "PATCH"}),
        ("users", "/users/me", {"GET", "HEAD", "PATCH", "DELETE"}),
    ],
)
async def test_options_lists_the_methods_of_a_path_and_lets_no_page_of_another_origin_use_them(
    serve: Serve, service: str, path: str, methods: set[str]
) -> None:
    client = await serve(service)
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = await client.options(path, headers=asked)
    assert (answer.status, set(answer.headers["Allow"].split(","))) == (204, methods | {"OPTIONS"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert (await client.options("/nowhere")).status == 404


# One style


async def test_an_order_of_the_shop_shows_its_product_and_its_amount(serve: Serve, mint: Mint) -> None:
    client = await serve("orders")
    placed = await client.post("/orders/", json=BURGERS | {"note": "x"}, headers=mint.header())
    shown = await (await client.get(placed.headers["Location"], headers=mint.header())).json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", shown.pop("created_at"))
    assert shown == {
        "id": int(placed.headers["Location"].rpartition("/")[2]),
        "user_id": USER,
        "status": "PENDING",
        "sku": "burger",
        "product": {"sku": "burger", "product_id": 1, "name": "Burger", "price_cents": 850},
        "quantity": 2,
        "amount_cents": 1700,
        "currency": "EUR",
        "note": "x",
    }
    page = await (await client.get("/orders/", headers=mint.header())).json()
    assert page["orders"][0]["amount_cents"] == 1700
    cancelled = await client.post(f"{placed.headers['Location']}/cancel", headers=mint.header())
    assert (await cancelled.json())["reason"] == "cancelled_by_customer"


async def test_an_order_of_an_unknown_sku_has_no_amount(serve: Serve, mint: Mint) -> None:
    client = await serve("orders")
    placed = await client.post("/v1/orders", json={"sku": "unicorn", "quantity": 1}, headers=mint.header())
    shown = await (await client.get(f"/orders/{(await placed.json())['id']}", headers=mint.header())).json()
    assert (shown["product"], shown["amount_cents"]) == ({"sku": "unicorn"}, None)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"product_id": "1"}, "product_id must be an integer"),
        ([], "the body must be a JSON object"),
        ({"product_id": 1, "qty": 2}, "qty is unknown here; known are: product_id, quantity, note"),
        ({"product_id": 1, "note": 1}, "note must be a text"),
        ({}, "product_id is required"),
    ],
)
async def test_a_wrong_field_of_the_shops_api_is_named_with_its_type(
    serve: Serve, mint: Mint, body: Any, detail: str
) -> None:
    client = await serve("orders")
    assert await problem(await client.post("/orders/", json=body, headers=mint.header())) == (400, detail)


async def test_an_unknown_parameter_of_the_shops_api_is_named(serve: Serve, mint: Mint) -> None:
    client = await serve("orders")
    refused = await client.get("/orders/?limt=5", headers=mint.header())
    known = "user_id, status, sku, limit, cursor"
    assert await problem(refused) == (400, f"limt is unknown here; known are: {known}")
    assert (await client.get("/v1/orders?limt=5", headers=mint.header())).status == 200


# Request ids


@pytest.mark.parametrize(
    "sent", ["abc", "550e8400-e29b-41d4-a716-446655440000", "Root=1-67891233:a/b+c=@_.", "x" * 128]
)
async def test_a_sane_request_id_is_answered_and_is_in_every_line_of_its_work(
    serve: Serve, mint: Mint, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await serve("orders")
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        monkeypatch.setattr("orders.service.cancel", None)  # a defect: its lines must be found
        answer = await client.post("/orders/1/cancel", headers=mint.header() | {"X-Request-Id": sent})
    assert (answer.status, answer.headers["X-Request-Id"]) == (500, sent)
    assert [line["request_id"] for line in lines if line["event"] == "request failed"] == [sent]


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "<script>", "é", "a\tb"])
async def test_an_odd_request_id_is_replaced(serve: Serve, sent: str) -> None:
    client = await serve("products")
    answer = await client.get("/products/1", headers={"X-Request-Id": sent})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])
    other = await client.get("/nowhere", headers={"X-Request-Id": sent})
    assert answer.headers["X-Request-Id"] != other.headers["X-Request-Id"]


# Caching


@pytest.mark.parametrize("path", ["/products/", "/products/1"])
async def test_the_catalogue_is_sent_again_only_if_it_has_changed(serve: Serve, mint: Mint, path: str) -> None:
    client = await serve("products")
    first = await client.get(path)
    tag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "public, no-cache"
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await client.get(path, headers={"If-None-Match": known})
        assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", tag)
    await client.patch("/products/1", json={"price_cents": 900}, headers=mint.admin)
    changed = await client.get(path, headers={"If-None-Match": tag})
    assert (changed.status, changed.headers["ETag"] != tag) == (200, True)


@pytest.mark.parametrize(
    ("service", "path"),
    [("orders", "/orders/"), ("orders", "/v1/orders/x"), ("users", "/users/me"), ("users", "/users/9")],
)
async def test_no_cache_may_keep_what_needs_a_token(serve: Serve, mint: Mint, service: str, path: str) -> None:
    client = await serve(service)
    for headers in (mint.header(), {}):
        assert (await client.get(path, headers=headers)).headers["Cache-Control"] == "no-store"
    assert "Cache-Control" not in (await client.get("/healthz")).headers


# Requests that a web page of a foreign origin can cause


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "json"])
async def test_a_body_that_is_not_declared_as_json_is_refused(orders: Client, kind: str) -> None:
    order = b'{"userId":"u1","sku":"burger","quantity":1}'
    answer = await orders.post("/v1/orders", data=order, headers={"Content-Type": kind})
    assert await problem(answer) == (415, "the body must be sent with Content-Type: application/json")
    assert (await (await orders.get("/v1/orders")).json())["orders"] == []


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_a_body_that_is_declared_as_json_is_accepted(orders: Client, kind: str) -> None:
    order = b'{"userId":"u1","sku":"burger","quantity":1}'
    assert (await orders.post("/v1/orders", data=order, headers={"Content-Type": kind})).status == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8080"},
        {"Host": "localhost.evil.example"},
        {"Host": ""},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
async def test_a_foreign_page_can_neither_order_nor_read_nor_cancel_without_a_token(
    orders: Client, headers: dict[str, str]
) -> None:
    order = {"userId": "u1", "sku": "burger", "quantity": 1}
    order_id = (await (await orders.post("/v1/orders", json=order)).json())["id"]
    assert (await orders.post("/v1/orders", json=order, headers=headers)).status == 403
    assert (await orders.get(f"/v1/orders/{order_id}", headers=headers)).status == 403
    assert (await orders.post(f"/v1/orders/{order_id}/cancel", headers=headers)).status == 403
    (only,) = (await (await orders.get("/v1/orders")).json())["orders"]
    assert only["status"] == "PENDING"


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"])
async def test_a_page_of_the_same_origin_may_call_without_a_token(orders: Client, host: str) -> None:
    assert (await orders.get("/v1/orders", headers={"Host": host, "Origin": f"http://{host}"})).status == 200


async def test_with_a_token_any_host_and_origin_are_accepted(serve: Serve, mint: Mint) -> None:
    client = await serve("orders", require_token=False)
    headers = mint.header() | {"Host": "shop.example", "Origin": "https://app.example"}
    assert (await client.get("/v1/orders", headers=headers)).status == 200


@pytest.mark.parametrize(
    "given", [{}, {"X-Loopback-Secret": "guess"}, {"X-Loopback-Secret": ""}, {"X-Loopback-Secret": "\xff"}]
)
async def test_where_others_reach_the_port_only_the_proxy_on_loopback_needs_no_token(
    serve_orders: Serve, given: dict[str, str]
) -> None:
    client = await serve_orders(loopback_secret=SecretStr("s3cret"))
    refused = await client.post("/v1/orders", json={"userId": "u1", "sku": "burger", "quantity": 1}, headers=given)
    assert refused.status == 401
    known = {"X-Loopback-Secret": "s3cret"}
    assert (await client.get("/v1/orders", headers=known)).status == 200
    assert (await client.get("/v1/orders", headers=known | {"Origin": "https://evil.example"})).status == 403


async def test_the_secret_of_the_proxy_is_rotated_while_both_run(
    serve_orders: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret, "_READ_SECONDS", 0.0)
    file = tmp_path / "secret"
    file.write_text("first")
    client = await serve_orders(loopback_secret_file=file)

    async def statuses(*given: str) -> list[int]:
        asked = [await client.get("/v1/orders", headers={"X-Loopback-Secret": one}) for one in given]
        return [answer.status for answer in asked]

    secret.overlap(file)
    newest, _ = file.read_text().split()
    assert await statuses("first", newest, "", f"{newest} first", "other") == [200, 200, 401, 401, 401]
    secret.settle(file)
    assert await statuses("first", newest) == [401, 200]
    file.write_text("")
    assert await statuses("first", newest, "") == [401, 401, 401]  # an empty file opens nothing


async def test_the_secret_of_the_proxy_opens_nothing_where_every_call_needs_a_token(serve: Serve) -> None:
    client = await serve("orders", loopback_secret=SecretStr("s3cret"))
    assert (await client.get("/v1/orders", headers={"X-Loopback-Secret": "s3cret"})).status == 401
