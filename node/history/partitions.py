"""Moves old days to Parquet files: trades, ledger entries, transfers and done orders, one file a table and day.

    data/history/parquet/trades/day=2026-01-31/trades.parquet

DuckDB, pandas and polars read such a tree as one table with a column `day`. A file is complete and on disk before its
rows leave the database, and one transaction records the file and deletes the rows. So whenever the process is killed, a
row is in the database or in a recorded file, never in neither. Money is int64 and sums are decimal(38, 0), both in
smallest units; `currencies` and `products` in the database have the scales.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    SmallInteger,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.sql.type_api import TypeEngine

from node.config.settings import NodeConfig
from node.errors import HistoryError
from node.history import tables
from node.history.database import connect, is_made
from node.history.tables import Sum
from snapshots.durable import sync_path
from statemachine.limits import SECOND_NS
from statemachine.types import OrderStatus

DIRECTORY = "parquet"
DAY = 86_400 * SECOND_NS
ROWS_AT_A_TIME = 50_000
DAYS_KEPT_MIN = 2
"""Days that always stay in the database: rolling figures of 24 hours need them."""


class Partition(msgspec.Struct, frozen=True):
    """A file, relative to the history's directory, with the number of its rows."""

    table: str
    day: str
    file: str
    rows: int
    sha256: str


def archive_days(
    config: NodeConfig,
    before: datetime.date,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> list[Partition]:
    """Move all days before `before` (UTC) to files. Returns the new files; none if no such day is left.

    Args:
        progress: called before each day, with what moves, the days of the table that have moved, and all of them.

    Raises:
        HistoryError: there is no database, another process does it, `before` is too late, or pyarrow is not installed.
    """
    last = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=DAYS_KEPT_MIN - 1)
    if before > last:
        raise HistoryError(f"expected a day up to {last}: the latest {DAYS_KEPT_MIN} days stay in the database")
    parquet()
    engine = connect(config)
    try:
        if not is_made(engine):
            raise HistoryError(f"{config.node_id} has no history yet")
        end = nanoseconds(before)
        made = []
        with alone(config.history_path):
            for table, time, further in _moved():
                with engine.connect() as connection:
                    days = list(_days(connection, table, time, further, end))
                for number, day in enumerate(days):
                    progress(f"the days of the table {table.name} move", number, len(days))
                    made.append(_move(engine, config.history_path, table, _of_day(time, further, day), day))
        return made
    finally:
        engine.dispose()


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold the lock of the one process that moves days.

    Raises:
        HistoryError: another process holds it.
    """
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HistoryError("another process is moving old days at the moment") from None
        yield
    finally:
        os.close(directory)


def _moved() -> list[tuple[Table, ColumnElement[int], ColumnElement[bool] | None]]:
    """Return what moves of a table: the column with the time, and the condition that rows must meet."""
    return [
        (tables.trades, tables.trades.c.time, None),
        (tables.ledger, tables.ledger.c.time, None),
        (tables.transfers, tables.transfers.c.time, None),
        (tables.orders, tables.orders.c.done_at, tables.orders.c.status == OrderStatus.DONE),
    ]


def _days(
    connection: Connection, table: Table, time: ColumnElement[int], further: ColumnElement[bool] | None, end: int
) -> Iterator[datetime.date]:
    """Return the days before `end` that have rows, oldest first. One index lookup a day."""
    found: list[datetime.date] = []
    begin = 0
    while True:
        wanted = and_(time >= begin, time < end) if further is None else and_(time >= begin, time < end, further)
        earliest = connection.execute(select(func.min(time)).select_from(table).where(wanted)).scalar()
        if earliest is None:
            return iter(found)
        found.append(datetime.datetime.fromtimestamp(earliest // SECOND_NS, datetime.UTC).date())
        begin = (earliest // DAY + 1) * DAY


def _of_day(time: ColumnElement[int], further: ColumnElement[bool] | None, day: datetime.date) -> ColumnElement[bool]:
    begin = nanoseconds(day)
    within = and_(time >= begin, time < begin + DAY)
    return within if further is None else and_(within, further)


def id_of(table: Table) -> Column[int]:
    """Return the column whose smallest and largest value in a file are recorded: the order id, or else the command's
    sequence.
    """
    return table.c.order_id if table is tables.orders else table.c.sequence


def nanoseconds(day: datetime.date) -> int:
    midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.UTC)
    return int(midnight.timestamp()) * SECOND_NS


def _move(engine: Engine, home: Path, table: Table, wanted: ColumnElement[bool], day: datetime.date) -> Partition:
    """Write a day's file and delete its rows from the database. A day that already has a file gets another one beside
    it.

    The file is written before the transaction begins. The history continues in the meantime, but adds nothing to that
    day.
    """
    noted = tables.partitions.c
    of_day = and_(noted.table_name == table.name, noted.day == str(day))
    identity = id_of(table)
    with engine.connect() as connection:
        number = connection.execute(select(func.count()).select_from(tables.partitions).where(of_day)).scalar() or 0
        name = f"{table.name}.parquet" if not number else f"{table.name}-{number}.parquet"
        file = Path(DIRECTORY) / table.name / f"day={day}" / name
        rows = _write(connection, home / file, table, wanted)
        first, last = connection.execute(select(func.min(identity), func.max(identity)).where(wanted)).one()
    digest = hashlib.sha256((home / file).read_bytes()).hexdigest()
    partition = Partition(table.name, str(day), str(file), rows, digest)
    note = msgspec.structs.asdict(partition)
    note["table_name"] = note.pop("table")
    with engine.begin() as connection:
        connection.execute(insert(tables.partitions).values(**note, first_id=first, last_id=last))
        gone = connection.execute(delete(table).where(wanted)).rowcount
        if gone != rows:
            raise HistoryError(
                f"{table.name} of {day}: {rows} rows were written and {gone} are in the database; nothing was moved"
            )
    return partition


def _write(connection: Connection, path: Path, table: Table, wanted: ColumnElement[bool]) -> int:
    """Write rows to a file and return their number. The file is complete and on disk, or it does not exist under this
    name.
    """
    arrow, files = parquet()
    schema = arrow.schema([arrow.field(column.name, _arrow_type(arrow, column.type), nullable=False) for column in table.columns])
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    rows = 0
    found = connection.execute(
        select(table).where(wanted).order_by(*table.primary_key), execution_options={"yield_per": ROWS_AT_A_TIME}
    )
    with files.ParquetWriter(draft, schema, compression="zstd") as writer:
        for some in found.mappings().partitions(ROWS_AT_A_TIME):
            columns = {column.name: [_value(row[column.name], column.type) for row in some] for column in table.columns}
            writer.write_table(arrow.table(columns, schema=schema))
            rows += len(some)
    sync_path(draft)
    draft.replace(path)
    for directory in list(path.parents)[:4]:
        sync_path(directory)
    return rows


def _value(value: Any, kind: TypeEngine[Any]) -> Any:
    return Decimal(value) if isinstance(kind, Sum) else value


def _arrow_type(arrow: Any, kind: TypeEngine[Any]) -> Any:
    """Return the Arrow type of a column."""
    if isinstance(kind, Sum):
        return arrow.decimal128(38, 0)
    for known, made in ((BigInteger, arrow.int64), (SmallInteger, arrow.int16), (Integer, arrow.int32), (Boolean, arrow.bool_)):
        if isinstance(kind, known):
            return made()
    return arrow.string()


def parquet() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet, which nothing else needs.

    Raises:
        HistoryError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise HistoryError("pyarrow is not installed: pip install 'quorumbook[parquet]'") from None
    return pyarrow, pyarrow.parquet
