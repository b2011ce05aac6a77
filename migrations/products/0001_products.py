"""The catalogue and the toolkit's tables."""

from alembic import op

from shared.delivery import schema

revision = "products_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    for statement in schema.version_1("products.events"):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_1():
        op.execute(statement)
    op.execute("drop table products")
