"""The users schema: profiles; `migrations/metadata.py` adds the toolkit's tables."""

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, MetaData, Table, Text, text

metadata = MetaData(schema="users")

profiles = Table(
    "profiles",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False, comment="given by auth"),
    Column("username", Text, nullable=False),
    Column("display_name", Text, nullable=False, server_default=""),
    Column("email", Text, nullable=False, server_default=""),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("deleted_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Index("profiles_username", "username", postgresql_where=text("deleted_at IS NULL")),
)
