"""The service's role does not own its tables any more: the rights that it needs, and no more."""

from alembic import op

from shared.delivery import schema

revision = "auth_0005"
down_revision = "auth_0004"
branch_labels = None
depends_on = None

OWN = (
    ("select, insert, update, delete", "credentials, signing_keys, sessions, throttles"),
    ("usage", "sequence credentials_user_id_seq"),
)


def upgrade() -> None:
    for statement in schema.version_3("auth_user", OWN):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_3("auth_user", OWN):
        op.execute(statement)
