"""Moves old days to Parquet files: trades, ledger entries, transfers and done orders, one file a table and day.

    data/history/parquet/trades/day=2026-01-31/trades.parquet

DuckDB, pandas and polars read such a tree as one table with a column `day`. A file is complete and on disk before its
rows leave the database, and one transaction records the file and deletes the rows. So whenever the process is killed, a
row is in the database or in a recorded file, never in neither. Money is int64 and sums are decimal(38, 0), both in
smallest units; `currencies` and `products` in the database have the scales.

Rows of old days are read from the files as the database returned them before they moved. A condition is written once,
over the columns of a table, and works in both places: comparisons, `&` and `|` mean the same for SQLAlchemy's columns
and for pyarrow's fields. Statistics let the reader skip whole row groups, and the ids in the table `partitions` let it
skip whole files.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    RowMapping,
    SmallInteger,
    Table,
    Text,
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
        partitions = []
        with alone(config.history_path):
            for table, time, condition in _movable_tables():
                with engine.connect() as connection:
                    days = list(_days(connection, table, time, condition, end))
                for number, day in enumerate(days):
                    progress(f"the days of the table {table.name} move", number, len(days))
                    partitions.append(_move(engine, config.history_path, table, _of_day(time, condition, day), day))
        return partitions
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


def _movable_tables() -> list[tuple[Table, ColumnElement[int], ColumnElement[bool] | None]]:
    """Return what moves of a table: the column with the time, and the condition that rows must meet."""
    return [
        (tables.trades, tables.trades.c.time, None),
        (tables.ledger, tables.ledger.c.time, None),
        (tables.transfers, tables.transfers.c.time, None),
        (tables.orders, tables.orders.c.done_at, tables.orders.c.status == OrderStatus.DONE),
    ]


def _days(
    connection: Connection, table: Table, time: ColumnElement[int], condition: ColumnElement[bool] | None, end: int
) -> Iterator[datetime.date]:
    """Return the days before `end` that have rows, oldest first. One index lookup a day."""
    found: list[datetime.date] = []
    begin = 0
    while True:
        wanted = and_(time >= begin, time < end) if condition is None else and_(time >= begin, time < end, condition)
        earliest = connection.execute(select(func.min(time)).select_from(table).where(wanted)).scalar()
        if earliest is None:
            return iter(found)
        found.append(datetime.datetime.fromtimestamp(earliest // SECOND_NS, datetime.UTC).date())
        begin = (earliest // DAY + 1) * DAY


def _of_day(time: ColumnElement[int], condition: ColumnElement[bool] | None, day: datetime.date) -> ColumnElement[bool]:
    begin = nanoseconds(day)
    within = and_(time >= begin, time < begin + DAY)
    return within if condition is None else and_(within, condition)


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
        deleted = connection.execute(delete(table).where(wanted)).rowcount
        if deleted != rows:
            raise HistoryError(
                f"{table.name} of {day}: {rows} rows were written and {deleted} are in the database; nothing was moved"
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
    result = connection.execute(
        select(table).where(wanted).order_by(*table.primary_key), execution_options={"yield_per": ROWS_AT_A_TIME}
    )
    with files.ParquetWriter(draft, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in result.mappings().partitions(ROWS_AT_A_TIME):
            columns = {column.name: [_value(row[column.name], column.type) for row in batch] for column in table.columns}
            writer.write_table(arrow.table(columns, schema=schema))
            rows += len(batch)
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


Row = Mapping[str, Any]
Where = Callable[[Any], Any]
"""A condition: a function from columns (as attributes) to an expression that selects rows."""

ID_MAX = 2**63 - 1


class Fields:
    """The columns of a file as pyarrow's fields. A column that an earlier version did not write has the value that it
    would have written.
    """

    def __init__(self, table: Table, written: Sequence[str], compute: Any) -> None:
        self._table = table
        self._written = written
        self._compute = compute

    def __getattr__(self, name: str) -> Any:
        if name in self._written:
            return self._compute.field(name)
        return self._compute.scalar(default(self._table.columns[name]))


def default(column: Column[Any]) -> Any:
    """Return the value of a column in rows that are older than the column."""
    if isinstance(column.type, Boolean):
        return False
    return "" if isinstance(column.type, Text) else 0


class Times(NamedTuple):
    """A range of times, `end` excluded, of a column that grows with the ids."""

    column: str
    start: int | None
    end: int | None

    def hold(self, own: Any) -> Any:
        """Return the condition that a row is in the range. At least one of the two ends must be given."""
        time = getattr(own, self.column)
        if self.start is None:
            return time < self.end
        return time >= self.start if self.end is None else (time >= self.start) & (time < self.end)


class RowRequest(NamedTuple):
    """A request for the last `limit` rows in the order of some columns; the ids (`id_of`) grow with the
    first of these. Only ids from `first` to `last`, and times within `times`, need to be read.
    """

    where: Where
    order: Sequence[str]
    limit: int
    first: int = 0
    last: int = ID_MAX
    times: Times | None = None


def newest(connection: Connection, home: Path, table: Table, wanted: RowRequest) -> list[Row]:
    """Return rows of a table, the last one first, from the database and from files.

    Raises:
        HistoryError: there are files to read, and pyarrow is not installed, or a file is gone or damaged.
    """
    falling = [table.c[name].desc() for name in wanted.order]
    found = select(table).where(wanted.where(table.c))
    if wanted.times is not None:
        found = found.where(wanted.times.hold(table.c), *_ids_within(connection, table, wanted.times))
    found = found.order_by(*falling).limit(wanted.limit)
    rows: list[Row] = [dict(row) for row in connection.execute(found).mappings()]
    # Days and ids grow together, except for orders, which leave the database in another order than they arrived.
    if len(rows) == wanted.limit and table is not tables.orders:
        return rows
    for note in _partitions(connection, table, wanted):
        if len(rows) == wanted.limit and rows[-1][id_of(table).name] > note["last_id"]:
            break
        rows = latest([*rows, *_read(home, dict(note), table, wanted)], wanted.order, wanted.limit)
    return rows


def _ids_within(connection: Connection, table: Table, times: Times) -> list[ColumnElement[bool]]:
    """Return the range of ids of the database's rows within some times. One index finds the rows of the times, and
    their ids narrow the read through an account's index.
    """
    number, time = id_of(table), table.c[times.column]
    found = []
    if times.start is not None:
        first = connection.execute(select(number).where(time >= times.start).order_by(time, number).limit(1)).scalar()
        found.append(number >= (ID_MAX if first is None else first))
    if times.end is not None:
        last = connection.execute(select(number).where(time < times.end).order_by(time.desc(), number.desc()).limit(1)).scalar()
        found.append(number <= (0 if last is None else last))
    return found


def _partitions(connection: Connection, table: Table, wanted: RowRequest) -> list[RowMapping]:
    """Return the files of a table that may have such rows, the one with the highest ids first."""
    own = tables.partitions.c
    among = (own.table_name == table.name, own.first_id <= wanted.last, own.last_id >= wanted.first)
    found = select(tables.partitions).where(*among).order_by(own.last_id.desc(), own.day.desc())
    return list(connection.execute(found).mappings())


def latest(rows: Iterable[Row], order: Sequence[str], limit: int) -> list[Row]:
    """Sort rows, the last one first, and keep the first of them up to the limit."""
    return sorted(rows, key=lambda row: tuple(row[name] for name in order), reverse=True)[:limit]


def up_to(home: Path, note: Row, table: Table, sequence: int, time: int = ID_MAX) -> list[Row]:
    """Return all rows of a file whose commands have sequences up to `sequence`, and that are not later than `time`,
    except that orders are chosen by the sequence alone.

    Args:
        note: the file's row in `partitions`.

    Raises:
        HistoryError: pyarrow is not installed, or the file is gone or damaged.
    """
    order = [column.name for column in table.primary_key]

    def wanted(own: Any) -> Any:
        early = own.sequence <= sequence
        return early & (own.time <= time) if "time" in table.c else early

    return _read(home, note, table, RowRequest(wanted, order, ID_MAX))


def _read(home: Path, note: Row, table: Table, wanted: RowRequest) -> list[Row]:
    """Read the last rows of one file that the request selects.

    Raises:
        HistoryError: pyarrow is not installed, or the file is gone or damaged.
    """
    arrow, _ = parquet()
    file = home / note["file"]
    try:
        status = file.stat()
        _compare_digest(file, note["sha256"], (status.st_ino, status.st_size, status.st_mtime_ns))
        return _rows_of(file, table, wanted)
    except (OSError, ValueError, arrow.ArrowException) as error:
        why = str(error) if isinstance(error, _OtherFileError) else type(error).__name__
        raise HistoryError(
            f"the file {note['file']} of the history cannot be read: {why}. Put a copy of it back, or rebuild the history (docs/history.md)"
        ) from error


class _OtherFileError(ValueError):
    """A file does not have the contents that were written."""


@functools.lru_cache(maxsize=10_000)
def _compare_digest(file: Path, sha256: str, _identity: tuple[int, int, int]) -> None:
    """Compare a file with its SHA-256, once in a process while it keeps its identity: inode, size and time of change.

    A flipped bit would otherwise become another number: Parquet's own checksums, of pages, are optional, and its footer
    has none.
    """
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != sha256:
            raise _OtherFileError("its SHA-256 is not the recorded one")


def _rows_of(file: Path, table: Table, wanted: RowRequest) -> list[Row]:
    """Read the last rows of one file that the request selects. The database's note of the file was compared."""
    arrow, files = parquet()
    written = files.read_schema(file).names
    fields = Fields(table, written, arrow.compute)
    filters = wanted.where(fields)
    if wanted.times is not None:
        filters &= wanted.times.hold(fields)
    found = files.read_table(file, columns=written, filters=filters, partitioning=None, page_checksum_verification=True)
    found = found.sort_by([(name, "descending") for name in dict.fromkeys(wanted.order)]).slice(0, wanted.limit)
    missing = {column.name: default(column) for column in table.columns if column.name not in written}
    sums = [column.name for column in table.columns if isinstance(column.type, Sum)]
    return [{**row, **missing, **{name: int(row[name]) for name in sums}} for row in found.to_pylist()]
