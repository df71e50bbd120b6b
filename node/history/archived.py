"""Rows of old days, read from their Parquet files as the database returned them before they moved.

A condition is written once, over the columns of a table, and works in both places: comparisons, `&` and `|` mean the
same for SQLAlchemy's columns and for pyarrow's fields. Statistics let the reader skip whole row groups, and the ids in
the table `partitions` let it skip whole files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Boolean, Column, ColumnElement, Connection, RowMapping, Table, Text, select

from node.errors import HistoryError
from node.history import tables
from node.history.partitions import id_of, parquet
from node.history.tables import Sum

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
    """A request for the last `limit` rows in the order of some columns; the ids (`partitions.id_of`) grow with the
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
        arrow, _ = parquet()
        try:
            found_there = _read(home / note["file"], table, wanted)
        except (OSError, arrow.ArrowException) as error:
            raise HistoryError(f"the file {note['file']} of the history cannot be read: {type(error).__name__}") from error
        rows = latest([*rows, *found_there], wanted.order, wanted.limit)
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


def up_to(file: Path, table: Table, sequence: int, time: int = ID_MAX) -> list[Row]:
    """Return all rows of a file whose commands have sequences up to `sequence`, and that are not later than `time`, except
    that orders are chosen by the sequence alone.
    """
    order = [column.name for column in table.primary_key]

    def wanted(own: Any) -> Any:
        early = own.sequence <= sequence
        return early & (own.time <= time) if "time" in table.c else early

    return _read(file, table, RowRequest(wanted, order, ID_MAX))


def _read(file: Path, table: Table, wanted: RowRequest) -> list[Row]:
    """Read the last rows of one file that the request selects."""
    arrow, files = parquet()
    written = files.read_schema(file).names
    fields = Fields(table, written, arrow.compute)
    filters = wanted.where(fields)
    if wanted.times is not None:
        filters &= wanted.times.hold(fields)
    found = files.read_table(file, columns=written, filters=filters, partitioning=None)
    found = found.sort_by([(name, "descending") for name in dict.fromkeys(wanted.order)]).slice(0, wanted.limit)
    missing = {column.name: default(column) for column in table.columns if column.name not in written}
    sums = [column.name for column in table.columns if isinstance(column.type, Sum)]
    return [{**row, **missing, **{name: int(row[name]) for name in sums}} for row in found.to_pylist()]
