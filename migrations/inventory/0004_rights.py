"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "inventory_0004"
down_revision = "inventory_0003"
branch_labels = None
depends_on = None

OWN = (
    ("select, insert, update", "stock"),
    ("select, insert, update, delete", "reservations, restocks"),
)


def upgrade() -> None:
    for statement in schema.version_3("inventory_user", OWN):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_3("inventory_user", OWN):
        op.execute(statement)
