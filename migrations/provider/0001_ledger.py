"""The simulated provider's ledger, which nobody updates: the first movement under a key says what becomes of it."""

from alembic import op

revision = "provider_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the ledger."""
    op.execute(
        """
        create table movements (
          key text,
          n smallint,
          kind text not null,
          amount_cents bigint not null,
          currency text not null,
          ref text not null,
          at timestamptz not null default now(),
          primary key (key, n),
          constraint movements_order
            check (n = 1 and kind in ('capture', 'decline', 'void') or n = 2 and kind = 'refund')
        )"""
    )


def downgrade() -> None:
    """Drop the ledger."""
    op.execute("drop table movements")
