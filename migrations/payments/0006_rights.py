"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "payments_0006"
down_revision = "payments_0005"
branch_labels = None
depends_on = None

OWN = (("select, insert, update, delete", "payments"),)


def upgrade() -> None:
    for statement in schema.version_3("payments_user", OWN):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_3("payments_user", OWN):
        op.execute(statement)
