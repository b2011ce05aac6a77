"""The traceparent of the request that placed an order, if its trace is sampled."""

from alembic import op

revision = "orders_0004"
down_revision = "orders_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table orders add column trace text")
    op.execute("comment on column orders.trace is 'the traceparent of the request, if its trace is sampled'")


def downgrade() -> None:
    op.execute("alter table orders drop column trace")
