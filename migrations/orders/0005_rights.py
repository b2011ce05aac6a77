"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "orders_0005"
down_revision = "orders_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_3("orders_user"):
        op.execute(statement)
    op.execute("grant select, insert, update on orders, products to orders_user")
    op.execute("grant usage on sequence orders_id_seq to orders_user")


def downgrade() -> None:
    op.execute("revoke usage on sequence orders_id_seq from orders_user")
    op.execute("revoke select, insert, update on orders, products from orders_user")
    for statement in schema.undo_version_3("orders_user"):
        op.execute(statement)
