from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Pool

from contracts.payments import PaymentFailed
from shared import postgres
from shared.delivery import events, outbox
from shared.delivery.events import Encoded
from tests.builders import order_confirmed, order_created

SQL = "select lane, hash, key, xid, id from outbox order by id"


async def test_events_are_appended_in_order_within_one_transaction(pool: Pool) -> None:
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed(id_) for id_ in (5, 3, 9, 3)])
        await outbox.append(conn, [order_confirmed(1)])

    rows = await pool.fetch(SQL)
    assert [row["key"] for row in rows] == ["5", "3", "9", "3", "1"]
    assert len({row["xid"] for row in rows}) == 1


async def test_a_key_is_always_in_the_lane_of_its_hash(pool: Pool) -> None:
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed(id_) for id_ in range(1, 200)])

    rows = await pool.fetch(SQL)
    assert all(row["hash"] == events.hash_of(row["key"]) and row["lane"] == row["hash"] % 4 for row in rows)
    assert {row["lane"] for row in rows} == {0, 1, 2, 3}


async def test_no_row_is_left_after_a_rollback(pool: Pool) -> None:
    async with pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await outbox.append(conn, [order_confirmed()])
        await transaction.rollback()

    assert await pool.fetch(SQL) == []


async def test_appending_no_events_is_no_error(pool: Pool) -> None:
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [])

    assert await pool.fetch(SQL) == []


async def test_an_event_too_large_for_kafka_is_refused_before_it_is_written(pool: Pool) -> None:
    with pytest.raises(outbox.TooLarge):
        async with postgres.transaction(pool) as conn:
            await outbox.append(conn, [order_confirmed(), order_created(note="x" * outbox.MAX_BYTES)])

    assert await pool.fetch(SQL) == []


async def test_another_services_topic_is_refused_by_the_table(pool: Pool) -> None:
    foreign = PaymentFailed(version=1, order_id=1, reason="deadline_passed")
    with pytest.raises(asyncpg.CheckViolationError, match="outbox_topic"):
        async with postgres.transaction(pool) as conn:
            await outbox.append(conn, [foreign])


async def test_a_dead_letter_may_have_any_services_topic(pool: Pool) -> None:
    letter = events.envelope("payments.events.dlq", "1", "DeadLetter", b"{}")
    async with postgres.transaction(pool) as conn:
        await outbox.append_encoded(conn, [letter])

    assert len(await pool.fetch(SQL)) == 1


async def test_a_combined_insert_appends_only_the_events_of_inserted_rows(pool: Pool) -> None:
    async with pool.acquire() as conn:
        await conn.execute("create temp table placed (id text primary key)")
        await conn.execute("insert into placed values ('2')")
        sql = f"""with new as (insert into placed select unnest($1::text[]) on conflict do nothing returning id)
                  {outbox.insert_sql(2, "row.key in (select id from new)")}"""
        rows = [events.encode(order_confirmed(id_)) for id_ in (1, 2, 3)]
        await conn.execute(sql, ["1", "2", "3"], *outbox.columns(rows))

    assert [row["key"] for row in await pool.fetch(SQL)] == ["1", "3"]


def test_a_dead_letter_may_be_twice_as_large() -> None:
    def row(topic: str) -> Encoded:
        return Encoded(1, uuid4(), topic, "k", "T", b"", b"x" * (outbox.MAX_BYTES + 1))

    assert outbox.columns([row("t.dlq")])
    with pytest.raises(outbox.TooLarge):
        outbox.columns([row("t")])
