"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "products_0004"
down_revision = "products_0003"
branch_labels = None
depends_on = None

OWN = (
    ("select, insert, update", "products"),
    ("usage", "sequence products_id_seq"),
)


def upgrade() -> None:
    for statement in schema.version_3("products_user", OWN):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_3("products_user", OWN):
        op.execute(statement)
