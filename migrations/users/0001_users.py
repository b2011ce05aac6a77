"""Profiles and the toolkit's tables."""

from alembic import op

from shared.delivery import schema

revision = "users_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table profiles (
          user_id bigint primary key,
          username text not null,
          display_name text not null default '',
          email text not null default '',
          version integer not null default 1,
          deleted_at timestamptz,
          created_at timestamptz not null default now(),
          updated_at timestamptz not null default now()
        )"""
    )
    op.execute("create index profiles_username on profiles (username) where deleted_at is null")
    op.execute("comment on column profiles.user_id is 'given by auth'")
    for statement in schema.version_1("users.events"):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_1():
        op.execute(statement)
    op.execute("drop table profiles")
