"""The toolkit's tables as SQL, by version. Migrations execute it; see any `migrations/*/0001_*.py`.

What must stay true: a published version never changes, because databases were created with it. A change needs a new
version with its own statements. `tables.py` describes the newest version for Alembic.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from . import partitions

LANES = 4


def version_1(topic: str, lanes: int = LANES) -> Iterator[str]:
    """Create outbox, lanes, inbox and parking in the current schema.

    The outbox accepts only `topic` and dead letters.
    """
    yield "create sequence outbox_id_seq"
    yield f"""
        create table outbox (
          lane smallint not null,
          xid xid8 not null default pg_current_xact_id(),
          id bigint not null default nextval('outbox_id_seq'),
          event_id uuid not null,
          topic text not null constraint outbox_topic check (topic = '{topic}' or topic like '%.dlq'),
          hash integer not null,
          key text not null,
          type text not null,
          head bytea not null,
          value bytea not null,
          occurred_at timestamptz not null default now()
        ) partition by range (occurred_at)"""
    yield f"comment on column outbox.topic is 'only {topic} and dead letters, by a CHECK'"
    yield "create index outbox_position on outbox (lane, xid, id)"
    yield "create table outbox_default partition of outbox default"
    yield """
        create table outbox_lanes (
          lane smallint primary key,
          xid xid8 not null default '0',
          id bigint not null default 0,
          owner text,
          epoch bigint not null default 0,
          lease_until timestamptz not null default '-infinity',
          system_identifier bigint not null
        ) with (fillfactor = 50)"""
    yield f"""
        insert into outbox_lanes (lane, system_identifier)
        select n, system_identifier from generate_series(0, {lanes - 1}) n, pg_control_system()"""
    yield "create table outbox_relays (owner text primary key, seen_until timestamptz not null)"
    yield """
        create table outbox_refused (
          lane smallint, xid xid8, id bigint,
          topic text not null, key text not null, reason text not null,
          refused_at timestamptz not null default now(), resolved_at timestamptz,
          primary key (lane, xid, id)
        )"""
    yield """
        create table inbox (event_id uuid, consumer text, primary key (event_id, consumer))
        partition by range (event_id)"""
    yield "create table inbox_default partition of inbox default"
    yield """
        create table parked (
          id bigint generated always as identity primary key,
          consumer text not null, aggregate_type text not null, key text not null, type text, event_id uuid,
          topic text not null, partition integer not null, "offset" bigint not null, recorded_at timestamptz not null,
          raw_key bytea, headers bytea not null, value bytea,
          error text not null, attempts integer not null, blocks boolean not null,
          parked_at timestamptz not null default now(), resolved_at timestamptz,
          unique (consumer, topic, partition, "offset", recorded_at)
        )"""
    yield "comment on column parked.headers is 'JSON: a list of [name, base64 of the value]'"
    yield "comment on column parked.blocks is 'later events of the same key wait behind this one'"
    yield "create index parked_blocking on parked (consumer, aggregate_type, key) where blocks and resolved_at is null"
    for day in partitions.days(datetime.now(UTC).date()):
        for _, commands in partitions.statements(day):
            yield from commands


def undo_version_1() -> Iterator[str]:
    """Drop everything that `version_1` creates, with all data."""
    for table in ("parked", "inbox", "outbox_refused", "outbox_relays", "outbox_lanes", "outbox"):
        yield f"drop table {table}"
    yield "drop sequence outbox_id_seq"
