"""A payment stores the user of its order, so that this user may see it."""

from alembic import op

revision = "payments_0002"
down_revision = "payments_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table payments add column user_id text")
    op.execute("comment on column payments.user_id is 'whose order it is; a tombstone does not know'")


def downgrade() -> None:
    op.execute("alter table payments drop column user_id")
