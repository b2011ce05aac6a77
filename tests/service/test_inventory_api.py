"""Stock over HTTP: who may see how much of it, and a restock with a key is applied once."""

import asyncio
from typing import Any
from unittest.mock import ANY

import pytest
from yarl import URL

from contracts.products import ProductCreated
from inventory import consumer, domain, service, store
from shared import postgres
from shared.delivery.handling import Handling
from shared.web import database
from tests.builders import order_created, record
from tests.service.conftest import Client, Serve
from tests.tokens import ADMIN, OTHER, USER, Mint

PLENTY = 1_000_000


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve("inventory")


async def deliver(client: Client, *events: Any) -> None:
    handling = Handling(client.app[database.POOL], "inventory", consumer.HANDLERS, also_lock=service.STOCK_LOCK)
    await handling.handle([record(event) for event in events])


async def restock(client: Client, headers: dict[str, str], sku: str = "burger", **changes: Any) -> Any:
    return await client.post(f"/inventory/{sku}/restock", json={"quantity": 5} | changes, headers=headers)


async def units(client: Client, sku: str = "burger") -> int:
    found: int = await client.app[database.POOL].fetchval("select available from stock where sku = $1", sku)
    return found


async def count(client: Client, table: str) -> int:
    found: int = await client.app[database.POOL].fetchval(f"select count(*) from {table}")
    return found


async def assert_problem(answer: Any, status: int, detail: str | None = None) -> None:
    problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["status"]) == (status, status), problem
    assert detail in (None, problem["detail"])


async def test_a_user_sees_available_units_and_an_administrator_sees_all_units(client: Client, mint: Mint) -> None:
    await deliver(client, order_created(quantity=2))
    answer = await client.get("/inventory/burger", headers=mint.header())
    assert (answer.status, await answer.json()) == (200, {"sku": "burger", "available": PLENTY - 2})
    answer = await client.get("/inventory/burger", headers=mint.admin)
    assert await answer.json() == {"sku": "burger", "available": PLENTY - 2, "held": 2, "sold": 0}
    answer = await client.get("/inventory/lobster", headers=mint.admin)
    assert await answer.json() == {"sku": "lobster", "available": 0, "held": 0, "sold": 0}


async def test_a_restock_adds_units_and_shows_the_stock(client: Client, mint: Mint) -> None:
    answer = await restock(client, mint.admin, "lobster")
    assert (answer.status, "Idempotent-Replayed" in answer.headers) == (200, False)
    assert await answer.json() == {"sku": "lobster", "available": 5, "held": 0, "sold": 0}
    assert await (await restock(client, mint.admin, "lobster", quantity=PLENTY)).json() == {
        "sku": "lobster",
        "available": PLENTY + 5,
        "held": 0,
        "sold": 0,
    }
    assert (await count(client, "restocks"), await count(client, "outbox")) == (0, 0)


async def test_a_new_product_can_be_restocked(client: Client, mint: Mint) -> None:
    await assert_problem(await restock(client, mint.admin, "salad"), 404, "not found")
    fields = {"sku": "salad", "name": "Salad", "price_cents": 990, "currency": "EUR", "active": True}
    await deliver(client, ProductCreated(version=1, product_id=6, **fields))
    assert await (await client.get("/inventory/salad", headers=mint.header())).json() == {
        "sku": "salad",
        "available": 0,
    }
    assert (await restock(client, mint.admin, "salad")).status == 200
    assert await units(client, "salad") == 5


async def test_a_repeated_restock_adds_nothing_and_shows_the_current_stock(client: Client, mint: Mint) -> None:
    keyed = mint.admin | {"Idempotency-Key": "k"}
    first = await restock(client, keyed, "lobster")
    assert "Idempotent-Replayed" not in first.headers
    await restock(client, mint.admin, "lobster", quantity=100)
    again = await restock(client, keyed, "lobster")
    assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert await again.json() == {"sku": "lobster", "available": 105, "held": 0, "sold": 0}
    assert await units(client, "lobster") == 105


async def test_a_key_is_valid_for_one_sku_and_quantity(client: Client, mint: Mint) -> None:
    keyed = mint.admin | {"Idempotency-Key": "k"}
    await restock(client, keyed)
    for changes in ({"quantity": 6}, {"sku": "pizza"}, {"sku": "nowhere"}):
        answer = await restock(client, keyed, **changes)
        await assert_problem(answer, 422, "this Idempotency-Key was used for another sku or quantity")
    assert [await units(client, sku) for sku in ("burger", "pizza")] == [PLENTY + 5, PLENTY]


async def test_two_users_may_use_the_same_key(client: Client, mint: Mint) -> None:
    key = {"Idempotency-Key": "k"}
    for headers in (mint.admin, mint.header(OTHER, "admin")):
        answer = await restock(client, headers | key, quantity=int(headers == mint.admin) + 1)
        assert (answer.status, "Idempotent-Replayed" in answer.headers) == (200, False)
    assert await units(client) == PLENTY + 3


async def test_a_refused_restock_does_not_use_up_its_key(client: Client, mint: Mint) -> None:
    keyed = mint.admin | {"Idempotency-Key": "k"}
    assert (await restock(client, keyed, "nowhere")).status == 404
    assert (await restock(client, keyed, quantity=0)).status == 400
    answer = await restock(client, keyed)
    assert (answer.status, "Idempotent-Replayed" in answer.headers) == (200, False)


async def fifty_with_one_key(client: Client, mint: Mint) -> list[Any]:
    keyed = mint.admin | {"Idempotency-Key": "k"}
    return list(await asyncio.gather(*(restock(client, keyed) for _ in range(50))))


async def test_one_of_fifty_restocks_with_one_key_is_applied(client: Client, mint: Mint) -> None:
    answers = await fifty_with_one_key(client, mint)
    assert [answer.status for answer in answers] == [200] * 50
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert {(await answer.json())["available"] for answer in answers} == {PLENTY + 5}
    assert (await units(client), await count(client, "restocks")) == (PLENTY + 5, 1)


async def test_one_of_fifty_restocks_with_one_key_is_applied_even_without_the_stock_lock(
    client: Client, mint: Mint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STOCK_LOCK", ())
    assert [answer.status for answer in await fifty_with_one_key(client, mint)] == [200] * 50
    assert await units(client) == PLENTY + 5


async def test_without_the_used_key_each_of_fifty_restocks_is_applied(
    client: Client, mint: Mint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_USE_KEY", "select true where $1 || $2 || $3 || $4::int is not null")
    await fifty_with_one_key(client, mint)
    assert await units(client) == PLENTY + 250


async def test_fifty_restocks_without_a_key_are_all_applied(client: Client, mint: Mint) -> None:
    answers = await asyncio.gather(*(restock(client, mint.admin) for _ in range(50)))
    shown = [(await answer.json())["available"] for answer in answers]
    assert sorted(shown) == [PLENTY + 5 * n for n in range(1, 51)]


async def test_a_restock_waits_for_the_stock_lock(client: Client, mint: Mint) -> None:
    async with postgres.transaction(client.app[database.POOL], keys=service.STOCK_LOCK):
        waiting = asyncio.create_task(restock(client, mint.admin))
        await asyncio.sleep(0.3)
        assert not waiting.done()
    assert (await waiting).status == 200


async def test_a_restock_that_waits_too_long_for_the_lock_has_an_unknown_outcome(client: Client, mint: Mint) -> None:
    async with postgres.transaction(client.app[database.POOL], keys=service.STOCK_LOCK):
        answer = await restock(client, mint.admin)
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["type"], problem["detail"]) == (503, "/problems/outcome-unknown", "db error")
    assert await units(client) == PLENTY


@pytest.mark.parametrize("column", ["available", "held", "sold"])
async def test_a_restock_beyond_the_maximum_of_units_is_refused(client: Client, mint: Mint, column: str) -> None:
    pool = client.app[database.POOL]
    await pool.execute(f"update stock set {column} = {column} + $1 where sku = 'lobster'", domain.MAX_UNITS - 5)
    answer = await restock(client, mint.admin | {"Idempotency-Key": "k"}, "lobster", quantity=6)
    await assert_problem(answer, 409, "there may be 1000000000000000 units of a sku at most, wherever they are")
    assert (await restock(client, mint.admin, "lobster", quantity=5)).status == 200
    assert (await restock(client, mint.admin, "lobster", quantity=1)).status == 409
    assert await count(client, "restocks") == 0


async def test_users_may_read_the_stock_and_only_administrators_may_restock(client: Client, mint: Mint) -> None:
    late = mint.header(ADMIN, "admin", exp=1)
    for headers, read, write in (
        ({}, 401, 401),
        ({"Authorization": "nonsense"}, 401, 401),
        (Mint().admin, 401, 401),
        (late, 401, 401),
        (mint.header(USER), 200, 403),
        (mint.header(ADMIN, "administrator"), 200, 403),
        (mint.admin, 200, 200),
    ):
        assert (await client.get("/inventory/burger", headers=headers)).status == read
        assert (await restock(client, headers)).status == write
    assert await units(client) == PLENTY + 5


BAD_BODIES = {
    "empty": (b"", "invalid json"),
    "truncated": (b'{"quantity":1', "invalid json"),
    "array": (b"[1]", "the body must be a JSON object"),
    "number": (b"1", "the body must be a JSON object"),
    "null": (b"null", "quantity is required"),
    "nothing": (b"{}", "quantity is required"),
    "null quantity": (b'{"quantity":null}', "quantity is required"),
    "text": (b'{"quantity":"1"}', "quantity must be an integer"),
    "NUL": (b'{"quantity":"\\u0000"}', "quantity must be an integer"),
    "unknown": (b'{"quantity":1,"qty":2}', "qty is unknown here; known are: quantity"),
    "1.0": (b'{"quantity":1.0}', "quantity must be an integer"),
    "true": (b'{"quantity":true}', "quantity must be an integer"),
    "zero": (b'{"quantity":0}', "quantity must be > 0"),
    "minus one": (b'{"quantity":-1}', "quantity must be > 0"),
    "1,000,001": (b'{"quantity":1000001}', "quantity must be at most 1000000"),
    "2^63": (b'{"quantity":9223372036854775808}', "quantity must be at most 1000000"),
    "2^64": (b'{"quantity":18446744073709551616}', "quantity must be an integer"),
    "5,000 digits": (b'{"quantity":%s}' % (b"1" * 5000), "invalid json"),
}


async def test_a_quantity_is_an_integer_from_1_to_a_million(client: Client, mint: Mint) -> None:
    for data, detail in BAD_BODIES.values():
        answer = await client.post("/inventory/burger/restock", data=data, headers=mint.admin)
        await assert_problem(answer, 400, detail)
    assert await units(client) == PLENTY


async def test_a_key_must_be_printable_and_sent_once(client: Client, mint: Mint) -> None:
    for keys in ([""], ["k" * 256], ["\u00e4"], ["a", "a"]):
        headers = [*mint.admin.items(), *(("Idempotency-Key", key) for key in keys)]
        answer = await client.post("/inventory/burger/restock", json={"quantity": 1}, headers=headers)
        await assert_problem(answer, 400)
    assert await units(client) == PLENTY


async def test_a_sku_is_any_text_up_to_128_characters_without_nul(client: Client, mint: Mint) -> None:
    pool = client.app[database.POOL]
    for raw in ("%00", "a%00", "a" * 129, "%C3%A4" * 129):
        for answer in (
            await client.get(URL(f"/inventory/{raw}", encoded=True), headers=mint.header()),
            await client.post(URL(f"/inventory/{raw}/restock", encoded=True), json={"quantity": 1}, headers=mint.admin),
        ):
            await assert_problem(answer, 400, "invalid sku")
    for raw, sku in {
        "%C3%A4" * 128: "\u00e4" * 128,
        "a%20b": "a b",
        "a%2Fb": "a/b",
        "%25": "%",
        "%0A": "\n",
        "%F0%9F%8D%94": "\U0001f354",
        "'--": "'--",
    }.items():
        url = URL(f"/inventory/{raw}", encoded=True)
        await assert_problem(await client.get(url, headers=mint.header()), 404, "not found")
        await pool.execute("insert into stock (sku, available) values ($1, 1)", sku)
        assert await (await client.get(url, headers=mint.header())).json() == {"sku": sku, "available": 1}


@pytest.mark.parametrize("path", [b"\xff", b"\xed\xa0\x80", b"\xc3\xa4", b"%ff", b"%ED%A0%80", b"%", b"%zz"])
async def test_no_bytes_in_a_path_cause_a_server_error(client: Client, mint: Mint, path: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    token = mint.header()["Authorization"].encode()
    writer.write(b"GET /inventory/" + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
    writer.write(b"Authorization: " + token + b"\r\n\r\n")
    status = int((await reader.read()).split()[1])
    writer.close()
    await writer.wait_closed()
    assert status in (400, 404)


async def test_the_document_describes_the_served_operations(client: Client) -> None:
    document = await (await client.get("/openapi.json")).json()
    served = {(method, path) for path, of in document["paths"].items() for method in of}
    assert served == {("get", "/inventory/{sku}"), ("post", "/inventory/{sku}/restock")}
    answers = document["paths"]["/inventory/{sku}/restock"]["post"]["responses"]
    assert answers == dict.fromkeys(
        ["200", "400", "401", "403", "404", "408", "409", "413", "415", "422", "429", "503"], ANY
    )
    assert document["components"]["schemas"]["Stock"]["required"] == ["sku", "available"]


async def test_a_process_without_the_api_part_has_no_api(serve: Serve) -> None:
    client = await serve("inventory", only=["relay"])
    assert [(await client.get(path)).status for path in ("/inventory/burger", "/openapi.json")] == [404, 404]
