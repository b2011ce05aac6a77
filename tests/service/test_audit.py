"""The audit trail: each security decision and each act of an administrator leaves one row, which nobody can change."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from auth.app import rotate_keys
from auth.config import Settings
from shared.delivery import partitions
from shared.web import audit, database
from shared.web.audit import TRAIL
from tests.builders import eventually
from tests.conftest import Database
from tests.service.conftest import Client, Serve
from tests.tokens import USER, Mint

Acts = Sequence[tuple[str, str, str, str]]


async def rows(client: Client) -> list[asyncpg.Record]:
    found: list[asyncpg.Record] = await client.app[database.POOL].fetch("select * from audit order by id")
    return found


async def acts(client: Client, count: int) -> Acts:
    """Wait for so many rows: what, by whom, on whom, outcome."""

    async def all_of_them() -> bool:
        return len(await rows(client)) >= count

    await eventually(all_of_them)
    return [(row["what"], row["who"], row["whom"], row["outcome"]) for row in await rows(client)]


async def test_logins_registrations_and_logouts_leave_rows_without_secrets(serve: Serve) -> None:
    auth = await serve("auth")
    pair = {"username": "ann", "password": "correct horse 17"}
    await auth.post("/auth/register", json=pair)
    await auth.post("/auth/login", json=pair | {"password": "wrong horse 17"})
    headers = {"X-Real-IP": "203.0.113.7", "X-Request-Id": "r-1"}
    tokens = await (await auth.post("/auth/login", json=pair, headers=headers)).json()
    await auth.post("/auth/logout", json={"refresh_token": tokens["refresh_token"]})
    assert await acts(auth, 5) == [
        ("set password", "ADMIN_PASSWORD", "", "done"),
        ("register", "2", "2", "done"),
        ("login", "", "2", "refused: wrong username or password"),
        ("login", "2", "2", "done"),
        ("logout", "2", "2", "done"),
    ]
    found = await rows(auth)
    assert found[3]["address"] == "203.0.113.7"
    written = repr(found)
    for secret in ("ann", "horse", tokens["token"], tokens["refresh_token"]):
        assert secret not in written


async def test_2400_refused_logins_leave_2400_rows(serve: Serve) -> None:
    auth = await serve("auth")
    trail = auth.app[TRAIL]
    for number in range(2400):
        trail.note("login", "refused: wrong username or password", whom=str(number))
    assert len(await acts(auth, 2401)) == 2401


async def test_what_an_administrator_changes_leaves_a_row_and_what_anybody_reads_does_not(
    serve: Serve, mint: Mint
) -> None:
    products = await serve("products")
    await products.get("/products/1")
    await products.patch("/products/1", json={"price_cents": 900}, headers=mint.admin)
    await products.patch("/products/1", json={"price_cents": 1}, headers=mint.header())
    await products.patch("/products/1", json={"price_cents": 1}, headers={"Authorization": "Bearer forged"})
    await products.patch("/products/1", json={"price_cents": 1})  # without a token: the gateway stops these
    await products.patch("/products/99", json={"price_cents": 1}, headers=mint.admin)
    assert await acts(products, 4) == [
        ("PATCH /products/{id}", "1", "1", "done"),
        ("PATCH /products/{id}", USER, "1", "Forbidden"),
        ("PATCH /products/{id}", "", "1", "Unauthenticated"),
        ("PATCH /products/{id}", "1", "99", "ProductNotFound"),
    ]


async def test_a_restock_and_a_deletion_leave_rows(serve: Serve, mint: Mint) -> None:
    inventory = await serve("inventory")
    await inventory.post("/inventory/burger/restock", json={"quantity": 5}, headers=mint.admin)
    assert await acts(inventory, 1) == [("POST /inventory/{sku}/restock", "1", "burger", "done")]


async def test_old_acts_are_forgotten_and_no_others(serve: Serve) -> None:
    products = await serve("products")
    pool = products.app[database.POOL]
    for days in (399, 401):
        await pool.execute(
            "insert into audit (at, who, what, whom, address, outcome, request_id) "
            "values (now() - $1 * interval '1 day', '', $2, '', '', '', '')",
            days,
            str(days),
        )
    await partitions.forget(pool)
    assert [row["what"] for row in await rows(products)] == ["399"]


async def test_a_new_key_leaves_a_row(serve: Serve, database: Database) -> None:
    auth = await serve("auth")
    settings = Settings(database_url=database.url_for("auth"), admin_password=SecretStr("password"))
    name = await rotate_keys(settings)
    assert ("rotate keys", "the command rotate-keys", name, "done") in await acts(auth, 2)


async def test_the_services_own_role_can_add_rows_and_change_none(serve: Serve, database: Database) -> None:
    await serve("products")
    conn = await asyncpg.connect(database.url_for("products"))
    try:
        for attack in ("update audit set who = 'nobody'", "delete from audit", "truncate audit", "drop table audit"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(attack)
    finally:
        await conn.close()


async def test_an_administrator_reads_the_trail_page_by_page(serve: Serve, mint: Mint) -> None:
    products = await serve("products")
    for number in range(5):
        products.app[TRAIL].note("POST /x", "done", whom=str(number))
    await acts(products, 5)
    shown: Any = await (await products.get("/admin/audit?limit=2", headers=mint.admin)).json()
    assert [one["whom"] for one in shown["acts"]] == ["4", "3"]
    older = await products.get(f"/admin/audit?before={shown['acts'][-1]['id']}", headers=mint.admin)
    assert [one["whom"] for one in (await older.json())["acts"]] == ["2", "1", "0"]
    assert (await products.get("/admin/audit", headers=mint.header())).status == 403


async def test_if_postgres_does_not_answer_a_bounded_number_waits_and_each_is_in_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_MAX_WAITING", 3)
    products = await serve("products")
    trail = audit.Trail(products.app[database.POOL])
    for number in range(5):
        trail.note("POST /x", "done", whom=str(number))
    assert [act.whom for act in trail._waiting] == ["0", "1", "2"]
    assert audit.metrics.AUDIT_DROPPED._value.get() >= 2


async def test_a_nul_and_a_long_text_do_not_stop_the_trail(serve: Serve) -> None:
    products = await serve("products")
    products.app[TRAIL].note("POST /x", "done", whom="a\x00b" + "x" * 1000)
    ((_, _, whom, _),) = await acts(products, 1)
    assert (whom[:3], len(whom)) == ("abx", 200)
