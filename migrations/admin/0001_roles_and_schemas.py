"""A login role and a schema per service. No service can see the schema of another."""

from alembic import op

from migrations import access_v1

revision = "admin_0001"
down_revision = None
branch_labels = None
depends_on = None

SERVICES = ("orders", "inventory", "payments", "provider")


def upgrade() -> None:
    op.execute("revoke all on schema public from public")
    access_v1.upgrade(SERVICES)


def downgrade() -> None:
    access_v1.downgrade(SERVICES)
    op.execute("grant usage on schema public to public")
