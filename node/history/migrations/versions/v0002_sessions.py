"""Stop orders and good-till-time, changes of a product's status, transfers between accounts, and what each account
traded by the hour.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from node.history import tables

revision = "0002"
down_revision = "0001"

ROWS_AT_A_TIME = 10_000


def upgrade() -> None:
    """Upgrade the schema of version 0.1.0. The first rows of new tables are made from the existing tables."""
    _orders()
    op.add_column("ledger", sa.Column("other_account_id", sa.Text(), nullable=False, server_default=""))
    op.add_column("trades", sa.Column("auction", sa.Boolean(), nullable=False, server_default=sa.false()))
    _transfers()
    _indexes()
    _status_changes()
    _volumes()
    op.add_column("partitions", sa.Column("first_id", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("partitions", sa.Column("last_id", sa.BigInteger(), nullable=False, server_default=str(2**63 - 1)))


def downgrade() -> None:
    """Return to the schema of version 0.1.0, which knows no transfers between accounts."""
    for name in ("last_id", "first_id"):
        op.drop_column("partitions", name)
    op.drop_table("volumes")
    op.drop_table("status_changes")
    op.drop_index("orders_by_created_at", "orders")
    for table, columns in (("trades", ["product_id", "time"]), ("ledger", ["time"])):
        op.drop_index(f"{table}_by_time", table)
        op.create_index(f"{table}_by_time", table, columns)
    op.create_table(
        "transfers_of_one",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("transfer_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
    )
    same = "sequence, time, account_id, currency, amount, transfer_id"
    op.execute(f"INSERT INTO transfers_of_one ({same}) SELECT {same} FROM transfers WHERE other_account_id = ''")
    op.drop_table("transfers")
    op.rename_table("transfers_of_one", "transfers")
    op.create_index("transfers_of_account", "transfers", ["account_id", "sequence"])
    op.drop_column("trades", "auction")
    op.drop_column("ledger", "other_account_id")
    for name in ("opened_sequence", "expires_at", "stop_price", "stop"):
        op.drop_column("orders", name)


def _orders() -> None:
    op.add_column("orders", sa.Column("stop", sa.SmallInteger(), nullable=False, server_default="0"))
    for name in ("stop_price", "expires_at", "opened_sequence"):
        op.add_column("orders", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def _transfers() -> None:
    """Create the table again, because its key has another column."""
    op.create_table(
        "transfers_of_both",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("transfer_id", sa.Text(), nullable=False),
        sa.Column("other_account_id", sa.Text(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("sequence", "account_id"),
    )
    same = "sequence, account_id, time, currency, amount, transfer_id"
    op.execute(f"INSERT INTO transfers_of_both ({same}, other_account_id) SELECT {same}, '' FROM transfers")
    op.drop_table("transfers")
    op.rename_table("transfers_of_both", "transfers")
    op.create_index("transfers_of_account", "transfers", ["account_id", "sequence"])
    op.create_index("transfers_by_id", "transfers", ["account_id", "transfer_id", "sequence"])
    op.create_index("transfers_by_time", "transfers", ["time", "sequence"])


def _indexes() -> None:
    """Indexes by time and by the columns that continue a page."""
    for table in ("trades", "ledger"):
        op.drop_index(f"{table}_by_time", table)
        op.create_index(f"{table}_by_time", table, ["time", "sequence"])
    op.create_index("orders_by_created_at", "orders", ["created_at", "order_id"])


def _status_changes() -> None:
    """Create the table of status changes. It begins empty, because earlier changes had no product sequence."""
    op.create_table(
        "status_changes",
        sa.Column("product_id", sa.Text(), nullable=False),
        sa.Column("product_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("open_price", sa.BigInteger(), nullable=False),
        sa.Column("open_size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("product_id", "product_sequence"),
    )


def _volumes() -> None:
    """Create the table of volumes, and fill it from the trades: by account, hour and product."""
    made = op.create_table(
        "volumes",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("product_id", sa.Text(), nullable=False),
        sa.Column("volume", tables.Sum(), nullable=False),
        sa.Column("value", tables.Sum(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "start", "product_id"),
    )
    found: dict[tuple[str, int, str], list[int]] = {}
    trades = sa.text("SELECT product_id, time, maker_account_id, taker_account_id, size, notional FROM trades")
    rows = op.get_bind().execute(trades, execution_options={"yield_per": ROWS_AT_A_TIME})
    for product_id, time, maker, taker, size, notional in rows:
        seconds = time // 10**9
        for account_id in (maker, taker):
            sums = found.setdefault((account_id, seconds - seconds % 3_600, product_id), [0, 0])
            sums[0] += size
            sums[1] += notional
    stored: list[dict[str, Any]] = [
        {"account_id": account_id, "start": start, "product_id": product_id, "volume": volume, "value": value}
        for (account_id, start, product_id), (volume, value) in found.items()
    ]
    for first in range(0, len(stored), ROWS_AT_A_TIME):
        op.bulk_insert(made, stored[first : first + ROWS_AT_A_TIME])
