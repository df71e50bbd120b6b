"""A history's place in its log: term and digest of its last entry, in which ABI that was, and which start of the engine confirmed it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

COLUMNS = ("digest", "abi", "confirmed_by")


def upgrade() -> None:
    """What an earlier version stored has no term and no digest: the history learns them when it has compared itself with the log."""
    op.add_column("progress", sa.Column("term", sa.BigInteger(), nullable=False, server_default="0"))
    for name in COLUMNS:
        op.add_column("progress", sa.Column(name, sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Back to the schema of version 0.2.0."""
    for name in ("term", *COLUMNS):
        op.drop_column("progress", name)
