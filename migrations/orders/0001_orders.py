"""Orders, the replica of the catalogue, and the toolkit's tables."""

from alembic import op

from shared.delivery import schema

revision = "orders_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table orders (
          id bigserial primary key,
          user_id text not null,
          note text not null default '',
          status text not null default 'PENDING'
            constraint orders_status check (status in ('PENDING', 'CONFIRMED', 'CANCELLED')),
          sku text not null default '',
          quantity integer not null default 1,
          product jsonb not null,
          created_at timestamptz not null default now(),
          amount_cents bigint,
          currency text not null default 'EUR',
          reason text,
          version integer not null default 1,
          expires_at timestamptz not null,
          updated_at timestamptz not null default now(),
          idempotency_key text
        )"""
    )
    op.execute("create index idx_orders_user_id on orders (user_id)")
    op.execute("create index idx_orders_status on orders (status)")
    op.execute("create index idx_orders_sku on orders (sku)")
    op.execute("create index orders_open on orders (expires_at) where status = 'PENDING'")
    op.execute(
        "create unique index orders_idempotency_key on orders (user_id, idempotency_key) "
        "where idempotency_key is not null"
    )
    op.execute(
        """
        create table products (
          sku text primary key,
          product_id bigint not null unique,
          name text not null,
          price_cents bigint not null,
          currency text not null,
          active boolean not null,
          version integer not null
        )"""
    )
    for statement in schema.version_1("orders.events"):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_1():
        op.execute(statement)
    op.execute("drop table products")
    op.execute("drop table orders")
