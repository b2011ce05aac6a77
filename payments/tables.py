"""The payments schema, and the schema of the simulated provider; `migrations/metadata.py` adds the toolkit's tables."""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Index, Integer, MetaData, SmallInteger, Table, Text, text

metadata = MetaData(schema="payments")
ledger = MetaData(schema="provider")

payments = Table(
    "payments",
    metadata,
    Column("order_id", BigInteger, primary_key=True, autoincrement=False),
    Column("status", Text, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("claim", BigInteger, nullable=False, comment="a random token: who may record what the provider says"),
    Column("claimed_until", DateTime(timezone=True), nullable=False, comment="from then on anybody may take it over"),
    Column("cancel_requested", Boolean, nullable=False),
    Column("reason", Text),
    Column("provider_ref", Text),
    Column("version", Integer, nullable=False),
    Column("attempts", Integer, nullable=False, comment="calls in a row that were not answered"),
    Column("trace", Text, comment="the traceparent of the intent, carried on by what follows from it"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("user_id", Text, comment="whose order it is; a tombstone does not know"),
    Column("quarantined", Text, comment="why no more calls are made until an operator has looked"),
    Column("payment_reference", Text, comment="the provider's idempotency key; null means order:<order_id>"),
    Index("payments_tombstones", "created_at", postgresql_where=text("currency = ''")),
    Index("payments_open", "claimed_until", postgresql_where=text("status IN ('PENDING', 'REFUNDING')")),
)

movements = Table(
    "movements",
    ledger,
    Column("key", Text, primary_key=True),
    Column("n", SmallInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
)
