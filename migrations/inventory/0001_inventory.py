"""Stock, reservations, and the toolkit's tables."""

from alembic import op

from shared.delivery import schema

revision = "inventory_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table stock (
          sku text primary key,
          available bigint not null constraint stock_available check (available >= 0),
          held bigint not null default 0 constraint stock_held check (held >= 0),
          sold bigint not null default 0 constraint stock_sold check (sold >= 0)
        )"""
    )
    op.execute(
        """
        create table reservations (
          order_id bigint primary key,
          sku text not null,
          quantity integer not null constraint reservations_quantity check (quantity > 0),
          status text not null constraint reservations_status
            check (status in ('HELD', 'SOLD', 'RELEASED', 'REJECTED', 'CONFIRMED', 'CANCELLED')),
          reason text,
          version integer not null,
          created_at timestamptz not null default now(),
          updated_at timestamptz not null default now()
        )"""
    )
    op.execute("comment on column reservations.version is 'how many events told of it'")
    for statement in schema.version_1("inventory.events"):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_1():
        op.execute(statement)
    op.execute("drop table reservations")
    op.execute("drop table stock")
