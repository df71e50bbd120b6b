"""Who did what: the operator's commands with their senders. And the options of orders."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

TEXTS = ("sender", "command", "fields", "outcome")


def upgrade() -> None:
    """Create the table of operations, and the columns of options. Earlier rows have neither."""
    op.create_table(
        "operations",
        sa.Column("sequence", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in TEXTS),
    )
    op.create_index("operations_of_sender", "operations", ["sender", "sequence"])
    op.add_column("orders", sa.Column("terms", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Remove the table and the columns."""
    op.drop_column("orders", "terms")
    op.drop_index("operations_of_sender", "operations")
    op.drop_table("operations")
