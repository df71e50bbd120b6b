"""A history's place in its log: term and digest of its last entry, in which ABI that was, and which start of the engine confirmed it.
And views with amounts in coins, for people."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

COLUMNS = ("digest", "abi", "confirmed_by")

VIEWS = {
    "trades": (
        "product_id, trade_id, sequence, time, side, auction, maker_account_id, taker_account_id, maker_order_id, taker_order_id",
        {"price": "quote", "size": "base", "notional": "quote", "maker_fee": "quote", "taker_fee": "quote"},
    ),
    "orders": (
        "order_id, sequence, account_id, client_oid, product_id, side, order_type, status, done_reason",
        {
            **dict.fromkeys(("price", "stop_price", "funds", "executed_value", "fill_fees"), "quote"),
            **dict.fromkeys(("size", "remaining", "filled_size"), "base"),
        },
    ),
    "candles": (
        "product_id, granularity, start, trades",
        {**dict.fromkeys(("open", "high", "low", "close", "value"), "quote"), "volume": "base"},
    ),
    "ledger": (
        "sequence, position, time, account_id, currency, kind, product_id, order_id, trade_id, transfer_id, other_account_id",
        {"amount": "own", "balance": "own"},
    ),
    "transfers": (
        "sequence, time, account_id, currency, transfer_id, other_account_id",
        {"amount": "own"},
    ),
}
"""By table: the columns that a view shows unchanged, and its amounts with the currency whose scale applies. The views are
`<table>_in_coins`.
"""


def upgrade() -> None:
    """Rows of an earlier version have no term and no digest. The history stores them after it has compared itself with the
    log.
    """
    op.add_column("progress", sa.Column("term", sa.BigInteger(), nullable=False, server_default="0"))
    for name in COLUMNS:
        op.add_column("progress", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table, (kept, amounts) in VIEWS.items():
        op.execute(_view(table, kept, amounts, on_sqlite=on_sqlite))


def downgrade() -> None:
    """Return to the schema of version 0.2.0."""
    for table in VIEWS:
        op.execute(f"DROP VIEW {table}_in_coins")
    for name in ("term", *COLUMNS):
        op.drop_column("progress", name)


def _view(table: str, kept: str, amounts: dict[str, str], *, on_sqlite: bool) -> str:
    seconds = "t.time / 1000000000"
    time = f"strftime('%Y-%m-%dT%H:%M:%SZ', {seconds}, 'unixepoch')" if on_sqlite else f"to_timestamp({seconds})"
    columns = [f"{time} AS time" if column == "time" else f"t.{column}" for column in kept.split(", ")]
    coins = _coins_sqlite if on_sqlite else _coins_postgresql
    columns += [f"{coins(f't.{name}', f'{currency}.scale')} AS {name}" for name, currency in amounts.items()]
    joins = "JOIN currencies own ON own.currency = t.currency"
    if "own" not in amounts.values():
        joins = (
            "JOIN products p ON p.product_id = t.product_id JOIN currencies base ON base.currency = p.base "
            "JOIN currencies quote ON quote.currency = p.quote"
        )
    return f"CREATE VIEW {table}_in_coins AS SELECT {', '.join(columns)} FROM {table} t {joins}"


def _coins_postgresql(amount: str, scale: str) -> str:
    return f"({amount}::text || 'e-' || {scale})::numeric"


def _coins_sqlite(amount: str, scale: str) -> str:
    """Exact, as text: SQLite would make a float of it."""
    digits = f"ltrim({amount}, '-')"
    padded = f"substr('00000000000000000000000000000000', 1, max(0, {scale} + 1 - length({digits}))) || {digits}"
    sign = f"CASE WHEN substr({amount}, 1, 1) = '-' THEN '-' ELSE '' END"
    dotted = f"{sign} || substr({padded}, 1, length({padded}) - {scale}) || '.' || substr({padded}, -{scale})"
    return f"CASE WHEN {scale} = 0 THEN CAST({amount} AS TEXT) ELSE {dotted} END"
