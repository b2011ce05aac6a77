"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "payments_0006"
down_revision = "payments_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_3("payments_user"):
        op.execute(statement)
    op.execute("grant select, insert, update, delete on payments to payments_user")


def downgrade() -> None:
    op.execute("revoke select, insert, update, delete on payments from payments_user")
    for statement in schema.undo_version_3("payments_user"):
        op.execute(statement)
