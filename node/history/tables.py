"""The tables of the history, for SQLite and PostgreSQL alike. A change here needs a migration in `migrations/versions`.

All numbers are whole, in smallest units, as in the engine: amounts and sizes by their currency's scale, prices in quote
units for one whole base coin. Times are nanoseconds since the epoch. `sequence` is the place of the command in the one
order of all commands.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Index,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
    false,
)
from sqlalchemy.types import TypeEngine


class Sum(TypeDecorator[int]):
    """A whole number that may need more than 63 bits, such as a sum of amounts: NUMERIC, and digits as text in SQLite.
    It cannot be compared in the database.
    """

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Use text where NUMERIC would become a float."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        return dialect.type_descriptor(Numeric(60, 0, asdecimal=True))

    def process_bind_param(self, value: int | None, dialect: Dialect) -> object:
        """Convert a value for the database."""
        return str(value) if dialect.name == "sqlite" and value is not None else value

    def process_result_value(self, value: Any | None, _dialect: Dialect) -> int | None:
        """Convert a value from the database."""
        return None if value is None else int(value)


metadata = MetaData()

progress = Table(
    "progress",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("cluster_id", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("log_index", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("term", BigInteger, nullable=False, server_default="0", comment="Of the log entry; 0: not compared with the log yet."),
    Column("digest", Text, nullable=False, server_default="", comment="BLAKE2b of the log entry, hex."),
    Column("abi", Text, nullable=False, server_default="", comment="In which the entry has this digest."),
    Column(
        "confirmed_by",
        Text,
        nullable=False,
        server_default="",
        comment="The start of the engine whose log this history was last found to be of.",
    ),
    comment="One row: whose history this is, and up to which log entry, command and time it goes.",
)

gaps = Table(
    "gaps",
    metadata,
    Column("first_index", BigInteger, primary_key=True, autoincrement=False),
    Column("last_index", BigInteger, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    comment="Log entries, and the commands in them, of which this history knows only the state that they led to.",
)

currencies = Table(
    "currencies",
    metadata,
    Column("currency", Text, primary_key=True),
    Column("scale", SmallInteger, nullable=False),
)

products = Table(
    "products",
    metadata,
    Column("product_id", Text, primary_key=True),
    Column("base", Text, nullable=False),
    Column("quote", Text, nullable=False),
    Column("tick", BigInteger, nullable=False),
    Column("lot", BigInteger, nullable=False),
)

product_changes = Table(
    "product_changes",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("product_id", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("min_size", BigInteger, nullable=False),
    Column("max_size", BigInteger, nullable=False),
    Column("maker_fee_ppm", Integer, nullable=False),
    Column("taker_fee_ppm", Integer, nullable=False),
    comment="Every change of a product's status, sizes and fees.",
)

status_changes = Table(
    "status_changes",
    metadata,
    Column("product_id", Text, primary_key=True),
    Column("product_sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("open_price", BigInteger, nullable=False, comment="What an auction opened at; 0: nothing traded, or there was none."),
    Column("open_size", BigInteger, nullable=False),
    comment="The sessions of a product: from each of these on it had that status.",
)

orders = Table(
    "orders",
    metadata,
    Column("order_id", BigInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("client_oid", Text, nullable=False),
    Column("product_id", Text, nullable=False),
    Column("side", SmallInteger, nullable=False),
    Column("order_type", SmallInteger, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("funds", BigInteger, nullable=False),
    Column("time_in_force", SmallInteger, nullable=False),
    Column("post_only", Boolean, nullable=False),
    Column("stp", SmallInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("maker_fee_ppm", Integer, nullable=False),
    Column("taker_fee_ppm", Integer, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("filled_size", BigInteger, nullable=False),
    Column("executed_value", Sum, nullable=False),
    Column("fill_fees", Sum, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("done_reason", SmallInteger, nullable=False),
    Column("done_at", BigInteger, nullable=False),
    Column("stop", SmallInteger, nullable=False, server_default="0"),
    Column("stop_price", BigInteger, nullable=False, server_default="0"),
    Column("expires_at", BigInteger, nullable=False, server_default="0"),
    Column(
        "opened_sequence", BigInteger, nullable=False, server_default="0", comment="The product sequence with which it rested."
    ),
    Column("terms", Text, nullable=False, server_default="", comment="The order's options, a JSON object; empty: none."),
    Index("orders_of_account", "account_id", "order_id"),
    Index("orders_by_client_oid", "account_id", "client_oid", "order_id"),
    Index("orders_by_done_at", "done_at"),
    Index("orders_by_created_at", "created_at", "order_id"),
)

trades = Table(
    "trades",
    metadata,
    Column("product_id", Text, primary_key=True),
    Column("trade_id", BigInteger, primary_key=True, autoincrement=False),
    Column("product_sequence", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("maker_order_id", BigInteger, nullable=False),
    Column("taker_order_id", BigInteger, nullable=False),
    Column("maker_account_id", Text, nullable=False),
    Column("taker_account_id", Text, nullable=False),
    Column("side", SmallInteger, nullable=False, comment="The maker's."),
    Column("price", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("notional", BigInteger, nullable=False),
    Column("maker_fee", BigInteger, nullable=False),
    Column("taker_fee", BigInteger, nullable=False),
    Column("auction", Boolean, nullable=False, server_default=false(), comment="Whether it is of an auction's opening."),
    Index("trades_by_time", "time", "sequence"),
    Index("trades_of_maker", "maker_account_id", "sequence", "trade_id"),
    Index("trades_of_taker", "taker_account_id", "sequence", "trade_id"),
    Index("trades_of_maker_order", "maker_order_id"),
    Index("trades_of_taker_order", "taker_order_id"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False, comment="Among the entries of one command, from 0 on."),
    Column("time", BigInteger, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("kind", SmallInteger, nullable=False, comment="1 transfer, 2 match, 3 fee"),
    Column("amount", BigInteger, nullable=False, comment="Signed."),
    Column("balance", BigInteger, nullable=False, comment="After the entry, what is on hold included."),
    Column("product_id", Text, nullable=False),
    Column("order_id", BigInteger, nullable=False),
    Column("trade_id", BigInteger, nullable=False),
    Column("transfer_id", Text, nullable=False),
    Column("other_account_id", Text, nullable=False, server_default="", comment="The other side of a transfer between accounts."),
    Index("ledger_of_account", "account_id", "currency", "sequence", "position"),
    Index("ledger_by_time", "time", "sequence"),
)

transfers = Table(
    "transfers",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("account_id", Text, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("amount", BigInteger, nullable=False, comment="Negative for what leaves the account."),
    Column("transfer_id", Text, nullable=False),
    Column("other_account_id", Text, nullable=False, server_default="", comment="The other side of a transfer between accounts."),
    Index("transfers_of_account", "account_id", "sequence"),
    Index("transfers_by_id", "account_id", "transfer_id", "sequence"),
    Index("transfers_by_time", "time", "sequence"),
)

operations = Table(
    "operations",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column(
        "sender", Text, nullable=False, comment="A user; key/ and a key without a user; operator: the cluster, or the file's key."
    ),
    Column("command", Text, nullable=False),
    Column("fields", Text, nullable=False, comment="A JSON object, numbers in smallest units. Without secrets."),
    Column("outcome", Text, nullable=False, comment="done, unchanged, proposed, or the reason of a rejection."),
    Index("operations_of_sender", "sender", "sequence"),
    comment="Each command of the operator, and who sent it.",
)

candles = Table(
    "candles",
    metadata,
    Column("product_id", Text, primary_key=True),
    Column("granularity", Integer, primary_key=True, autoincrement=False, comment="Seconds: 60 or 3600."),
    Column("start", BigInteger, primary_key=True, autoincrement=False, comment="Seconds since the epoch."),
    Column("open", BigInteger, nullable=False),
    Column("high", BigInteger, nullable=False),
    Column("low", BigInteger, nullable=False),
    Column("close", BigInteger, nullable=False),
    Column("volume", Sum, nullable=False, comment="Base units."),
    Column("value", Sum, nullable=False, comment="Quote units."),
    Column("trades", BigInteger, nullable=False),
)

volumes = Table(
    "volumes",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False, comment="An hour: seconds since the epoch."),
    Column("product_id", Text, primary_key=True),
    Column("volume", Sum, nullable=False, comment="Base units, bought and sold."),
    Column("value", Sum, nullable=False, comment="Quote units."),
    comment="What each account traded in an hour.",
)

partitions = Table(
    "partitions",
    metadata,
    Column("file", Text, primary_key=True),
    Column("table_name", Text, nullable=False),
    Column("day", Text, nullable=False, comment="2026-01-31, UTC"),
    Column("rows", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("first_id", BigInteger, nullable=False, server_default="0", comment="Of the rows: order_id, elsewhere sequence."),
    Column("last_id", BigInteger, nullable=False, server_default=str(2**63 - 1)),
    comment="Days whose rows are in Parquet files and here no more.",
)

checksum = Table(
    "checksum",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("checksum", Text, nullable=False),
    comment="One row: that of the schema which this database has.",
)

ROWS = (products, currencies, product_changes, status_changes, orders, trades, ledger, transfers, operations, candles, volumes)
"""The tables that commands fill."""
