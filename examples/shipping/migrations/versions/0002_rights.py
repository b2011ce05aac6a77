"""The rights of the service's role, which owns nothing."""

from alembic import op

from shared.delivery import schema

revision = "shipping_0002"
down_revision = "shipping_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_3("shipping_user"):
        op.execute(statement)
    op.execute("grant select, insert on parcels to shipping_user")


def downgrade() -> None:
    op.execute("revoke select, insert on parcels from shipping_user")
    for statement in schema.undo_version_3("shipping_user"):
        op.execute(statement)
