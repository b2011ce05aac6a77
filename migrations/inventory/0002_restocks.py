"""The table of restocks, so that a repeated request adds nothing."""

from alembic import op

revision = "inventory_0002"
down_revision = "inventory_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table restocks (
          user_id text,
          key text,
          sku text not null,
          quantity bigint not null constraint restocks_quantity check (quantity > 0),
          created_at timestamptz not null default now(),
          primary key (user_id, key)
        )"""
    )


def downgrade() -> None:
    op.execute("drop table restocks")
