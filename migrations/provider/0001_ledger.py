"""The ledger of the simulated provider, which is never updated: the first movement of a key decides its outcome."""

from alembic import op

revision = "provider_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    op.execute("drop table movements")
