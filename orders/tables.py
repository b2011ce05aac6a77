"""The orders schema: orders and the replica of the catalogue; `migrations/metadata.py` adds the toolkit's tables."""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(schema="orders")

orders = Table(
    "orders",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("note", Text, nullable=False, server_default=""),
    Column("status", Text, nullable=False, server_default="PENDING"),
    Column("sku", Text, nullable=False, server_default=""),
    Column("quantity", Integer, nullable=False, server_default="1"),
    Column("product", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("amount_cents", BigInteger),
    Column("currency", Text, nullable=False, server_default="EUR"),
    Column("reason", Text),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("idempotency_key", Text),
    Column("payment_reference", Text, comment="the provider's idempotency key; null means order:<id>"),
    Column("trace", Text, comment="the traceparent of the request, if its trace is sampled"),
    Index("idx_orders_user_id", "user_id"),
    Index("idx_orders_status", "status"),
    Index("idx_orders_sku", "sku"),
    Index("orders_open", "expires_at", postgresql_where=text("status = 'PENDING'")),
    Index(
        "orders_idempotency_key",
        "user_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)

products = Table(
    "products",
    metadata,
    Column("sku", Text, primary_key=True),
    Column("product_id", BigInteger, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("version", Integer, nullable=False),
)
