"""An order stores the provider's idempotency key, which is random: an id may return after a restore."""

from alembic import op

revision = "orders_0002"
down_revision = "orders_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table orders add column payment_reference text")
    op.execute("comment on column orders.payment_reference is 'the provider''s idempotency key; null means order:<id>'")


def downgrade() -> None:
    op.execute("alter table orders drop column payment_reference")
