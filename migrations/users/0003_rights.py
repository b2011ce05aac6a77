"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "users_0003"
down_revision = "users_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_3("users_user"):
        op.execute(statement)
    op.execute("grant select, insert, update on profiles to users_user")


def downgrade() -> None:
    op.execute("revoke select, insert, update on profiles from users_user")
    for statement in schema.undo_version_3("users_user"):
        op.execute(statement)
