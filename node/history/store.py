"""Writes a history: rows and the position in the log that they lead to, in one transaction. So each row is stored
exactly once, whenever the process ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, RowMapping, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert

from node.errors import HistoryError
from node.history import tables
from node.history.candles import Candle
from node.history.database import check_owner
from node.history.partitions import RowRequest, newest
from node.history.projection import HistoryRows, Row
from statemachine.types import DoneReason, OrderStatus

Id = TypeVar("Id", int, str)

LOOKUP_MAX = 500
"""Ids in one query: SQLite and PostgreSQL both limit the parameters of a statement."""


class HistoryProgress(msgspec.Struct, frozen=True):
    """The position up to which a history goes: log entry, command, and the time of the latest batch.

    `term` and `digest` distinguish a log entry from another one at the same index. `digest` is compared only with an
    entry in the same `abi`. A term of 0 is unknown: an earlier version stored it.
    """

    log_index: int = 0
    sequence: int = 0
    time: int = 0
    term: int = 0
    digest: str = ""
    abi: str = ""


def progress_of(row: RowMapping) -> HistoryProgress:
    """Return the progress in the table's one row."""
    return HistoryProgress(**{name: row[name] for name in HistoryProgress.__struct_fields__})


class LogGap(msgspec.Struct, frozen=True):
    """Log entries, and the commands in them, that the node no longer had when they were needed."""

    first_index: int
    last_index: int
    first_sequence: int
    last_sequence: int
    reason: str


class HistoryStore:
    """The one writer of a database.

    Args:
        engine: its schema is prepared.

    Raises:
        HistoryError: it is the history of another node.
    """

    def __init__(self, engine: Engine, cluster_id: str, node_id: str) -> None:
        self._engine = engine
        with engine.begin() as connection:
            row = connection.execute(select(tables.progress)).mappings().first()
            if row is None:
                identity = {"id": 1, "cluster_id": cluster_id, "node_id": node_id}
                connection.execute(insert(tables.progress).values(**identity, **msgspec.structs.asdict(HistoryProgress())))
            else:
                check_owner(row["cluster_id"], row["node_id"], cluster_id, node_id)
        self.progress = HistoryProgress() if row is None else progress_of(row)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @property
    def database(self) -> Engine:
        """The database's connections."""
        return self._engine

    def confirm(self, progress: HistoryProgress, start: str) -> None:
        """Record that the stored history is of the log of the engine that was started as `start`. From now on the
        history may answer.
        """
        with self._engine.begin() as connection:
            self._advance(connection, progress)
            connection.execute(update(tables.progress).values(confirmed_by=start))
        self.progress = progress

    def known_orders(self, order_ids: Iterable[int]) -> dict[int, Row]:
        """Return the rows of these orders, as far as they exist."""
        found: dict[int, Row] = {}
        with self._engine.connect() as connection:
            for some in _chunks(sorted(order_ids)):
                for row in connection.execute(select(tables.orders).where(tables.orders.c.order_id.in_(some))).mappings():
                    found[row["order_id"]] = dict(row)
        return found

    def entries_under(self, sequence: int, home: Path) -> int:
        """Return the number of ledger entries under a sequence, in the database or in a file.

        Args:
            home: the history's directory, with its files.

        Raises:
            HistoryError: a file cannot be read.
        """
        wanted = RowRequest(lambda own: own.sequence == sequence, ("sequence", "position"), 1, sequence, sequence)
        with self._engine.connect() as connection:
            last = newest(connection, home, tables.ledger, wanted)
        return int(last[0]["position"]) + 1 if last else 0

    def write(self, rows: HistoryRows, progress: HistoryProgress) -> None:
        """Store rows that follow the present progress.

        Raises:
            HistoryError: another process has written in the meantime.
            sqlalchemy.exc.SQLAlchemyError: the database cannot be used; nothing of it was stored.
        """
        with self._engine.begin() as connection:
            self._advance(connection, progress)
            for table, found in (
                (tables.product_changes, rows.product_changes),
                (tables.status_changes, rows.status_changes),
                (tables.trades, rows.trades),
                (tables.ledger, rows.ledger),
                (tables.transfers, rows.transfers),
                (tables.operations, rows.operations),
            ):
                if found:
                    connection.execute(insert(table), found)
            put(connection, tables.currencies, rows.currencies)
            put(connection, tables.products, rows.products)
            put(connection, tables.orders, list(rows.orders.values()))
            for (product_id, granularity), candles in rows.candles().items():
                put_candles(connection, product_id, granularity, candles)
            add_volumes(connection, rows.volumes())
        self.progress = progress

    def skip(self, gap: LogGap, rows: HistoryRows, progress: HistoryProgress) -> None:
        """Continue from a state after a gap. `rows` are the currencies, products and orders of that state. Open orders
        that are not in it are done.
        """
        with self._engine.begin() as connection:
            self._advance(connection, progress)
            connection.execute(insert(tables.gaps).values(**msgspec.structs.asdict(gap)))
            lost = {"status": OrderStatus.DONE, "done_reason": DoneReason.NONE, "done_at": progress.time}
            connection.execute(update(tables.orders).where(tables.orders.c.status != OrderStatus.DONE).values(**lost))
            put(connection, tables.currencies, rows.currencies)
            put(connection, tables.products, rows.products)
            put(connection, tables.orders, list(rows.orders.values()), keep=("sequence",))
        self.progress = progress

    def open_orders(self) -> dict[int, Row]:
        """Return the rows of all orders that are not done."""
        with self._engine.connect() as connection:
            found = connection.execute(select(tables.orders).where(tables.orders.c.status != OrderStatus.DONE)).mappings()
            return {row["order_id"]: dict(row) for row in found}

    def _advance(self, connection: Connection, progress: HistoryProgress) -> None:
        """Advance the one row of progress from exactly the expected value."""
        expected = tables.progress.c.log_index == self.progress.log_index
        moved = connection.execute(update(tables.progress).where(expected).values(**msgspec.structs.asdict(progress)))
        if moved.rowcount != 1:
            raise HistoryError("another process writes this history: the database is not where this one left it")


def put(connection: Connection, table: Table, rows: Sequence[Row], keep: Sequence[str] = ()) -> None:
    """Insert rows or replace existing ones, except for the columns `keep`."""
    if not rows:
        return
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    keys = [column.name for column in table.primary_key]
    changes = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in (*keys, *keep)}
    put: Insert = statement.on_conflict_do_update(index_elements=keys, set_=changes)
    connection.execute(put, rows)


def put_candles(connection: Connection, product_id: str, granularity: int, candles: Sequence[Candle]) -> None:
    """Add candles to those of the same buckets."""
    stored = tables.candles.c
    first = (stored.product_id == product_id, stored.granularity == granularity, stored.start >= candles[0].start)
    found = {row["start"]: row for row in connection.execute(select(tables.candles).where(*first)).mappings()}
    merged = []
    for candle in candles:
        if candle.start in found:
            before = candle_of(found[candle.start])
            before.add(candle)
            candle = before
        merged.append({**msgspec.structs.asdict(candle), "product_id": product_id, "granularity": granularity})
    put(connection, tables.candles, merged)


def add_volumes(connection: Connection, volumes: Mapping[tuple[str, int, str], tuple[int, int]]) -> None:
    """Add traded volumes to those of the same hours."""
    own = tables.volumes.c
    found: dict[tuple[str, int, str], RowMapping] = {}
    for some in _chunks(sorted({account_id for account_id, _, _ in volumes})):
        hours = [start for _, start, _ in volumes]
        among = select(tables.volumes).where(own.account_id.in_(some), own.start >= min(hours), own.start <= max(hours))
        found.update(((row["account_id"], row["start"], row["product_id"]), row) for row in connection.execute(among).mappings())
    merged = []
    for key, (volume, value) in volumes.items():
        if key in found:
            volume, value = volume + found[key]["volume"], value + found[key]["value"]
        merged.append({**dict(zip(("account_id", "start", "product_id"), key, strict=True)), "volume": volume, "value": value})
    put(connection, tables.volumes, merged)


def candle_of(row: RowMapping) -> Candle:
    """Return the candle of a row."""
    return Candle(**{name: row[name] for name in Candle.__struct_fields__})


def _chunks(ids: Sequence[Id]) -> Iterator[Sequence[Id]]:
    for start in range(0, len(ids), LOOKUP_MAX):
        yield ids[start : start + LOOKUP_MAX]
