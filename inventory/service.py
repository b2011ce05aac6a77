"""The use cases of inventory: reserve stock, sell it or release it, add new skus, restock.

Callers hold `STOCK_LOCK` and the locks of the orders' keys. A list has at most one event of each order.
"""

from collections.abc import Callable, Sequence

from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from contracts.products import ProductChanged, ProductCreated
from inventory import domain, store
from inventory.domain import Change, Reservation, Restock, Stock, Wish
from shared import errors
from shared.delivery import events
from shared.postgres import Connection

STOCK_LOCK = ("stock",)
"""The key that every transaction locks before it changes stock, so that transactions take turns: see `consumer.py`."""


class SkuNotFound(errors.NotFound):
    """The table `stock` has no row for this sku."""


async def reserve(conn: Connection, orders: Sequence[OrderCreated]) -> None:
    """Hold stock for new orders in the order of arrival, or reject them. Writes an event for each."""
    found = await _lock(conn, orders)
    available = {r.sku: units for r, units in found if units is not None}
    await _write(conn, domain.allocate([(r, order) for (r, _), order in zip(found, orders, strict=True)], available))


async def confirm(conn: Connection, orders: Sequence[OrderConfirmed]) -> None:
    """Turn the stock that is held for these orders into sales."""
    await _settle(conn, orders, domain.confirm)


async def cancel(conn: Connection, orders: Sequence[OrderCancelled]) -> None:
    """Make the stock that is held for these orders available again. Writes an event for each."""
    await _settle(conn, orders, domain.cancel)


async def add_skus(conn: Connection, products: Sequence[ProductCreated | ProductChanged]) -> None:
    """Add a stock of 0 for skus that have none."""
    await store.add_skus(conn, sorted({p.sku for p in products}))


async def restock(conn: Connection, wanted: Restock) -> tuple[Stock, bool]:
    """Add units. Returns the stock, and whether an earlier request with the same key had added them.

    Raises `KeyReused`, `SkuNotFound`, or `Conflict` if there would be too many units. After the last two, the caller
    rolls back, so the key is not used.
    """
    if wanted.key is not None and not await store.use_key(conn, wanted):
        if await store.used_key(conn, wanted) != wanted:
            raise errors.KeyReused("this Idempotency-Key was used for another sku or quantity")
        return await get(conn, wanted.sku), True
    if stock := await store.restock(conn, wanted.sku, wanted.quantity):
        return stock, False
    await get(conn, wanted.sku)
    raise errors.Conflict(f"there may be {domain.MAX_UNITS} units of a sku at most, wherever they are")


async def get(conn: Connection, sku: str) -> Stock:
    """Read the stock of one sku. Raises `SkuNotFound`."""
    stock = await store.get(conn, sku)
    if stock is None:
        raise SkuNotFound
    return stock


async def _lock(conn: Connection, orders: Sequence[Wish]) -> list[tuple[Reservation, int | None]]:
    """Lock the stock. Returns for each order its reservation, and the available units of its sku or None."""
    found = await store.lock(conn, orders)
    return [(r or Reservation(o.order_id, o.sku, o.quantity), n) for (r, n), o in zip(found, orders, strict=True)]


async def _settle(conn: Connection, orders: Sequence[Wish], transition: Callable[[Reservation], Change]) -> None:
    await _write(conn, [transition(reservation) for reservation, _ in await _lock(conn, orders)])


async def _write(conn: Connection, changes: Sequence[Change]) -> None:
    changed = [change.after for change in changes if change.after != change.before]
    if changed:
        new = [events.encode(event) for change in changes for event in change.events]
        await store.write(conn, domain.moves(changes), changed, new)
