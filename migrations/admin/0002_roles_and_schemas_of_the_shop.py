"""Roles and schemas of auth, users and products, created like those in the first revision."""

from migrations import access_v1

revision = "admin_0002"
down_revision = "admin_0001"
branch_labels = None
depends_on = None

SERVICES = ("auth", "users", "products")


def upgrade() -> None:
    access_v1.upgrade(SERVICES)


def downgrade() -> None:
    access_v1.downgrade(SERVICES)
