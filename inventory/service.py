"""The use cases of inventory: reserve, sell or release what orders asked for, and make room for new products.

Callers hold the locks of the orders' keys; a list has at most one event of each order.
"""

from collections.abc import Callable, Sequence

from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from contracts.products import ProductChanged, ProductCreated
from inventory import domain, store
from inventory.domain import Change, Reservation
from shared import events
from shared.db import Connection


async def reserve(conn: Connection, orders: Sequence[OrderCreated]) -> None:
    """Hold stock for new orders, first come first served, or reject them, and say which."""
    reservations = await _get(conn, orders)
    available = await store.lock(conn, {r.sku for r in reservations})
    await _write(conn, domain.allocate(zip(reservations, orders, strict=True), available))


async def confirm(conn: Connection, orders: Sequence[OrderConfirmed]) -> None:
    """Turn what is held for orders into sales."""
    await _settle(conn, await _get(conn, orders), domain.confirm)


async def cancel(conn: Connection, orders: Sequence[OrderCancelled]) -> None:
    """Make what is held for orders available again, and say so."""
    await _settle(conn, await _get(conn, orders), domain.cancel)


async def make_room(conn: Connection, products: Sequence[ProductCreated | ProductChanged]) -> None:
    """Make room for products that have no stock yet: there are 0 of them."""
    await store.add_skus(conn, sorted({p.sku for p in products}))


async def _get(conn: Connection, orders: Sequence[OrderCreated | OrderConfirmed | OrderCancelled]) -> list[Reservation]:
    """Give each order's reservation, in order: as it stands, or one that was not heard of."""
    known = await store.get(conn, [o.order_id for o in orders])
    return [known.get(o.order_id) or Reservation(o.order_id, o.sku, o.quantity) for o in orders]


async def _settle(
    conn: Connection, reservations: Sequence[Reservation], transition: Callable[[Reservation], Change]
) -> None:
    changes = [transition(reservation) for reservation in reservations]
    await store.lock(conn, domain.moves(changes).keys())
    await _write(conn, changes)


async def _write(conn: Connection, changes: Sequence[Change]) -> None:
    changed = [change.after for change in changes if change.after != change.before]
    if changed:
        facts = [events.encode(fact) for change in changes for fact in change.facts]
        await store.write(conn, domain.moves(changes), changed, facts)
