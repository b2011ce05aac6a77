"""A payment stores the provider's idempotency key, which its order chose."""

from alembic import op

revision = "payments_0004"
down_revision = "payments_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table payments add column payment_reference text")
    op.execute(
        "comment on column payments.payment_reference is 'the provider''s idempotency key; null means order:<order_id>'"
    )


def downgrade() -> None:
    op.execute("alter table payments drop column payment_reference")
