"""Owners of orders: with a token, users can use only their own orders; other users' orders answer 404."""

import json
from typing import Any

import pytest

from tests.conftest import Database
from tests.service.conftest import Client, Serve
from tests.tokens import OTHER, USER, Mint

BODY = {"sku": "burger", "quantity": 1}


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve("orders")


async def place(client: Client, headers: dict[str, str], **changes: Any) -> int:
    answer = await client.post("/v1/orders", data=json.dumps(BODY | changes), headers=headers)
    assert answer.status == 202, await answer.text()
    return int((await answer.json())["id"])


async def test_an_order_belongs_to_the_user_of_the_token(client: Client, mint: Mint) -> None:
    order_id = await place(client, mint.header())
    shown = await (await client.get(f"/orders/{order_id}", headers=mint.header())).json()
    assert shown["user_id"] == USER


async def test_an_order_for_another_user_is_refused_even_for_an_administrator(client: Client, mint: Mint) -> None:
    for headers in (mint.header(), mint.admin):
        answer = await client.post("/v1/orders", data=json.dumps(BODY | {"userId": OTHER}), headers=headers)
        assert (answer.status, (await answer.json())["type"]) == (403, "/problems/forbidden")


@pytest.mark.parametrize("prefix", ["/v1/orders", "/orders"])
async def test_the_order_of_another_user_is_not_found(client: Client, mint: Mint, prefix: str) -> None:
    order_id = await place(client, mint.header())
    for answer in (
        await client.get(f"{prefix}/{order_id}", headers=mint.header(OTHER)),
        await client.get(f"{prefix}/{order_id}?wait=1", headers=mint.header(OTHER)),
        await client.post(f"{prefix}/{order_id}/cancel", headers=mint.header(OTHER)),
    ):
        assert (answer.status, (await answer.json())["detail"]) == (404, "not found")
    assert (await client.get(f"{prefix}/{order_id}", headers=mint.admin)).status == 200
    assert (await client.post(f"{prefix}/{order_id}/cancel", headers=mint.admin)).status == 202


async def test_a_user_lists_own_orders_and_an_administrator_lists_all(client: Client, mint: Mint) -> None:
    own, others = await place(client, mint.header()), await place(client, mint.header(OTHER))

    async def listed(headers: dict[str, str], query: str = "") -> list[int]:
        answer = await client.get(f"/orders/{query}", headers=headers)
        return [order["id"] for order in (await answer.json())["orders"]]

    assert await listed(mint.header()) == [own]
    assert await listed(mint.header(), f"?user_id={USER}") == [own]
    assert await listed(mint.admin) == [others, own]
    assert await listed(mint.admin, f"?user_id={OTHER}") == [others]
    assert (await client.get(f"/orders/?user_id={OTHER}", headers=mint.header())).status == 403


async def test_a_product_is_chosen_by_its_id(client: Client, mint: Mint) -> None:
    answer = await client.post("/orders/", data='{"product_id": 1}', headers=mint.header())
    assert (answer.status, answer.headers["Location"]) == (202, f"/orders/{(await answer.json())['id']}")
    shown = await (await client.get(answer.headers["Location"], headers=mint.header())).json()
    assert (shown["sku"], shown["quantity"], shown["user_id"]) == ("burger", 1, USER)


async def test_an_unknown_product_cannot_be_ordered(client: Client, mint: Mint) -> None:
    answer = await client.post("/orders/", data='{"product_id": 999}', headers=mint.header())
    assert (answer.status, (await answer.json())["detail"]) == (404, "there is no product 999")


async def test_two_users_may_use_the_same_key(client: Client, mint: Mint) -> None:
    key = {"Idempotency-Key": "k"}
    first = await place(client, mint.header() | key)
    assert await place(client, mint.header(OTHER) | key) != first
    assert await place(client, mint.header() | key) == first


async def test_orders_needs_a_token_even_if_v1_orders_does_not(serve: Serve, database: Database) -> None:
    client = await serve("orders", require_token=False)
    assert (await client.post("/orders/", data='{"product_id": 1}')).status == 401
    assert (await client.post("/v1/orders", data=json.dumps(BODY | {"userId": "u1"}))).status == 202
    refused = await client.post("/v1/orders", data=json.dumps(BODY), headers={"Authorization": "Bearer x"})
    assert refused.status == 401
