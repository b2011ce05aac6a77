"""Functions that make and drop days, the tables of repairs and crashes, an index by time, an index of tombstones."""

from alembic import op

from shared.delivery import schema

revision = "payments_0005"
down_revision = "payments_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_2():
        op.execute(statement)
    op.execute("create index payments_tombstones on payments (created_at) where currency = ''")


def downgrade() -> None:
    op.execute("drop index payments_tombstones")
    for statement in schema.undo_version_2():
        op.execute(statement)
