"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "users_0003"
down_revision = "users_0002"
branch_labels = None
depends_on = None

OWN = (("select, insert, update", "profiles"),)


def upgrade() -> None:
    for statement in schema.version_3("users_user", OWN):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_3("users_user", OWN):
        op.execute(statement)
