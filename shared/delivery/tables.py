"""The toolkit's tables as SQLAlchemy metadata, for Alembic: what the newest version of `schema.py` creates.

At run time this module is not used. Statements are SQL and name tables without a schema, because the search path of
each service's role is its own schema.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import UserDefinedType


class Xid8(UserDefinedType[int]):
    """Postgres' 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "XID8"


def add_to(metadata: MetaData, topic: str) -> None:
    """Add the toolkit's tables to a service's metadata, once. `topic` is the topic that the service publishes on."""
    if f"{metadata.schema}.outbox" not in metadata.tables:
        _outbox(metadata, topic)
        _lanes(metadata)
        _inbox(metadata)
        _repairs(metadata)
        _audit(metadata)


def _outbox(metadata: MetaData, topic: str) -> None:
    Table(
        "outbox",
        metadata,
        Column("lane", SmallInteger, nullable=False),
        Column("xid", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
        Column("id", BigInteger, nullable=False, server_default=text("nextval('outbox_id_seq'::regclass)")),
        Column("event_id", Uuid, nullable=False),
        Column("topic", Text, nullable=False, comment=f"only {topic} and dead letters, by a CHECK"),
        Column("hash", Integer, nullable=False),
        Column("key", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("head", LargeBinary, nullable=False),
        Column("value", LargeBinary, nullable=False),
        Column("occurred_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Index("outbox_position", "lane", "xid", "id"),
        Index("outbox_time", "occurred_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
        postgresql_partition_by="RANGE (occurred_at)",
    )
    Table(
        "outbox_refused",
        metadata,
        Column("lane", SmallInteger, nullable=False),
        Column("xid", Xid8, nullable=False),
        Column("id", BigInteger, nullable=False),
        Column("topic", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("refused_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("resolved_at", DateTime(timezone=True)),
        PrimaryKeyConstraint("lane", "xid", "id"),
    )


def _lanes(metadata: MetaData) -> None:
    Table(
        "outbox_lanes",
        metadata,
        Column("lane", SmallInteger, primary_key=True, autoincrement=False),
        Column("xid", Xid8, nullable=False, server_default=text("'0'::xid8")),
        Column("id", BigInteger, nullable=False, server_default=text("0")),
        Column("owner", Text),
        Column("epoch", BigInteger, nullable=False, server_default=text("0")),
        Column("lease_until", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
        Column("system_identifier", BigInteger, nullable=False),
        postgresql_with={"fillfactor": 50},
    )
    Table(
        "outbox_relays",
        metadata,
        Column("owner", Text, primary_key=True),
        Column("seen_until", DateTime(timezone=True), nullable=False),
    )


def _inbox(metadata: MetaData) -> None:
    Table(
        "inbox",
        metadata,
        Column("event_id", Uuid, nullable=False),
        Column("consumer", Text, nullable=False),
        PrimaryKeyConstraint("event_id", "consumer"),
        postgresql_partition_by="RANGE (event_id)",
    )
    Table(
        "parked",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("consumer", Text, nullable=False),
        Column("aggregate_type", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("type", Text),
        Column("event_id", Uuid),
        Column("topic", Text, nullable=False),
        Column("partition", Integer, nullable=False),
        Column("offset", BigInteger, nullable=False),
        Column("recorded_at", DateTime(timezone=True), nullable=False),
        Column("raw_key", LargeBinary),
        Column("headers", LargeBinary, nullable=False, comment="JSON: a list of [name, base64 of the value]"),
        Column("value", LargeBinary),
        Column("error", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("blocks", Boolean, nullable=False, comment="later events of the same key wait behind this one"),
        Column("parked_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("resolved_at", DateTime(timezone=True)),
        Column("resolution", Text),
        UniqueConstraint("consumer", "topic", "partition", "offset", "recorded_at"),
        Index(
            "parked_blocking",
            "consumer",
            "aggregate_type",
            "key",
            postgresql_where=text("blocks AND resolved_at IS NULL"),
        ),
        Index("parked_open", "consumer", "id", postgresql_where=text("resolved_at IS NULL")),
    )
    Table(
        "consumer_starts",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("topic", Text, primary_key=True),
        Column("partition", Integer, primary_key=True, autoincrement=False),
        Column("owner", Text, nullable=False),
        Column("first_offset", BigInteger, nullable=False),
        Column("crashes", Integer, nullable=False),
        Column("suspect", Uuid),
        Column("suspicions", Integer, nullable=False, server_default=text("0")),
    )


def _repairs(metadata: MetaData) -> None:
    Table(
        "repairs",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("action", Text, nullable=False),
        Column("requested_by", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("request", JSONB, nullable=False),
        Column("per_second", Integer, nullable=False),
        Column("requested_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        Column("lease_until", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
        Column("ended_at", DateTime(timezone=True)),
        Column("outcome", Text),
        Index("repairs_open", "id", postgresql_where=text("ended_at IS NULL")),
    )
    Table(
        "repair_items",
        metadata,
        Column("repair_id", ForeignKey(f"{metadata.schema}.repairs.id", ondelete="CASCADE"), primary_key=True),
        Column("parked_id", BigInteger, primary_key=True, autoincrement=False),
        Column("outcome", Text),
        Column("detail", Text),
        Column("done_at", DateTime(timezone=True)),
    )


def _audit(metadata: MetaData) -> None:
    Table(
        "audit",
        metadata,
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        Column("at", DateTime(timezone=True), nullable=False),
        *(Column(name, Text, nullable=False) for name in ("who", "what", "whom", "address", "outcome", "request_id")),
        Index("audit_time", "at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    )
