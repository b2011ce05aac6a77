"""Version 1 of the login role and the schema of a service. A version never changes; a change is a new version."""

from collections.abc import Sequence

from alembic import op


def upgrade(services: Sequence[str]) -> None:
    """Create the roles, which belong to the cluster, and the schemas, which belong to the database.

    `passwords.py` sets the passwords.
    """
    for service in services:
        op.execute(
            f"""
            do $$ begin
              create role {service}_user login;
            exception when duplicate_object or unique_violation then null;
            end $$"""
        )
        op.execute(f"alter role {service}_user set search_path = {service}")
        op.execute(f"grant pg_read_all_stats to {service}_user")  # to name the transaction that holds the outbox back
        op.execute(f"create schema {service} authorization {service}_user")


def downgrade(services: Sequence[str]) -> None:
    """Drop the schemas. Drop each role too, unless another database of the cluster needs it."""
    for service in reversed(services):
        op.execute(f"drop table if exists {service}.alembic_version")  # empty if the section is at its base
        op.execute(f"drop schema {service}")
        op.execute(
            f"""
            do $$ begin
              drop role {service}_user;
            exception when dependent_objects_still_exist then null;
            end $$"""
        )
