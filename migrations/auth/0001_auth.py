"""Credentials, signing keys, sessions, throttles, and the toolkit's tables."""

from alembic import op

from shared.delivery import schema

revision = "auth_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table credentials (
          user_id bigserial primary key,
          username text not null unique,
          password_hash text not null,
          roles text[] not null default '{}',
          version integer not null default 1,
          disabled_at timestamptz,
          created_at timestamptz not null default now(),
          updated_at timestamptz not null default now()
        )"""
    )
    _signing_keys()
    _sessions()
    _throttles()
    for statement in schema.version_1("auth.events"):
        op.execute(statement)


def _signing_keys() -> None:
    op.execute(
        """
        create table signing_keys (
          kid text primary key,
          private_key bytea not null,
          signs_from timestamptz not null,
          expires_at timestamptz,
          created_at timestamptz not null default now()
        )"""
    )
    op.execute("comment on column signing_keys.private_key is 'the raw 32 bytes of an Ed25519 key'")
    op.execute(
        "comment on column signing_keys.expires_at is "
        "'from then on no token that it signed is valid, and it is not published any more'"
    )


def _sessions() -> None:
    op.execute(
        """
        create table sessions (
          id uuid primary key,
          user_id bigint not null references credentials,
          secret_hash bytea not null,
          expires_at timestamptz not null,
          revoked_at timestamptz,
          created_at timestamptz not null default now(),
          refreshed_at timestamptz not null default now()
        )"""
    )
    op.execute(
        "comment on column sessions.secret_hash is "
        "'SHA-256 of the refresh token''s secret that is valid now; another one is a reuse'"
    )
    op.execute("create index sessions_user_id on sessions (user_id)")
    op.execute("create index sessions_expires_at on sessions (expires_at)")
    op.execute("create index sessions_revoked_at on sessions (revoked_at) where revoked_at is not null")


def _throttles() -> None:
    op.execute(
        """
        create table throttles (
          key bytea primary key,
          failures integer not null,
          blocked_until timestamptz not null,
          seen_at timestamptz not null default now()
        )"""
    )
    op.execute("comment on column throttles.key is 'SHA-256 of what is slowed: an account''s name or an address'")
    op.execute("create index throttles_seen_at on throttles (seen_at)")


def downgrade() -> None:
    for statement in schema.undo_version_1():
        op.execute(statement)
    for table in ("throttles", "sessions", "signing_keys", "credentials"):
        op.execute(f"drop table {table}")
