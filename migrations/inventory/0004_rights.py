"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "inventory_0004"
down_revision = "inventory_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_3("inventory_user"):
        op.execute(statement)
    op.execute("grant select, insert, update on stock to inventory_user")
    op.execute("grant select, insert, update, delete on reservations, restocks to inventory_user")


def downgrade() -> None:
    op.execute("revoke select, insert, update, delete on reservations, restocks from inventory_user")
    op.execute("revoke select, insert, update on stock from inventory_user")
    for statement in schema.undo_version_3("inventory_user"):
        op.execute(statement)
