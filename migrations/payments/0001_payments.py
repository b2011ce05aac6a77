"""Payments and the toolkit's tables."""

from alembic import op

from shared.delivery import schema

revision = "payments_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table payments (
          order_id bigint primary key,
          status text not null constraint payments_status
            check (status in ('PENDING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'REFUNDING', 'REFUNDED')),
          amount_cents bigint not null,
          currency text not null,
          expires_at timestamptz not null,
          claim bigint not null,
          claimed_until timestamptz not null,
          cancel_requested boolean not null,
          reason text,
          provider_ref text,
          version integer not null,
          attempts integer not null,
          trace text,
          created_at timestamptz not null default now(),
          updated_at timestamptz not null default now()
        )"""
    )
    op.execute("comment on column payments.claim is 'a random token: who may record what the provider says'")
    op.execute("comment on column payments.claimed_until is 'from then on anybody may take it over'")
    op.execute("comment on column payments.attempts is 'calls in a row that were not answered'")
    op.execute(
        "comment on column payments.trace is 'the traceparent of the intent, carried on by what follows from it'"
    )
    op.execute("create index payments_open on payments (claimed_until) where status in ('PENDING', 'REFUNDING')")
    for statement in schema.version_1("payments.events"):
        op.execute(statement)


def downgrade() -> None:
    for statement in schema.undo_version_1():
        op.execute(statement)
    op.execute("drop table payments")
