"""A login role and a schema per service; nobody sees another's.

A role's password is `<SERVICE>_DB_PASSWORD`, or the service's name, which suits a machine of one's own only.
"""

import os

from alembic import op

revision = "admin_0001"
down_revision = None
branch_labels = None
depends_on = None

SERVICES = ("orders", "inventory", "payments", "provider")


def upgrade() -> None:
    """Make roles, which the cluster keeps, and schemas, which the database does."""
    op.execute("revoke all on schema public from public")
    for service in SERVICES:
        password = os.environ.get(f"{service.upper()}_DB_PASSWORD", service).replace("'", "''")
        op.execute(
            f"""
            do $$ begin
              create role {service}_user login;
            exception when duplicate_object or unique_violation then null;
            end $$"""
        )
        op.execute(f"alter role {service}_user password '{password}'")
        op.execute(f"alter role {service}_user set search_path = {service}")
        op.execute(f"grant pg_read_all_stats to {service}_user")  # to name whose transaction holds the outbox back
        op.execute(f"create schema {service} authorization {service}_user")


def downgrade() -> None:
    """Drop the schemas; the roles too, where no other database of the cluster needs them."""
    for service in reversed(SERVICES):
        op.execute(f"drop table if exists {service}.alembic_version")  # empty, if the section is at its base
        op.execute(f"drop schema {service}")
        op.execute(
            f"""
            do $$ begin
              drop role {service}_user;
            exception when dependent_objects_still_exist then null;
            end $$"""
        )
    op.execute("grant usage on schema public to public")
