"""Parcels and the toolkit's tables."""

from alembic import op

from shared.delivery import schema

revision = "shipping_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table parcels (
          order_id bigint primary key,
          sku text not null,
          quantity integer not null,
          sent_at timestamptz not null default now()
        )"""
    )
    for statement in (*schema.version_1("shipping.events"), *schema.version_2()):
        op.execute(statement)


def downgrade() -> None:
    for statement in (*schema.undo_version_2(), *schema.undo_version_1()):
        op.execute(statement)
    op.execute("drop table parcels")
