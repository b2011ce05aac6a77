"""The toolkit's tables as SQL, by version. Migrations execute it; see any `migrations/*/0001_*.py`.

What must stay true: a published version never changes, because databases were created with it. A change needs a new
version with its own statements. `tables.py` describes the newest version for Alembic.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

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
    today = datetime.now(UTC).date()
    for n in range(-1, 8):
        yield from _day_of_version_1(today + timedelta(days=n))


def _day_of_version_1(day: date) -> Iterator[str]:
    """Create the partitions of a day. From version 2 on, the function `make_day` of the database does it."""
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    for table, column, low, high in (
        ("outbox", "occurred_at", f"'{start:%Y-%m-%d %H:%M:%S+00}'", f"'{end:%Y-%m-%d %H:%M:%S+00}'"),
        ("inbox", "event_id", f"'{_first_id(start)}'", f"'{_first_id(end)}'"),
    ):
        name = f"{table}_{day:%Y%m%d}"
        yield f"create table {name} (like {table} including defaults including constraints)"
        yield (
            f"with moved as (delete from {table}_default where {column} >= {low} and {column} < {high} returning *) "
            f"insert into {name} select * from moved"
        )
        yield f"alter table {table} attach partition {name} for values from ({low}) to ({high})"


def _first_id(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a millisecond: its first 48 bits are the time."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def more_lanes(lanes: int) -> Iterator[str]:
    """Give the outbox of the current schema so many lanes, while services run; for the owner, in one transaction.

    A key then belongs to another lane. So writers wait, and rows that are not published move to the lanes of today, in
    their old order. A relay that sends at this moment can repeat rows, but can move no cursor. Rows that are published
    stay where they are: do not publish them again from before the change.
    """
    yield "lock table outbox, outbox_lanes in exclusive mode"
    yield f"""
        do $$ begin
          if exists (select from outbox_refused where resolved_at is null) then
            raise exception 'Kafka refuses rows of this outbox: mend that first';
          elsif {lanes} < (select count(*) from outbox_lanes) then
            raise exception 'an outbox cannot have fewer lanes than before';
          end if;
        end $$"""
    yield f"""
        insert into outbox_lanes (lane, system_identifier)
        select n, system_identifier from generate_series(0, {lanes - 1}) n, pg_control_system()
        on conflict do nothing"""
    yield f"""
        with rest as (delete from outbox o using outbox_lanes l
                       where o.lane = l.lane and (o.xid, o.id) > (l.xid, l.id) returning o.*)
        insert into outbox (lane, hash, event_id, topic, key, type, head, value, occurred_at)
        select hash % {lanes}, hash, event_id, topic, key, type, head, value, occurred_at from rest order by xid, id"""
    yield "update outbox_lanes set owner = null, epoch = epoch + 1, lease_until = '-infinity'"


def undo_version_1() -> Iterator[str]:
    """Drop everything that `version_1` creates, with all data."""
    for table in ("parked", "inbox", "outbox_refused", "outbox_relays", "outbox_lanes", "outbox"):
        yield f"drop table {table}"
    yield "drop sequence outbox_id_seq"


# The functions run with the rights of their owner, so a service's role needs no ownership of the tables. Their search
# path is fixed: a table of another schema, or a temporary one, cannot take the place of the toolkit's. `make_day` locks
# the parent first: an insert that has chosen DEFAULT would fail. It creates the day as a separate table and attaches
# it, because DEFAULT may hold rows of the day, which must move first. They keep `xid` and `id`.
_FUNCTIONS = (
    """
    create function first_event_id(day date) returns uuid language sql immutable as $$
      select (lpad(to_hex((extract(epoch from day::timestamp) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
    $$""",
    """
    create function bounds_of_day(parent text, day date, out col text, out low text, out high text)
    language plpgsql immutable as $$
    begin
      case parent
        when 'outbox' then
          col := 'occurred_at';
          low := to_char(day, 'YYYY-MM-DD') || ' 00:00:00+00';
          high := to_char(day + 1, 'YYYY-MM-DD') || ' 00:00:00+00';
        when 'inbox' then
          col := 'event_id';
          low := first_event_id(day);
          high := first_event_id(day + 1);
      end case;
    end $$""",
    """
    create function make_day(parent text, day date) returns boolean
    language plpgsql security definer set search_path from current set lock_timeout = '500ms' as $$
    declare
      part text := parent || '_' || to_char(day, 'YYYYMMDD');
      bounds record := bounds_of_day(parent, day);
    begin
      if to_regclass(part) is not null then
        return false;
      end if;
      execute format('lock table only %I in share row exclusive mode', parent);
      execute format('lock table %I in access exclusive mode', parent || '_default');
      if to_regclass(part) is not null then
        return false;
      end if;
      execute format('create table %I (like %I including defaults including constraints)', part, parent);
      execute format(
        'with moved as (delete from %I where %I >= %L and %2$I < %4$L returning *)
         insert into %5$I select * from moved',
        parent || '_default', bounds.col, bounds.low, bounds.high, part);
      execute format('alter table %I attach partition %I for values from (%L) to (%L)',
        parent, part, bounds.low, bounds.high);
      return true;
    end $$""",
    """
    create function unpublished_in(part regclass) returns boolean
    language plpgsql stable security definer set search_path from current as $$
    declare
      found boolean;
    begin
      execute format(
        'select exists (select from outbox_lanes l where exists (
                  select from %1$s o where o.lane = l.lane and (o.xid, o.id) > (l.xid, l.id)))
             or exists (select from outbox_refused r join %1$s o using (lane, xid, id) where r.resolved_at is null)',
        part) into found;
      return found;
    end $$""",
    """
    create function first_unpublished_day() returns date
    language plpgsql stable security definer set search_path from current as $$
    declare
      part name;
    begin
      for part in select relname from pg_inherits join pg_class on oid = inhrelid
                   where inhparent = 'outbox'::regclass and relname <> 'outbox_default' order by relname loop
        if unpublished_in(part::text::regclass) then
          return to_date(right(part, 8), 'YYYYMMDD');
        end if;
      end loop;
      return null;
    end $$""",
    """
    create function drop_day(parent text, day date) returns boolean
    language plpgsql security definer set search_path from current set lock_timeout = '500ms' as $$
    declare
      part text := parent || '_' || to_char(day, 'YYYYMMDD');
      bounds record := bounds_of_day(parent, day);
    begin
      if day > (now() at time zone 'UTC')::date - 8 then
        raise exception 'day % is too young to be dropped', day;
      end if;
      if to_regclass(part) is null or bounds.col = 'occurred_at' and unpublished_in(to_regclass(part)) then
        return false;
      end if;
      execute format('drop table %I', part);
      return true;
    end $$""",
    """
    create function stray_days(parent text) returns table (day date, rows bigint)
    language plpgsql stable security definer set search_path from current as $$
    begin
      case parent
        when 'outbox' then
          return query select (occurred_at at time zone 'UTC')::date, count(*) from outbox_default group by 1;
        when 'inbox' then
          return query select (to_timestamp(('x' || lpad(left(replace(event_id::text, '-', ''), 12), 16, '0'))::bit(64)
                              ::bigint / 1000.0) at time zone 'UTC')::date, count(*) from inbox_default group by 1;
      end case;
    end $$""",
    """
    create function drop_strays(parent text, before date, most integer) returns bigint
    language plpgsql security definer set search_path from current as $$
    declare
      gone bigint;
      bounds record := bounds_of_day(parent, before);
    begin
      if before > (now() at time zone 'UTC')::date - 7 then
        raise exception 'rows since % are too young to be dropped', before;
      end if;
      if bounds.col = 'occurred_at' and unpublished_in('outbox_default') then
        return 0;
      end if;
      execute format('delete from %1$I where ctid = any(array(select ctid from %1$I where %2$I < %3$L limit %4$s))',
        parent || '_default', bounds.col, bounds.low, most);
      get diagnostics gone = row_count;
      return gone;
    end $$""",
    # Published rows go before every cursor. Unpublished rows are inserted again, in their old order, under this
    # cluster's transaction ids.
    """
    create function rebase_outbox(restored_at timestamptz) returns bigint
    language plpgsql security definer set search_path from current as $$
    declare
      moved bigint;
    begin
      lock table outbox, outbox_lanes in exclusive mode;
      update outbox_refused set xid = '0';
      update outbox o set xid = '0' from outbox_lanes l
       where o.lane = l.lane and (o.xid, o.id) <= (l.xid, l.id) and o.occurred_at < restored_at;
      with rest as (delete from outbox where xid > '0' returning *)
      insert into outbox (lane, hash, event_id, topic, key, type, head, value, occurred_at)
      select lane, hash, event_id, topic, key, type, head, value, occurred_at from rest
       order by occurred_at >= restored_at, xid, id;
      get diagnostics moved = row_count;
      update outbox_lanes set xid = '1', id = 0, owner = null, epoch = epoch + 1, lease_until = '-infinity',
             system_identifier = (select system_identifier from pg_control_system());
      return moved;
    end $$""",
)
_SIGNATURES = (
    "rebase_outbox(timestamptz)",
    "drop_strays(text, date, integer)",
    "stray_days(text)",
    "drop_day(text, date)",
    "first_unpublished_day()",
    "unpublished_in(regclass)",
    "make_day(text, date)",
    "bounds_of_day(text, date)",
    "first_event_id(date)",
)


def version_2() -> Iterator[str]:
    """Add the functions that make and drop days, the tables of repairs and crashes, and an index by time.

    Needs `version_1`.
    """
    yield "create index outbox_time on outbox using brin (occurred_at) with (autosummarize = on)"
    yield "alter table parked add column resolution text"
    yield "create index parked_open on parked (consumer, id) where resolved_at is null"
    yield """
        create table repairs (
          id bigint generated always as identity primary key,
          action text not null,
          requested_by text not null,
          reason text not null,
          request jsonb not null,
          per_second integer not null,
          requested_at timestamptz not null default now(),
          lease_until timestamptz not null default '-infinity',
          ended_at timestamptz,
          outcome text
        )"""
    yield "create index repairs_open on repairs (id) where ended_at is null"
    yield """
        create table repair_items (
          repair_id bigint not null references repairs on delete cascade,
          parked_id bigint not null,
          outcome text,
          detail text,
          done_at timestamptz,
          primary key (repair_id, parked_id)
        )"""
    yield """
        create table consumer_starts (
          consumer text, topic text, partition integer,
          owner text not null, first_offset bigint not null, crashes integer not null,
          suspect uuid, suspicions integer not null default 0,
          primary key (consumer, topic, partition)
        )"""
    yield "select set_config('search_path', current_schema() || ', pg_temp', true)"
    yield from _FUNCTIONS
    for signature in _SIGNATURES:
        yield f"revoke execute on function {signature} from public"
    yield "select set_config('search_path', current_schema(), true)"


def undo_version_2() -> Iterator[str]:
    """Drop everything that `version_2` adds."""
    for signature in _SIGNATURES:
        yield f"drop function {signature}"
    for table in ("consumer_starts", "repair_items", "repairs"):
        yield f"drop table {table}"
    yield "drop index parked_open"
    yield "alter table parked drop column resolution"
    yield "drop index outbox_time"


# The service's role may add acts and read them. Nobody changes them, and only `forget_acts` deletes some.
_AUDIT = (
    """
    create table audit (
      id bigint generated always as identity primary key,
      at timestamptz not null,
      who text not null,
      what text not null,
      whom text not null,
      address text not null,
      outcome text not null,
      request_id text not null
    )""",
    "create index audit_time on audit using brin (at) with (autosummarize = on)",
)

# They replace rights that a service's role must not have: every advisory lock of the database, and the statements of
# all sessions. The number of the schema is part of each lock, so schemas do not share locks. The names in `lock_keys`
# are bound when it is created. So it needs no search path, which is set at each call and costs as much as a lock.
_FUNCTIONS_OF_VERSION_3 = (
    """
    do $$ begin
      execute format(
        'create function lock_keys(keys integer[]) returns void language sql security definer
         begin atomic select pg_advisory_xact_lock(hashtext(%L), key) from unnest(keys) key; end', current_schema());
    end $$""",
    """
    create function first_open_transaction() returns timestamptz
    language sql stable security definer set search_path from current as $$
      select min(xact_start) from pg_stat_activity
    $$""",
    """
    create function held_back_by()
    returns table (pid integer, usename name, datname name, state text, query text, seconds float8)
    language sql stable security definer set search_path from current as $$
      select pid, usename, datname, state,
             case when usename = session_user then left(query, 200) else '(only a superuser may see it)' end,
             extract(epoch from now() - xact_start)::float8
        from pg_stat_activity
       where backend_xid is not null and pid <> pg_backend_pid() order by age(backend_xid) desc limit 1
    $$""",
    """
    create function forget_acts(most integer) returns bigint
    language sql security definer set search_path from current as $$
      with gone as (
        delete from audit
         where id in (select id from audit where at < now() - interval '400 days' order by id limit most) returning 1
      )
      select count(*) from gone
    $$""",
)
_SIGNATURES_OF_VERSION_3 = (
    "forget_acts(integer)",
    "held_back_by()",
    "first_open_transaction()",
    "lock_keys(integer[])",
)

_CALLED = (
    "make_day(text, date)",
    "first_unpublished_day()",
    "drop_day(text, date)",
    "stray_days(text)",
    "drop_strays(text, date, integer)",
    "rebase_outbox(timestamptz)",
    *_SIGNATURES_OF_VERSION_3,
)
_RIGHTS = (
    ("select, insert", "outbox, audit"),
    ("usage, select", "sequence outbox_id_seq"),
    ("select, update (xid, id, owner, epoch, lease_until)", "outbox_lanes"),
    ("select, insert, update, delete", "outbox_relays, outbox_refused, parked, repairs, repair_items"),
    ("select, insert, delete", "inbox"),
    ("select, insert, update", "consumer_starts"),
    ("execute", f"function {', '.join(_CALLED)}"),
)


Rights = Sequence[tuple[str, str]]
"""Rights and what they are on, as in `grant <rights> on <what>`."""


def version_3(role: str, own: Rights) -> Iterator[str]:
    """Create the audit trail, and give `role` the rights that a service needs. The role owns nothing.

    `own` are the rights on the service's own tables. Functions do the work for which no right is small enough. The
    current role owns the tables, and needs `pg_read_all_stats` and `pg_advisory_xact_lock`. Needs `version_2`.
    """
    yield from _AUDIT
    yield "select set_config('search_path', current_schema() || ', pg_temp', true)"
    yield from _FUNCTIONS_OF_VERSION_3
    for signature in _SIGNATURES_OF_VERSION_3:
        yield f"revoke execute on function {signature} from public"
    yield "select set_config('search_path', current_schema(), true)"
    for rights, what in (*_RIGHTS, *own):
        yield f"grant {rights} on {what} to {role}"


def undo_version_3(role: str, own: Rights) -> Iterator[str]:
    """Take the rights back, and drop the functions and the audit trail."""
    for rights, what in reversed((*_RIGHTS, *own)):
        yield f"revoke {rights} on {what} from {role}"
    for signature in _SIGNATURES_OF_VERSION_3:
        yield f"drop function {signature}"
    yield "drop table audit"
