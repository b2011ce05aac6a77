"""Functions that make and drop days, the tables of repairs and crashes, and an index of the outbox by time."""

from alembic import op

from shared.delivery import schema

revision = "users_0002"
down_revision = "users_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_2():
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_2():
        op.execute(statement)
