"""The products schema: the catalogue; `migrations/metadata.py` adds the toolkit's tables."""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Integer, MetaData, Table, Text, text

metadata = MetaData(schema="products")

products = Table(
    "products",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("sku", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False, server_default="EUR"),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)
