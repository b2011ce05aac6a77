"""The inventory schema: stock, reservations and restocks; `migrations/metadata.py` adds the toolkit's tables."""

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, MetaData, Table, Text, text

metadata = MetaData(schema="inventory")

stock = Table(
    "stock",
    metadata,
    Column("sku", Text, primary_key=True),
    Column("available", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False, server_default="0"),
    Column("sold", BigInteger, nullable=False, server_default="0"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("order_id", BigInteger, primary_key=True, autoincrement=False),
    Column("sku", Text, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("version", Integer, nullable=False, comment="how many events told of it"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Index("reservations_tombstones", "created_at", postgresql_where=text("status IN ('CONFIRMED', 'CANCELLED')")),
)

restocks = Table(
    "restocks",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("sku", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)
