"""A payment whose outcome is odd waits for an operator, and no other payment waits with it."""

from alembic import op

revision = "payments_0003"
down_revision = "payments_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table payments add column quarantined text")
    op.execute("comment on column payments.quarantined is 'why no more calls are made until an operator has looked'")


def downgrade() -> None:
    op.execute("alter table payments drop column quarantined")
