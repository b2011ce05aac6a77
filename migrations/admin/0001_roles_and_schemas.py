"""A login role and a schema per service; nobody sees another's.

A role's password is `<SERVICE>_DB_PASSWORD`, or the service's name, which suits a machine of one's own only.
"""

from alembic import op

from migrations import access_v1

revision = "admin_0001"
down_revision = None
branch_labels = None
depends_on = None

SERVICES = ("orders", "inventory", "payments", "provider")


def upgrade() -> None:
    """Make their roles and schemas, and take away the one that everybody has."""
    op.execute("revoke all on schema public from public")
    access_v1.upgrade(SERVICES)


def downgrade() -> None:
    """Drop them, and give back what everybody had."""
    access_v1.downgrade(SERVICES)
    op.execute("grant usage on schema public to public")
