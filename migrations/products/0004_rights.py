"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "products_0004"
down_revision = "products_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_3("products_user"):
        op.execute(statement)
    op.execute("grant select, insert, update on products to products_user")
    op.execute("grant usage on sequence products_id_seq to products_user")


def downgrade() -> None:
    op.execute("revoke usage on sequence products_id_seq from products_user")
    op.execute("revoke select, insert, update on products from products_user")
    for statement in schema.undo_version_3("products_user"):
        op.execute(statement)
