"""The use cases of inventory: reserve, sell or release what orders asked for, make room for new products, restock.

Callers hold the locks of `TURN` and of the orders' keys; a list has at most one event of each order.
"""

from collections.abc import Callable, Sequence

from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from contracts.products import ProductChanged, ProductCreated
from inventory import domain, store
from inventory.domain import Change, Reservation, Restock, Stock, Wish
from shared import errors
from shared.delivery import events
from shared.postgres.connections import Connection

TURN = ("stock",)
"""What each transaction that changes stock locks, so that they take turns; `consumer.py` says why."""


class SkuNotFound(errors.NotFound):
    """There is no stock of this sku, not even 0."""

    def __init__(self) -> None:
        super().__init__("not found")


async def reserve(conn: Connection, orders: Sequence[OrderCreated]) -> None:
    """Hold stock for new orders, first come first served, or reject them, and say which."""
    found = await _lock(conn, orders)
    available = {r.sku: units for r, units in found if units is not None}
    await _write(conn, domain.allocate([(r, order) for (r, _), order in zip(found, orders, strict=True)], available))


async def confirm(conn: Connection, orders: Sequence[OrderConfirmed]) -> None:
    """Turn what is held for orders into sales."""
    await _settle(conn, orders, domain.confirm)


async def cancel(conn: Connection, orders: Sequence[OrderCancelled]) -> None:
    """Make what is held for orders available again, and say so."""
    await _settle(conn, orders, domain.cancel)


async def make_room(conn: Connection, products: Sequence[ProductCreated | ProductChanged]) -> None:
    """Make room for products that have no stock yet: there are 0 of them."""
    await store.add_skus(conn, sorted({p.sku for p in products}))


async def restock(conn: Connection, wanted: Restock) -> tuple[Stock, bool]:
    """Add units; gives the stock as it stands, and whether an earlier request with the same key had added them.

    Raises `SkuNotFound`, `KeyReused`, or `Conflict` when there would be too many. The key is then not used up.
    """
    if wanted.key is not None and not await store.claim(conn, wanted):
        if await store.claimed(conn, wanted) != wanted:
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
    """Lock the stock and give each order's reservation, as it stands or not heard of, and what there is of its sku."""
    found = await store.lock(conn, orders)
    return [(r or Reservation(o.order_id, o.sku, o.quantity), n) for (r, n), o in zip(found, orders, strict=True)]


async def _settle(conn: Connection, orders: Sequence[Wish], transition: Callable[[Reservation], Change]) -> None:
    await _write(conn, [transition(reservation) for reservation, _ in await _lock(conn, orders)])


async def _write(conn: Connection, changes: Sequence[Change]) -> None:
    changed = [change.after for change in changes if change.after != change.before]
    if changed:
        facts = [events.encode(fact) for change in changes for fact in change.facts]
        await store.write(conn, domain.moves(changes), changed, facts)
