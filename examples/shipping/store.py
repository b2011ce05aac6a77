"""Every SQL statement of the shipping service."""

from collections.abc import Sequence
from typing import Any

from shared.delivery import events, outbox
from shared.postgres import Connection

from .contracts import ParcelSent

# The guard of "one parcel per order" is the primary key. An order that has a parcel gets no second one, and no event.
_SEND = f"""
with sent as (
  insert into parcels (order_id, sku, quantity) select * from unnest($1::bigint[], $2::text[], $3::int[])
  on conflict do nothing returning order_id)
{outbox.insert_sql(4, "row.key in (select order_id::text from sent)")}
"""


async def send(conn: Connection, parcels: Sequence[ParcelSent]) -> None:
    """Insert parcels with their events, in the caller's transaction, which holds the locks of the orders' ids."""
    columns = zip(*((p.order_id, p.sku, p.quantity) for p in parcels), strict=True)
    await conn.execute(_SEND, *columns, *outbox.columns([events.encode(parcel) for parcel in parcels]))


async def get(conn: Connection, order_id: int) -> dict[str, Any] | None:
    """Read the parcel of an order."""
    row = await conn.fetchrow("select order_id, sku, quantity, sent_at from parcels where order_id = $1", order_id)
    return None if row is None else dict(row)
