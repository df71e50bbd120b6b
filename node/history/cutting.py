"""A history cut back to an earlier place of its log, or set aside: what came after that place was undone.

Rows that are only ever added go by the number of their command. What changes in place is made again: orders that were
open at that place have their rows out of the exchange's state there, the last candles and hourly volumes come from the
trades that stay. Days in Parquet files come back into the database where that place is in them, and go where it is
before them.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy import Engine as Database

from node.config.settings import NodeConfig
from node.history import tables
from node.history.archived import up_to
from node.history.candles import HOUR, MINUTE, NANOSECONDS, bucket
from node.history.database import connect, database_url, schema_name
from node.history.partitions import DIRECTORY, alone
from node.history.projection import Rows, order_row
from node.history.store import Progress, add_volumes, put, put_candles
from statemachine.engine import Engine
from statemachine.events import OrderState
from statemachine.tables import CounterRow

ADDED = (tables.trades, tables.ledger, tables.transfers, tables.product_changes, tables.status_changes)
"""Tables whose rows never change, by the sequence of their command."""

PARQUET = {table.name: table for table in (tables.trades, tables.ledger, tables.transfers, tables.orders)}


def cut(database: Database, home: Path, state: Engine, progress: Progress) -> None:
    """Make the history one that goes up to `progress` and no further, in one transaction.

    Args:
        home: the history's directory, with its files.
        state: the exchange after the log entry of `progress`.

    Raises:
        HistoryError: another process moves old days to files at this moment.
        sqlalchemy.exc.SQLAlchemyError, OSError: the database or a file cannot be used; nothing was changed.
    """
    with alone(home):
        with database.begin() as connection:
            gone = _restore_days(connection, home, progress)
            for table in ADDED:
                connection.execute(delete(table).where(table.c.sequence > progress.sequence))
            connection.execute(delete(tables.orders).where(tables.orders.c.sequence > progress.sequence))
            connection.execute(delete(tables.gaps).where(tables.gaps.c.last_index > progress.log_index))
            _from_state(connection, state)
            _last_figures(connection, progress.time // NANOSECONDS)
            moved = {**msgspec.structs.asdict(progress), "confirmed_by": ""}
            connection.execute(update(tables.progress).values(**moved))
        for file in gone:
            (home / file).unlink(missing_ok=True)


def _restore_days(connection: Connection, home: Path, progress: Progress) -> list[str]:
    """Take back into the database what stays of days in files that end behind `progress`. The files, which are of no
    use then.
    """
    day = str(datetime.datetime.fromtimestamp(progress.time // NANOSECONDS, datetime.UTC).date())
    own = tables.partitions.c
    files = []
    for note in connection.execute(select(tables.partitions).where(own.day >= day)).mappings().all():
        table = PARQUET[note["table_name"]]
        rows: list[dict[str, Any]] = [dict(row) for row in up_to(home / note["file"], table, progress.sequence)]
        if rows:
            connection.execute(insert(table), rows)
        files.append(note["file"])
    connection.execute(delete(tables.partitions).where(own.day >= day))
    return files


def _from_state(connection: Connection, state: Engine) -> None:
    """Currencies, products and open orders as they were. Orders that were done by then have not changed since."""
    tables_of = dict(state.tables())
    opened = [order_row(msgspec.msgpack.decode(row, type=OrderState), 0) for _, row in tables_of["order"]]
    counter = msgspec.msgpack.decode(tables_of["counter"][0][1], type=CounterRow)
    later = tables.orders.c.order_id > counter.last_order_id
    connection.execute(delete(tables.orders).where(later))
    put(connection, tables.orders, opened, keep=("sequence",))
    for table, column, known in (
        (tables.products, tables.products.c.product_id, [row.product_id for row in state.products()]),
        (tables.currencies, tables.currencies.c.currency, [row.currency for row in state.currencies()]),
    ):
        connection.execute(delete(table).where(column.not_in(known)))


def _last_figures(connection: Connection, seconds: int) -> None:
    """Candles and volumes of the minute and the hour at `seconds`, which were under way, from the trades that are left;
    none later.
    """
    hour, minute = bucket(seconds, HOUR), bucket(seconds, MINUTE)
    candles, volumes, trades = tables.candles.c, tables.volumes.c, tables.trades
    for granularity, start in ((MINUTE, minute), (HOUR, hour)):
        connection.execute(delete(tables.candles).where(candles.granularity == granularity, candles.start >= start))
    connection.execute(delete(tables.volumes).where(volumes.start >= hour))
    rows = Rows()
    of_hour = select(trades).where(trades.c.time >= hour * NANOSECONDS).order_by(trades.c.product_id, trades.c.trade_id)
    rows.trades = [dict(row) for row in connection.execute(of_hour).mappings()]
    for (product_id, granularity), found in rows.candles().items():
        under_way = [candle for candle in found if granularity == HOUR or candle.start >= minute]
        if under_way:
            put_candles(connection, product_id, granularity, under_way)
    add_volumes(connection, rows.volumes())


def set_aside(config: NodeConfig, mark: str) -> str:
    """Put a history's database and files out of the way under another name, so that a new one begins. Where it is now,
    for a person.

    Args:
        mark: what the names end with.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: it cannot be done.
    """
    parquet = config.history_path / DIRECTORY
    if parquet.exists():
        parquet.rename(_free(parquet.with_name(f"{DIRECTORY}.{mark}")))
    url = database_url(config)
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        aside = _free(path.with_name(f"{path.name}.{mark}"))
        for ending in ("-wal", "-shm", ""):
            part = path.with_name(path.name + ending)
            if part.exists():
                part.rename(aside.with_name(aside.name + ending))
        return str(aside)
    database = connect(config)
    try:
        name = schema_name(config.node_id)
        aside_name = f"{name}_{mark.replace('-', '_')}"[:63]
        with database.begin() as connection:
            connection.execute(text(f'ALTER SCHEMA "{name}" RENAME TO "{aside_name}"'))
        return f"schema {aside_name}"
    finally:
        database.dispose()


def _free(path: Path) -> Path:
    """A name that nothing has yet."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
