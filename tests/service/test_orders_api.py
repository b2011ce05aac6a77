"""The API of orders: every answer, field by field."""

import re
from typing import Any
from uuid import uuid4

import pytest

from shared.web import database

BURGERS = {"userId": "u1", "sku": "burger", "quantity": 2, "note": "part 2 test"}
ON_ONE = pytest.mark.asyncio(loop_scope="module")  # these share a database
TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)


async def place(client: Any, **changes: Any) -> int:
    answer = await client.post("/v1/orders", json=BURGERS | changes)
    assert answer.status == 202, await answer.text()
    return int((await answer.json())["id"])


async def settle(client: Any, order_id: int, status: str, reason: str | None = None) -> None:
    await client.app[database.POOL].execute(
        "update orders set status = $2, reason = $3, version = 2 where id = $1", order_id, status, reason
    )


async def published(client: Any, order_id: int) -> list[str]:
    """The types of all events of an order."""
    rows = await client.app[database.POOL].fetch("select type from outbox where key = $1 order by id", str(order_id))
    return [row["type"] for row in rows]


async def assert_problem(answer: Any, status: int, detail: str) -> dict[str, Any]:
    """Check that an error is an RFC 9457 problem with this status and this detail."""
    assert answer.status == status, await answer.text()
    assert answer.content_type == "application/problem+json"
    problem: dict[str, Any] = await answer.json(content_type=None)
    assert {"type", "title", "status", "detail"} <= set(problem)
    assert problem["type"].startswith("/problems/")
    assert problem["title"]
    assert (problem["status"], problem["detail"]) == (status, detail)
    return problem


async def test_the_first_order_is_number_1(orders: Any) -> None:
    answer = await orders.post("/v1/orders", json=BURGERS)
    assert (answer.status, await answer.text()) == (202, '{"id":1}')
    assert answer.content_type == "application/json"
    assert answer.headers["Location"] == "/v1/orders/1"
    assert "Idempotent-Replayed" not in answer.headers
    assert await place(orders) == 2


@ON_ONE
async def test_a_pending_order_is_shown_with_its_fields_in_a_fixed_order(orders_for_all: Any) -> None:
    order_id = await place(orders_for_all)
    answer = await orders_for_all.get(f"/v1/orders/{order_id}")
    assert (answer.status, answer.content_type) == (200, "application/json")
    shown = await answer.json()
    assert list(shown) == ["id", "userId", "note", "status", "sku", "quantity", "createdAt"]
    assert TIME.fullmatch(shown.pop("createdAt"))
    assert shown == {"id": order_id, "status": "PENDING"} | BURGERS


@ON_ONE
async def test_only_a_cancelled_order_has_a_reason(orders_for_all: Any) -> None:
    confirmed, cancelled = await place(orders_for_all), await place(orders_for_all)
    await settle(orders_for_all, confirmed, "CONFIRMED")
    await settle(orders_for_all, cancelled, "CANCELLED", "out_of_stock")
    shown = await (await orders_for_all.get(f"/v1/orders/{confirmed}")).json()
    assert (shown["status"], "reason" in shown) == ("CONFIRMED", False)
    shown = await (await orders_for_all.get(f"/v1/orders/{cancelled}")).json()
    assert (shown["status"], shown["reason"]) == ("CANCELLED", "out_of_stock")
    assert list(shown)[-1] == "reason"


@ON_ONE
async def test_healthz_answers_ok(orders_for_all: Any) -> None:
    answer = await orders_for_all.get("/healthz")
    assert (answer.status, await answer.text()) == (200, "ok")


@ON_ONE
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_health_and_metrics_are_served(orders_for_all: Any, path: str) -> None:
    assert (await orders_for_all.get(path)).status == 200


@ON_ONE
@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_the_document_and_its_page_are_served(orders_for_all: Any, path: str) -> None:
    assert (await orders_for_all.get(path)).status == 200


@ON_ONE
async def test_user_and_sku_are_trimmed_and_the_note_is_not(orders_for_all: Any) -> None:
    order_id = await place(orders_for_all, userId="  u1\t\n", sku="\u2003burger ", note="  as written ")
    shown = await (await orders_for_all.get(f"/v1/orders/{order_id}")).json()
    assert (shown["userId"], shown["sku"], shown["note"]) == ("u1", "burger", "  as written ")


@ON_ONE
@pytest.mark.parametrize("note", [{}, {"note": None}], ids=["missing", "null"])
async def test_a_note_may_be_missing_or_null(orders_for_all: Any, note: dict[str, None]) -> None:
    answer = await orders_for_all.post("/v1/orders", json={"userId": "u1", "sku": "burger", "quantity": 1} | note)
    assert answer.status == 202
    assert (await (await orders_for_all.get(answer.headers["Location"])).json())["note"] == ""


@ON_ONE
async def test_an_unknown_sku_is_accepted(orders_for_all: Any) -> None:
    order_id = await place(orders_for_all, sku="no such thing")
    assert (await (await orders_for_all.get(f"/v1/orders/{order_id}")).json())["sku"] == "no such thing"


@ON_ONE
@pytest.mark.parametrize(("method", "path"), [("get", "/v1/orders/777777"), ("post", "/v1/orders/777777/cancel")])
async def test_an_unknown_order_is_not_found(orders_for_all: Any, method: str, path: str) -> None:
    problem = await assert_problem(await getattr(orders_for_all, method)(path), 404, "not found")
    assert problem["type"] == "/problems/not-found"


@ON_ONE
async def test_an_unknown_path_and_a_wrong_verb_are_problems_too(orders_for_all: Any) -> None:
    assert (await orders_for_all.get("/v2/orders")).content_type == "application/problem+json"
    answer = await orders_for_all.delete("/v1/orders/1")
    assert (answer.status, answer.content_type) == (405, "application/problem+json")
    assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD"}


@ON_ONE
class TestCancelling:
    async def test_a_pending_order_can_be_cancelled(self, orders_for_all: Any) -> None:
        order_id = await place(orders_for_all)
        answer = await orders_for_all.post(f"/v1/orders/{order_id}/cancel")
        shown = await answer.json()
        assert (answer.status, shown["status"], shown["reason"]) == (202, "CANCELLED", "cancelled_by_customer")
        assert await published(orders_for_all, order_id) == ["OrderCreated", "OrderCancelled"]

    async def test_a_repeated_cancel_gets_the_same_answer_and_publishes_nothing(self, orders_for_all: Any) -> None:
        order_id = await place(orders_for_all)
        answers = [await orders_for_all.post(f"/v1/orders/{order_id}/cancel") for _ in range(3)]
        assert [a.status for a in answers] == [202] * 3
        assert len({await a.text() for a in answers}) == 1
        assert await published(orders_for_all, order_id) == ["OrderCreated", "OrderCancelled"]

    @pytest.mark.parametrize(
        ("status", "reason"),
        [("CONFIRMED", None), ("CANCELLED", "deadline_passed"), ("CANCELLED", "out_of_stock")],
    )
    async def test_an_order_that_is_final_for_another_reason_does_not_change(
        self, orders_for_all: Any, status: str, reason: str | None
    ) -> None:
        order_id = await place(orders_for_all)
        await settle(orders_for_all, order_id, status, reason)
        answer = await orders_for_all.post(f"/v1/orders/{order_id}/cancel")
        problem = await assert_problem(answer, 409, f"the order is already {status}")
        assert problem["type"] == "/problems/conflict"
        assert (await (await orders_for_all.get(f"/v1/orders/{order_id}")).json())["status"] == status
        assert await published(orders_for_all, order_id) == ["OrderCreated"]


async def test_orders_are_listed_newest_first_and_20_at_a_time(orders: Any) -> None:
    answer = await orders.get("/v1/orders")
    assert (answer.status, await answer.json()) == (200, {"orders": [], "next_cursor": None})
    for _ in range(21):
        await place(orders)
    page = await (await orders.get("/v1/orders")).json()
    assert [o["id"] for o in page["orders"]] == list(range(21, 1, -1))
    assert list(page["orders"][0]) == ["id", "userId", "note", "status", "sku", "quantity", "createdAt"]
    rest = await (await orders.get("/v1/orders", params={"cursor": page["next_cursor"]})).json()
    assert ([o["id"] for o in rest["orders"]], rest["next_cursor"]) == ([1], None)


@ON_ONE
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 100])
async def test_paging_to_the_end_shows_every_order_once_even_while_new_ones_arrive(
    orders_for_all: Any, limit: int
) -> None:
    user = uuid4().hex
    placed = [await place(orders_for_all, userId=user) for _ in range(6)]
    seen: list[int] = []
    params = {"limit": str(limit), "userId": user}
    while True:
        page = await (await orders_for_all.get("/v1/orders", params=params)).json()
        seen += [o["id"] for o in page["orders"]]
        await place(orders_for_all, userId=user)
        if page["next_cursor"] is None:
            break
        assert isinstance(page["next_cursor"], str)
        params["cursor"] = page["next_cursor"]
    assert seen == placed[::-1]


@ON_ONE
async def test_filters_narrow_the_list_alone_and_together(orders_for_all: Any) -> None:
    u1, u2, burger, pizza = (uuid4().hex for _ in range(4))
    ids = [
        await place(orders_for_all, userId=user, sku=sku)
        for user, sku in ((u1, burger), (u2, burger), (u1, pizza), (u1, burger))
    ]
    await settle(orders_for_all, ids[3], "CONFIRMED")
    for params, expected in (
        ({"userId": u1}, [4, 3, 1]),
        ({"sku": burger}, [4, 2, 1]),
        ({"sku": burger, "status": "PENDING"}, [2, 1]),
        ({"sku": burger, "status": "CONFIRMED"}, [4]),
        ({"sku": burger, "status": "CANCELLED"}, []),
        ({"userId": u1, "sku": burger}, [4, 1]),
        ({"userId": u1, "sku": burger, "status": "PENDING"}, [1]),
        ({"userId": f"{u1}' or '1'='1"}, []),
        ({"userId": u1, "cursor": str(ids[3])}, [3, 1]),
        ({"userId": u1, "unknown": "is ignored"}, [4, 3, 1]),
    ):
        page = await (await orders_for_all.get("/v1/orders", params=params)).json()
        assert [o["id"] for o in page["orders"]] == [ids[n - 1] for n in expected], params
