"""The catalogue and the toolkit's tables."""

from alembic import op

from migrations import delivery_v1

revision = "products_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.execute(
        """
        create table products (
          id bigserial primary key,
          sku text not null unique,
          name text not null,
          price_cents bigint not null constraint products_price_cents check (price_cents >= 0),
          currency text not null default 'EUR',
          active boolean not null default true,
          version integer not null default 1,
          created_at timestamptz not null default now(),
          updated_at timestamptz not null default now()
        )"""
    )
    delivery_v1.upgrade("products.events")


def downgrade() -> None:
    """Drop the tables."""
    delivery_v1.downgrade()
    op.execute("drop table products")
