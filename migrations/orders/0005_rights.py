"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "orders_0005"
down_revision = "orders_0004"
branch_labels = None
depends_on = None

OWN = (
    ("select, insert, update", "orders, products"),
    ("usage", "sequence orders_id_seq"),
)


def upgrade() -> None:
    for statement in schema.version_3("orders_user", OWN):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_3("orders_user", OWN):
        op.execute(statement)
