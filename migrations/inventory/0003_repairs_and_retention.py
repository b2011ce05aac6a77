"""Functions that make and drop days, the tables of repairs and crashes, an index by time, an index of tombstones."""

from alembic import op

from shared.delivery import schema

revision = "inventory_0003"
down_revision = "inventory_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_2():
        op.execute(statement)
    op.execute(
        "create index reservations_tombstones on reservations (created_at) where status in ('CONFIRMED', 'CANCELLED')"
    )


def downgrade() -> None:
    op.execute("drop index reservations_tombstones")
    for statement in schema.undo_version_2():
        op.execute(statement)
