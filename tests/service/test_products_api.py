"""The catalogue over HTTP: who may read and change it, what it refuses, and the event of each change."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio
from yarl import URL

from shared.web import database
from tests.conftest import Database, copied_from
from tests.service.conftest import Client, Serve, serving
from tests.tokens import ADMIN, USER, Mint, publishing

SALAD = {"sku": "salad", "name": "Salad", "price_cents": 990}
BURGER = {
    "id": 1,
    "sku": "burger",
    "name": "Burger",
    "price_cents": 850,
    "currency": "EUR",
    "active": True,
    "version": 1,
}
ON_ONE = pytest.mark.asyncio(loop_scope="module")  # these share a database, and change nothing


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve("products")


@pytest.fixture(scope="module")
def shared_mint() -> Mint:
    return Mint()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def for_all(template: Database, shared_mint: Mint) -> Any:
    async with (
        copied_from(template) as made,
        publishing(shared_mint) as url,
        serving("products", made.url_for("products"), auth_jwks_url=url) as opened,
    ):
        yield opened


async def published(client: Client, sku: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a sku in the order in which relays read them."""
    rows = await client.app[database.POOL].fetch("select type, value from outbox where key = $1 order by xid, id", sku)
    return [(row["type"], json.loads(row["value"])) for row in rows]


async def add(client: Client, mint: Mint, **changes: Any) -> dict[str, Any]:
    answer = await client.post("/products/", json=SALAD | changes, headers=mint.admin)
    assert answer.status == 201, await answer.text()
    shown: dict[str, Any] = await answer.json()
    return shown


async def patch(client: Client, mint: Mint, product_id: int, **changes: Any) -> Any:
    return await client.patch(f"/products/{product_id}", json=changes, headers=mint.admin)


async def assert_problem(answer: Any, status: int, detail: str | None = None) -> None:
    problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["status"]) == (status, status), problem
    assert detail in (None, problem["detail"])


async def test_a_new_product_is_shown_and_published(client: Client, mint: Mint) -> None:
    answer = await client.post("/products/", json=SALAD, headers=mint.admin)
    assert (answer.status, answer.headers["Location"]) == (201, "/products/6")
    shown = await answer.json()
    assert shown == {"id": 6, "currency": "EUR", "active": True, "version": 1} | SALAD
    assert await (await client.get("/products/6")).json() == shown
    event = shown | {"product_id": shown["id"]}
    del event["id"]
    assert await published(client, "salad") == [("ProductCreated", event)]


async def test_a_change_is_shown_and_published_with_the_next_version(client: Client, mint: Mint) -> None:
    answer = await patch(client, mint, 1, name=" Double Burger ", price_cents=0, active=False)
    assert answer.status == 200
    shown = await answer.json()
    assert shown == BURGER | {"name": "Double Burger", "price_cents": 0, "active": False, "version": 2}
    assert await (await client.get("/products/1")).json() == shown
    event = shown | {"product_id": 1}
    del event["id"]
    assert (await published(client, "burger"))[1:] == [("ProductChanged", event)]


@pytest.mark.parametrize("change", [{}, {"name": "Burger"}, {"price_cents": 850, "active": True}])
async def test_a_change_without_an_effect_is_not_published(client: Client, mint: Mint, change: dict[str, Any]) -> None:
    answer = await patch(client, mint, 1, **change)
    assert (answer.status, await answer.json()) == (200, BURGER)
    assert [type_ for type_, _ in await published(client, "burger")] == ["ProductCreated"]


async def test_an_event_carries_the_trace_of_its_request(client: Client, mint: Mint) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    await client.patch("/products/1", json={"price_cents": 1}, headers=mint.admin | {"traceparent": trace})
    await patch(client, mint, 1, price_cents=2)
    heads = [row[0] for row in await client.app[database.POOL].fetch("select head from outbox where key = 'burger'")]
    assert [head.endswith(trace.encode()) for head in heads] == [False, True, False]


async def test_a_sku_can_exist_only_once(client: Client, mint: Mint) -> None:
    await add(client, mint)
    answer = await client.post("/products/", json=SALAD | {"name": "Other"}, headers=mint.admin)
    await assert_problem(answer, 409, "there is a product salad already")
    assert len(await published(client, "salad")) == 1


async def test_only_one_of_fifty_requests_adds_the_same_sku(client: Client, mint: Mint) -> None:
    answers = await asyncio.gather(
        *(client.post("/products/", json=SALAD, headers=mint.admin) for _ in range(50)),
    )
    assert sorted(answer.status for answer in answers) == [201] + [409] * 49
    assert [type_ for type_, _ in await published(client, "salad")] == ["ProductCreated"]


async def test_fifty_changes_at_once_are_all_made_and_each_has_its_version(client: Client, mint: Mint) -> None:
    fields = [{"name": f"Burger {n}"} if n % 2 else {"price_cents": n} for n in range(50)]
    answers = await asyncio.gather(*(patch(client, mint, 1, **change) for change in fields))
    shown = [await answer.json() for answer in answers]
    assert sorted(one["version"] for one in shown) == list(range(2, 52))
    events = [event for _, event in await published(client, "burger")]
    assert [event["version"] for event in events] == list(range(1, 52))
    for before, after in pairwise(events):
        assert sum(before[name] != after[name] for name in ("name", "price_cents")) == 1


async def test_only_one_of_fifty_changes_of_one_version_is_made(client: Client, mint: Mint) -> None:
    answers = await asyncio.gather(*(patch(client, mint, 1, price_cents=n, version=1) for n in range(50)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 49
    assert (await (await client.get("/products/1")).json())["version"] == 2


async def test_a_change_of_an_old_version_is_refused(client: Client, mint: Mint) -> None:
    assert (await patch(client, mint, 1, price_cents=1, version=1)).status == 200
    await assert_problem(await patch(client, mint, 1, price_cents=2, version=1), 409, "the product is at version 2")
    assert (await patch(client, mint, 1, price_cents=2, version=2)).status == 200


async def test_the_list_has_the_active_products_in_pages(client: Client, mint: Mint) -> None:
    await patch(client, mint, 2, active=False)
    pages, cursor = [], ""
    while cursor is not None:
        page = await (await client.get("/products/?limit=2" + (cursor and f"&cursor={cursor}"))).json()
        pages.append([product["id"] for product in page["products"]])
        cursor = page["next_cursor"]
    assert pages == [[1, 3], [4, 5]]
    page = await (await client.get("/products/")).json()
    assert (page["products"][0], page["next_cursor"]) == (BURGER, None)


async def test_a_withdrawn_product_is_still_shown_at_its_id(client: Client, mint: Mint) -> None:
    added = await add(client, mint, active=False)
    assert await (await client.get(f"/products/{added['id']}")).json() == SALAD | {
        "id": added["id"],
        "currency": "EUR",
        "active": False,
        "version": 1,
    }


async def test_a_process_without_the_api_part_has_no_api(serve: Serve) -> None:
    client = await serve("products", only=["relay"])
    assert [(await client.get(path)).status for path in ("/products/", "/openapi.json")] == [404, 404]


@ON_ONE
@pytest.mark.parametrize("path", ["/products/", "/products/1"])
async def test_every_caller_may_read(for_all: Any, shared_mint: Mint, path: str) -> None:
    for headers in ({}, shared_mint.header(), shared_mint.admin, Mint().admin, {"Authorization": "nonsense"}):
        assert (await for_all.get(path, headers=headers)).status == 200


@ON_ONE
@pytest.mark.parametrize(("method", "path"), [("post", "/products/"), ("patch", "/products/1")])
async def test_only_administrators_may_write(for_all: Any, shared_mint: Mint, method: str, path: str) -> None:
    late = shared_mint.header(ADMIN, "admin", exp=1)
    for headers, status in (
        ({}, 401),
        ({"Authorization": "nonsense"}, 401),
        (Mint().admin, 401),
        (late, 401),
        (shared_mint.header(USER), 403),
        (shared_mint.header(ADMIN, "administrator"), 403),
    ):
        await assert_problem(await getattr(for_all, method)(path, json=SALAD, headers=headers), status)
    assert await (await for_all.get("/products/1")).json() == BURGER


def raw(field: str, value: bytes) -> bytes:
    return json.dumps(SALAD | {field: "@"}).encode().replace(b'"@"', value)


NO_JSON = {
    "empty": (b"", "invalid json"),
    "truncated": (raw("name", b'"x"')[:-1], "invalid json"),
    "array": (b"[]", "the body must be a JSON object"),
    "text": (b'"salad"', "the body must be a JSON object"),
    "invalid UTF-8": (raw("name", b'"\xff"'), "invalid json"),
    "lone surrogate": (raw("name", rb'"\ud800"'), "invalid json"),
    "NaN": (raw("price_cents", b"NaN"), "invalid json"),
    "name number": (raw("name", b"1"), "name must be a text"),
    "name list": (raw("name", b'["x"]'), "name must be a text"),
    "NUL in the name": (raw("name", rb'"a\u0000"'), "name must not contain NUL"),
    "price text": (raw("price_cents", b'"1"'), "price_cents must be an integer"),
    "price 1.0": (raw("price_cents", b"1.0"), "price_cents must be an integer"),
    "price true": (raw("price_cents", b"true"), "price_cents must be an integer"),
    "price 2^64": (raw("price_cents", b"18446744073709551616"), "price_cents must be an integer"),
    "active 1": (raw("active", b"1"), "active must be true or false"),
    "active text": (raw("active", b'"true"'), "active must be true or false"),
}

PRICES = {
    "minus one": (raw("price_cents", b"-1"), "price_cents must be at least 0"),
    "too dear": (raw("price_cents", b"1000000001"), "price_cents must be at most 1000000000"),
    "2^63": (raw("price_cents", b"9223372036854775808"), "price_cents must be at most 1000000000"),
}

NAMES = {
    "blank name": (raw("name", b'" \\n"'), "name is required"),
    "long name": (raw("name", b'"%s"' % (b"x" * 129)), "name must have at most 128 characters"),
}

NULLS = {
    "null name": (raw("name", b"null"), "name is required"),
    "null price": (raw("price_cents", b"null"), "price_cents is required"),
    "null active": (raw("active", b"null"), "active is required"),
}

NO_ENTRY = {
    "null": (b"null", "sku is required"),
    "nothing": (b"{}", "sku is required"),
    "only a sku": (b'{"sku":"x"}', "name is required"),
    "null sku": (raw("sku", b"null"), "sku is required"),
    "no money of ours": (raw("currency", b'"USD"'), "currency must be EUR"),
}

BAD_SKUS = [b"", b" ", b"Burger", b"-a", b".a", b"a b", b"a/b", b"a\\n", b"\xc3\xa4", b"a" * 65, rb"a\u0000", b"a%00"]

NO_CHANGE = {
    "null version": (raw("version", b"null"), "version is required"),
    "version 0": (raw("version", b"0"), "version must be > 0"),
    "version 2^31": (raw("version", b"2147483648"), None),
    "version 1.0": (raw("version", b"1.0"), "version must be an integer"),
}


async def assert_refused(client: Any, mint: Mint, method: str, data: bytes, detail: str | None) -> None:
    path = {"post": "/products/", "patch": "/products/1"}[method]
    await assert_problem(await getattr(client, method)(path, data=data, headers=mint.admin), 400, detail)
    assert await (await client.get("/products/1")).json() == BURGER


@ON_ONE
@pytest.mark.parametrize("method", ["post", "patch"])
@pytest.mark.parametrize(("data", "detail"), NO_JSON.values(), ids=NO_JSON)
async def test_a_field_of_the_wrong_type_is_named(
    for_all: Any, shared_mint: Mint, method: str, data: bytes, detail: str
) -> None:
    await assert_refused(for_all, shared_mint, method, data, detail)


@ON_ONE
@pytest.mark.parametrize("method", ["post", "patch"])
@pytest.mark.parametrize(("data", "detail"), (PRICES | NAMES | NULLS).values(), ids=PRICES | NAMES | NULLS)
async def test_an_invalid_field_is_named(
    for_all: Any, shared_mint: Mint, method: str, data: bytes, detail: str
) -> None:
    await assert_refused(for_all, shared_mint, method, data, detail)


@ON_ONE
@pytest.mark.parametrize(("data", "detail"), NO_ENTRY.values(), ids=NO_ENTRY)
async def test_a_product_has_a_sku_a_name_and_a_price_in_euro(
    for_all: Any, shared_mint: Mint, data: bytes, detail: str
) -> None:
    await assert_refused(for_all, shared_mint, "post", data, detail)


@ON_ONE
@pytest.mark.parametrize("sku", BAD_SKUS, ids=ascii)
async def test_a_sku_is_a_short_text_of_simple_characters(for_all: Any, shared_mint: Mint, sku: bytes) -> None:
    detail = "sku must match ^[a-z0-9][a-z0-9._-]{0,63}$"
    await assert_refused(for_all, shared_mint, "post", raw("sku", b'"%s"' % sku), detail)


@ON_ONE
@pytest.mark.parametrize(("data", "detail"), NO_CHANGE.values(), ids=NO_CHANGE)
async def test_a_version_is_a_positive_integer(
    for_all: Any, shared_mint: Mint, data: bytes, detail: str | None
) -> None:
    await assert_refused(for_all, shared_mint, "patch", data, detail)


async def test_the_largest_values_are_accepted(client: Client, mint: Mint) -> None:
    most = {"sku": "9" + "._-a" * 15 + "zzz", "name": "\U0001f35f" * 128, "price_cents": 10**9, "currency": "EUR"}
    assert len(most["sku"]) == 64
    added = await add(client, mint, **most)
    assert {name: added[name] for name in most} == most


@ON_ONE
@pytest.mark.parametrize("product_id", ["abc", "0", "-1", "1.0", "9223372036854775808", "%00", "%ff", "%D9%A1"])
async def test_an_id_is_a_positive_64_bit_integer(for_all: Any, shared_mint: Mint, product_id: str) -> None:
    url = URL(f"/products/{product_id}", encoded=True)
    await assert_problem(await for_all.get(url), 400, "invalid id")
    await assert_problem(await for_all.patch(url, data=b"{}", headers=shared_mint.admin), 400, "invalid id")


@ON_ONE
@pytest.mark.parametrize("product_id", ["999", "9223372036854775807"])
async def test_an_unknown_product_is_not_found(for_all: Any, shared_mint: Mint, product_id: str) -> None:
    await assert_problem(await for_all.get(f"/products/{product_id}"), 404, "not found")
    answer = await for_all.patch(f"/products/{product_id}", data=b'{"name":"x"}', headers=shared_mint.admin)
    await assert_problem(answer, 404, "not found")


@ON_ONE
@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=1.0", "cursor=0", "cursor=x", "cursor=", "cursor=%00"]
)
async def test_an_invalid_query_is_refused(for_all: Any, query: str) -> None:
    await assert_problem(await for_all.get(URL(f"/products/?{query}", encoded=True)), 400)


@ON_ONE
async def test_the_largest_cursor_returns_an_empty_page(for_all: Any) -> None:
    page = await (await for_all.get(f"/products/?cursor={2**63 - 1}&limit=100")).json()
    assert page == {"products": [], "next_cursor": None}


@ON_ONE
async def test_the_document_describes_the_served_operations(for_all: Any) -> None:
    document = await (await for_all.get("/openapi.json")).json()
    served = {
        (method, path): found["security"] for path, of in document["paths"].items() for method, found in of.items()
    }
    token = [{"accessToken": []}]
    assert served == {
        ("get", "/products/"): [],
        ("get", "/products/{id}"): [],
        ("post", "/products/"): token,
        ("patch", "/products/{id}"): token,
    }
    change = document["components"]["schemas"]["ChangeProduct"]
    assert "required" not in change
    assert "default" not in change["properties"]["active"]
