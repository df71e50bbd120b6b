"""Cuts a history back to an earlier position in its log, for a rollback, or sets it aside.

Rows that are only ever added are deleted by the sequence of their command, and by their time: what time alone caused
has the sequence of the command before it. Rows that change in place are made again: orders that were open at that place
come from the exchange's state there, and the last candles and hourly volumes come from the remaining trades. Days in
Parquet files that end after that place return to the database.

A rollback cuts the history before the node's data goes back, because the earlier version's software cannot do that. It
also returns the database to the schema that the earlier version knows. If this version is started again instead, it
brings the schema up to date and continues from the log, so nothing is lost."""

from __future__ import annotations

import datetime
import logging
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
from alembic import command
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, delete, insert, inspect, select, text, update
from sqlalchemy import Engine as Database

from cluster.log import command_of, read_segments
from node.config.settings import NodeConfig
from node.history import tables
from node.history.candles import HOUR, MINUTE, bucket
from node.history.database import alembic_config, connect, database_url, head, is_made, schema_name
from node.history.partitions import DIRECTORY, alone, up_to
from node.history.place import FETCHED
from node.history.projection import HistoryRows, order_row
from node.history.store import HistoryProgress, HistoryStore, add_volumes, put, put_candles
from node.migration import cutover
from node.migration.contents import LOG, SNAPSHOTS, Found, look
from node.migration.conversion import Builder
from node.migration.start import chains
from snapshots import durable
from snapshots.abi.releases import Releases
from snapshots.errors import MigrationError
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, is_level_entry
from snapshots.store import SnapshotStore
from statemachine.engine import Engine
from statemachine.events import OrderState
from statemachine.limits import SECOND_NS
from statemachine.tables import CounterRow

ADDED = (tables.trades, tables.ledger, tables.transfers, tables.product_changes, tables.status_changes, tables.operations)
"""Tables whose rows never change. Each row has the sequence of its command."""

PARQUET = {table.name: table for table in (tables.trades, tables.ledger, tables.transfers, tables.orders)}


def cut(database: Database, home: Path, state: Engine, progress: HistoryProgress) -> None:
    """Cut the history so that it ends at `progress`, in one transaction.

    Args:
        home: the history's directory, with its files.
        state: the exchange after the log entry of `progress`.

    Raises:
        HistoryError: another process moves old days to files at this moment.
        sqlalchemy.exc.SQLAlchemyError, OSError: the database or a file cannot be used; nothing was changed.
    """
    with alone(home):
        with database.begin() as connection:
            removed_files = _restore_days(connection, home, progress)
            for table in ADDED:
                later = (table.c.sequence > progress.sequence) | (table.c.time > progress.time)
                connection.execute(delete(table).where(later))
            connection.execute(delete(tables.orders).where(tables.orders.c.sequence > progress.sequence))
            connection.execute(delete(tables.gaps).where(tables.gaps.c.last_index > progress.log_index))
            _from_state(connection, state)
            _last_figures(connection, progress.time // SECOND_NS)
            moved = {**msgspec.structs.asdict(progress), "confirmed_by": ""}
            connection.execute(update(tables.progress).values(**moved))
        for file in removed_files:
            (home / file).unlink(missing_ok=True)


def _restore_days(connection: Connection, home: Path, progress: HistoryProgress) -> list[str]:
    """Return the remaining rows of days in files that end after `progress` to the database. Returns the files, which
    are no longer needed.
    """
    day = str(datetime.datetime.fromtimestamp(progress.time // SECOND_NS, datetime.UTC).date())
    own = tables.partitions.c
    files = []
    for note in connection.execute(select(tables.partitions).where(own.day >= day)).mappings().all():
        table = PARQUET[note["table_name"]]
        rows: list[dict[str, Any]] = [dict(row) for row in up_to(home, dict(note), table, progress.sequence, progress.time)]
        if rows:
            connection.execute(insert(table), rows)
        files.append(note["file"])
    connection.execute(delete(tables.partitions).where(own.day >= day))
    return files


def _from_state(connection: Connection, state: Engine) -> None:
    """Restore currencies, products and open orders from the state. Orders that were done by then have not changed
    since.
    """
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
    """Make the unfinished candles and volumes of the minute and the hour at `seconds` again from the remaining trades,
    and delete later ones.
    """
    hour, minute = bucket(seconds, HOUR), bucket(seconds, MINUTE)
    candles, volumes, trades = tables.candles.c, tables.volumes.c, tables.trades
    for granularity, start in ((MINUTE, minute), (HOUR, hour)):
        connection.execute(delete(tables.candles).where(candles.granularity == granularity, candles.start >= start))
    connection.execute(delete(tables.volumes).where(volumes.start >= hour))
    rows = HistoryRows()
    of_hour = select(trades).where(trades.c.time >= hour * SECOND_NS).order_by(trades.c.product_id, trades.c.trade_id)
    rows.trades = [dict(row) for row in connection.execute(of_hour).mappings()]
    for (product_id, granularity), found in rows.candles().items():
        under_way = [candle for candle in found if granularity == HOUR or candle.start >= minute]
        if under_way:
            put_candles(connection, product_id, granularity, under_way)
    add_volumes(connection, rows.volumes())


def set_aside(config: NodeConfig, mark: str) -> str:
    """Rename a history's database and files, so that a new history can begin. Returns the new name, for a person.

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
        with database.begin() as connection:
            taken = inspect(connection).get_schema_names()
            aside_name = _free_schema(f"{name}_{mark.replace('-', '_')}", taken)
            connection.execute(text(f'ALTER SCHEMA "{name}" RENAME TO "{aside_name}"'))
        return f"schema {aside_name}"
    finally:
        database.dispose()


SCHEMA_NAME_MAX = 63
"""Characters of a name in PostgreSQL."""


def _free_schema(wanted: str, taken: Collection[str]) -> str:
    """Return the name, with a number where it already exists."""
    number, found = 1, wanted[:SCHEMA_NAME_MAX]
    while found in taken:
        number += 1
        found = f"{wanted[: SCHEMA_NAME_MAX - len(str(number)) - 1]}_{number}"
    return found


def _free(path: Path) -> Path:
    """Return the path, with a number where it already exists."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


KNOWN = {
    "0.1.0": ("0001", "fb85a1c11d8eaf339f8ceae43976c7893cfe26105e4d404c54e8a5cdc8e9c109"),
    "0.2.0": ("0002", "0c057a71f339f13461cedd0559bfa43f602bc742d8361fb4bcfdc8eace5d7546"),
}
"""Schema revision and checksum of earlier versions. Versions that are not listed know the present schema."""


def go_back(config: NodeConfig, record: cutover.MigrationRecord) -> str:
    """Return the node's history to a state from which the previous version can continue. Returns what was done, for a
    person; "" if there is no history.

    Raises:
        HistoryError: the database is not this node's, or another process uses it.
        MigrationError: the state at the end of the former log cannot be made.
        sqlalchemy.exc.SQLAlchemyError, OSError: the database cannot be used; nothing was changed.
    """
    database = connect(config)
    try:
        if not is_made(database):
            return ""
        done = []
        with database.connect() as connection:
            revision = MigrationContext.configure(connection).get_current_revision()
        if revision == head():  # a database of an older revision has had no writes since the migration
            store = HistoryStore(database, config.cluster_id, config.node_id)
            excess = store.progress.log_index - record.last_index
            if excess > 0:
                state = _state_before(config, record)
                progress = HistoryProgress(record.last_index, state.sequence, state.time)
                cut(database, config.history_path, state, progress)
                done.append(f"cut back by {excess:,} log entries to sequence {state.sequence:,}")
        wanted, checksum = KNOWN.get(Releases().versions.get(record.from_abi, ""), (head(), ""))
        if revision is not None and wanted < revision:
            with database.begin() as connection:
                command.downgrade(alembic_config(connection), wanted)
                connection.execute(tables.checksum.update().values(checksum=checksum))
            done.append(f"schema {revision} is {wanted} again")
        for name in ("state", FETCHED):
            durable.remove(config.history_path / name)
        return "; ".join(done) or "nothing to undo"
    finally:
        database.dispose()


def _state_before(config: NodeConfig, record: cutover.MigrationRecord) -> Engine:
    """Return the exchange's state at the end of the former log: as its own level has it, or as the migration made it."""
    known = chains(config)
    found = look(config.data_path / cutover.FORMER / record.from_abi)
    if found.abi is None:
        return states.empty(states.level_with(record.to_abi))
    if found.abi in ACCEPTED:
        return _at_the_end(found)
    steps = known.find(found.abi, record.to_abi)
    with tempfile.TemporaryDirectory(prefix="quorumbook-rollback-") as name:
        builder = Builder(found, Path(name) / "data", steps, known.releases, config.node_id, logging.getLogger(__name__).debug)
        builder.build()
    if builder.engine is None:
        raise MigrationError("the state before is made", str(found.data), f"it is not of ABI {record.to_abi}")
    return builder.engine


def _at_the_end(found: Found) -> Engine:
    """Return the state at the end of a log of one level."""
    assert found.abi is not None
    engine, index = states.empty(states.level_with(found.abi)), 0
    if found.manifest is not None:
        store = SnapshotStore(found.data / SNAPSHOTS, accepts=ACCEPTED)
        engine, index = states.restored(found.abi, store.load(found.manifest), verified=True), found.manifest.index
    for entry in read_segments(found.data / LOG, abis=[found.abi]):
        payload = command_of(entry) if entry.index > index else None
        if payload is not None and not is_level_entry(payload):
            engine.apply_entry(payload)
    return engine
