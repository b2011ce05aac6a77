"""The role of the ledger does not own it any more: it reads and appends."""

from alembic import op

revision = "provider_0002"
down_revision = "provider_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("grant select, insert on movements to provider_user")


def downgrade() -> None:
    op.execute("revoke select, insert on movements from provider_user")
