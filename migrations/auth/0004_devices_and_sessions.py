"""Wrong passwords leak with a fraction; a refresh can be repeated; a session has a user agent."""

from alembic import op

revision = "auth_0004"
down_revision = "auth_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table throttles alter column failures type double precision")
    op.execute(
        """
        alter table sessions
          add column successor_salt bytea,
          add column rotated_by bytea,
          add column user_agent text not null default ''"""
    )
    op.execute(
        "comment on column sessions.successor_salt is "
        "'with it and the refresh token before, the newest refresh token can be computed again'"
    )
    op.execute(
        "comment on column sessions.rotated_by is 'SHA-256 of the device token and user agent of the last refresh'"
    )


def downgrade() -> None:
    op.execute("alter table sessions drop column successor_salt, drop column rotated_by, drop column user_agent")
    op.execute("alter table throttles alter column failures type integer")
