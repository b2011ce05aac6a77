"""Roles and schemas of auth, users and products, made as those before."""

from migrations import access_v1

revision = "admin_0002"
down_revision = "admin_0001"
branch_labels = None
depends_on = None

SERVICES = ("auth", "users", "products")


def upgrade() -> None:
    """Make their roles and schemas."""
    access_v1.upgrade(SERVICES)


def downgrade() -> None:
    """Drop them."""
    access_v1.downgrade(SERVICES)
