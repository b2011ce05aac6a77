"""The topic of products is compacted from now on. Its earlier records may be gone, so all products are published again.

Consumers ignore a version that they know.
"""

from alembic import op
from sqlalchemy import text

from contracts.products import ProductChanged
from shared.delivery import events

revision = "products_0003"
down_revision = "products_0002"
branch_labels = None
depends_on = None

_INSERT = text(
    "insert into outbox (lane, hash, event_id, topic, key, type, head, value) "
    "values (:hash % (select count(*) from outbox_lanes), :hash, :event_id, :topic, :key, :type, :head, :value)"
)


def upgrade() -> None:
    database = op.get_bind()
    rows = database.execute(
        text("select version, id as product_id, sku, name, price_cents, currency, active from products order by id")
    )
    encoded = [events.encode(ProductChanged(**row))._asdict() for row in rows.mappings()]
    if encoded:
        database.execute(_INSERT, encoded)


def downgrade() -> None:
    """Events that are published stay."""
