"""Each schema gets an owner that cannot log in. The role of the service keeps no right but those that it is given.

So a service can neither truncate its outbox nor drop a constraint. It loses `pg_read_all_stats`, which shows the
statements of all others, and every advisory lock of the database: functions of its own schema do what it needs
(`shared/delivery/schema.py`, version 3). Each section gives the service's role its rights.
"""

from alembic import op

revision = "admin_0003"
down_revision = "admin_0002"
branch_labels = None
depends_on = None

SERVICES = ("orders", "inventory", "payments", "provider", "auth", "users", "products")
LOCK = "pg_advisory_xact_lock(integer, integer)"

_ON_ALL_LOCKS = """
do $$
declare
  one regprocedure;
begin
  for one in select oid from pg_proc
              where pronamespace = 'pg_catalog'::regnamespace and proname ~ '^pg_(try_)?advisory_(xact_)?lock' loop
    execute format('{} public', one);
  end loop;
end $$"""


def upgrade() -> None:
    op.execute(_ON_ALL_LOCKS.format("revoke execute on function %s from"))
    for service in SERVICES:
        user, owner = f"{service}_user", f"{service}_owner"
        op.execute(
            f"""
            do $$ begin
              create role {owner} nologin;
            exception when duplicate_object or unique_violation then null;
            end $$"""
        )
        op.execute(f"grant pg_read_all_stats to {owner}")
        op.execute(f"grant execute on function {LOCK} to {owner}")
        op.execute(f"revoke pg_read_all_stats from {user}")
        op.execute(f"reassign owned by {user} to {owner}")
        op.execute(f"grant usage on schema {service} to {user}")


def downgrade() -> None:
    for service in reversed(SERVICES):
        user, owner = f"{service}_user", f"{service}_owner"
        op.execute(f"reassign owned by {owner} to {user}")
        op.execute(f"drop owned by {owner}")  # its rights in this database
        op.execute(f"grant pg_read_all_stats to {user}")
        op.execute(
            f"""
            do $$ begin
              drop role {owner};
            exception when dependent_objects_still_exist then null;
            end $$"""
        )
    op.execute(_ON_ALL_LOCKS.format("grant execute on function %s to"))
