"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "auth_0005"
down_revision = "auth_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in schema.version_3("auth_user"):
        op.execute(statement)
    op.execute("grant select, insert, update, delete on credentials, signing_keys, sessions, throttles to auth_user")
    op.execute("grant usage on sequence credentials_user_id_seq to auth_user")


def downgrade() -> None:
    op.execute("revoke usage on sequence credentials_user_id_seq from auth_user")
    op.execute("revoke select, insert, update, delete on credentials, signing_keys, sessions, throttles from auth_user")
    for statement in schema.undo_version_3("auth_user"):
        op.execute(statement)
