"""The auth schema: who may log in and who is logged in; `migrations/metadata.py` adds the toolkit's tables."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

metadata = MetaData(schema="auth")

credentials = Table(
    "credentials",
    metadata,
    Column("user_id", BigInteger, primary_key=True),
    Column("username", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    Column("roles", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("disabled_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("private_key", LargeBinary, nullable=False, comment="the raw 32 bytes of an Ed25519 key"),
    Column("signs_from", DateTime(timezone=True), nullable=False),
    Column(
        "expires_at",
        DateTime(timezone=True),
        comment="from then on no token that it signed is valid, and it is not published any more",
    ),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", BigInteger, ForeignKey("auth.credentials.user_id"), nullable=False),
    Column(
        "secret_hash",
        LargeBinary,
        nullable=False,
        comment="SHA-256 of the refresh token's secret that is valid now; another one is a reuse",
    ),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("refreshed_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column(
        "successor_salt",
        LargeBinary,
        comment="with it and the refresh token before, the newest refresh token can be computed again",
    ),
    Column("rotated_by", LargeBinary, comment="SHA-256 of the device token and user agent of the last refresh"),
    Column("user_agent", Text, nullable=False, server_default=""),
    Index("sessions_user_id", "user_id"),
    Index("sessions_expires_at", "expires_at"),
    Index("sessions_revoked_at", "revoked_at", postgresql_where=text("revoked_at IS NOT NULL")),
)

throttles = Table(
    "throttles",
    metadata,
    Column("key", LargeBinary, primary_key=True, comment="SHA-256 of what is slowed: an account's name or an address"),
    Column("failures", Double, nullable=False),
    Column("blocked_until", DateTime(timezone=True), nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Index("throttles_seen_at", "seen_at"),
)
