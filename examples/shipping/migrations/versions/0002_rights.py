"""The rights of the service's role, which owns nothing."""

from alembic import op

from shared.delivery import schema

revision = "shipping_0002"
down_revision = "shipping_0001"
branch_labels = None
depends_on = None

OWN = (("select, insert", "parcels"),)


def upgrade() -> None:
    for statement in schema.version_3("shipping_user", OWN):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_3("shipping_user", OWN):
        op.execute(statement)
