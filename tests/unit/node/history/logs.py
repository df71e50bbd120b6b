"""A node's log on disk without the node, and an engine that gives the expected results."""

from __future__ import annotations

import datetime
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from sqlalchemy import Engine as Database
from sqlalchemy import Table, select

from cluster.errors import MissingEntriesError
from cluster.log import DurableLog, read_segments
from cluster.messages import COMMAND, NO_OP
from cluster.ports import LogEntry
from cluster.storage import RealDisk
from node.config.file import load
from node.config.settings import HistoryConfig, NodeConfig
from node.deployment.setup import initialise
from node.history import tables
from node.history.database import connect
from node.history.keeper import Keeper
from node.history.process import open_keeper
from node.history.projection import Row
from node.migration import cutover
from node.migration.contents import LOG, SNAPSHOTS
from node.native.protocol import MemberStatus, NodeStatus
from snapshots.abi import ABI
from snapshots.job import JobState
from snapshots.manifest import SnapshotFields
from snapshots.store import SnapshotStore
from statemachine.applied import AppliedBatch
from statemachine.commands import AnyCommand, Batch, decode_batch, encode_batch
from statemachine.engine import Engine
from tests.property.worlds import busy_command, foundations

DEADLINE = 20.0
START = 1_767_225_600 * 10**9
"""2026-01-01, midnight UTC."""

MONEY = 100_000
"""What `foundations` gives each account of each currency."""

BEFORE = datetime.date(2026, 1, 3)
"""The first day that stays in the database when days move to files."""

KEYS = {
    "trades": ["product_id", "trade_id"],
    "ledger": ["sequence", "position"],
    "transfers": ["sequence", "account_id"],
    "orders": ["order_id"],
}
"""The columns that identify a row, by table."""

DUCKDB = """
import pickle, sys, duckdb
found = duckdb.sql(sys.argv[1])
rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
sys.stdout.buffer.write(pickle.dumps(rows))
"""
"""In a process of its own: DuckDB complains of leaks at the end of a long one."""


class NodeLog:
    """The log of a node that has applied everything in it."""

    def __init__(self, directory: Path, *, segment_bytes: int = 2_000, database: str = "") -> None:
        self.path = initialise(directory, 1, cluster_id="history")[0]
        self.config: NodeConfig = msgspec.structs.replace(load(self.path), history=HistoryConfig(True, database, log_bytes=0))
        self._segment_bytes = segment_bytes
        self.open()
        self.engine = Engine()
        self.time = START
        self.applied = 0
        self.term = 1

    def open(self) -> None:
        """Open the log, which may be empty."""
        disk = RealDisk(self.config.data_path / LOG, fsync=False, archive_to=self.config.data_path / cutover.ARCHIVE)
        self.log = DurableLog(disk, node_id="n1", abi=ABI, segment_bytes=self._segment_bytes)
        self.log.load()

    def add(self, commands: Sequence[AnyCommand], *, seconds: float = 1.0) -> AppliedBatch:
        """Append a batch, `seconds` after the previous one, and return what came of it."""
        self.time += round(seconds * 10**9)
        batch = Batch(self.time, list(commands))
        applied = self.engine.apply(batch)
        self._append(bytes([COMMAND]) + encode_batch(batch))
        return applied

    def add_noop(self) -> None:
        """Append an entry without commands."""
        self._append(bytes([NO_OP]))

    def _append(self, payload: bytes) -> None:
        self.applied += 1
        self.log.append(LogEntry(payload, self.applied, self.term))

    def keeper(self) -> Keeper:
        """Open the history."""
        return open_keeper(self.config)

    def follow(self, *, until: Callable[[], bool] | None = None) -> None:
        """Open the history, store everything, and close it; or write the state and continue until a condition holds."""
        keeper = self.keeper()
        self.drain(keeper)
        if until is not None:
            keeper.write_state()
            deadline = time.monotonic() + DEADLINE
            while not until():
                assert time.monotonic() < deadline, "the condition was not met in time"
                assert not keeper.advance(self.applied)
                time.sleep(0.005)
        keeper.close()

    def drain(self, keeper: Keeper) -> None:
        """Store every entry that is not in the history yet."""
        while self.advance(keeper):
            continue

    def advance(self, keeper: Keeper) -> bool:
        """Store a chunk, like a node that can ask no other for missing entries. Returns whether there was any."""
        try:
            return keeper.advance(self.applied)
        except MissingEntriesError as missing:
            keeper.skip(missing.index)
            return True

    def stored(self) -> dict[str, list[Row]]:
        """Return the contents of the database, by table and in the order of the keys."""
        database = connect(self.config, read_only=True)
        try:
            return {table.name: rows_of(database, table) for table in tables.metadata.sorted_tables}
        finally:
            database.dispose()


def rows_of(database: Database, table: Table) -> list[Row]:
    """Return a table's rows in the order of its key."""
    with database.connect() as connection:
        return [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]


def engine_status(applied: int, members: Sequence[MemberStatus] = ()) -> NodeStatus:
    """Return the status of an engine that has applied this much."""
    values: dict[type, object] = {str: "", int: 0, bool: True, float: 0.0}
    fields: dict[str, Any] = {
        name: values[{"str": str, "int": int, "bool": bool, "float": float}[kind]]
        for name, kind in NodeStatus.__annotations__.items()
        if kind in ("str", "int", "bool", "float")
    }
    return NodeStatus(**(fields | {"node_id": "own", "applied_index": applied, "members": list(members)}))


def busy(node: NodeLog, seed: int, commands: int, command: Callable[[Random, int], AnyCommand] = busy_command) -> None:
    """Append the trading of a busy market, in batches of a few commands."""
    random = Random(seed)
    node.add(foundations((1_000, 3_000), MONEY))
    sent = 0
    while sent < commands:
        count = random.randrange(1, 6)
        node.add([command(random, sent + place) for place in range(count)], seconds=random.choice([0, 0.3, 7, 80]))
        sent += count
        kind = random.random()
        if kind < 0.05:
            node.add_noop()
        elif kind < 0.1:
            node.add([], seconds=random.choice([0, 5]))


def snapshot_of(node: NodeLog) -> None:
    """Let the node have a snapshot of its state after its last entry."""
    store = SnapshotStore(node.config.data_path / SNAPSHOTS)
    fields = SnapshotFields(node.applied, 1, b"", node.engine.sequence, "0", node.time)
    job = store.begin(fields, {name: list(rows) for name, rows in node.engine.tables()})
    deadline = time.monotonic() + 20
    while job.poll() is JobState.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert job.poll() is JobState.DONE, job.reason


def check_coins(node: NodeLog) -> None:
    scales = {row.currency: row.scale for row in node.engine.currencies()}
    products = {row.product_id: (scales[row.base], scales[row.quote]) for row in node.engine.products()}
    stored = node.stored()
    database = connect(node.config, read_only=True)
    with database.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"select * from {name}_in_coins").mappings().all()
            for name in ("trades", "orders", "candles", "ledger", "transfers")
        }
    database.dispose()
    assert all(found.values())

    def coins(amount: int, scale: int) -> Decimal:
        return Decimal(amount).scaleb(-scale)

    for name, rows in found.items():
        assert len(rows) == len(stored[name])
    trades = {(row["product_id"], row["trade_id"]): row for row in stored["trades"]}
    for row in found["trades"]:
        was, (base, quote) = trades[row["product_id"], row["trade_id"]], products[row["product_id"]]
        assert Decimal(row["size"]) == coins(was["size"], base)
        for column in ("price", "notional", "maker_fee", "taker_fee"):
            assert Decimal(row[column]) == coins(was[column], quote)
    ledger = {(row["sequence"], row["position"]): row for row in stored["ledger"]}
    for row in found["ledger"]:
        was = ledger[row["sequence"], row["position"]]
        for column in ("amount", "balance"):
            assert Decimal(row[column]) == coins(was[column], scales[row["currency"]])
    assert any(Decimal(row["amount"]) < 0 for row in found["ledger"])
    orders = {row["order_id"]: row for row in stored["orders"]}
    for row in found["orders"]:
        was = orders[row["order_id"]]
        assert Decimal(row["executed_value"]) == coins(was["executed_value"], products[row["product_id"]][1])


def read(node: NodeLog, table: str) -> list[Row]:
    """Return what DuckDB reads of a table's files."""
    tree = node.config.history_path / "parquet" / table / "*" / "*.parquet"
    return asked(f"select * from read_parquet('{tree}', hive_partitioning = false)")


def whole(before: list[Row], key: list[str], node: NodeLog, table: str) -> None:
    """Check that every earlier row is either in the database or in a file."""
    rows = read(node, table) + node.stored()[table]
    assert sorted(rows, key=lambda row: [row[name] for name in key]) == before


def market(node: NodeLog, seed: int, entries: int, size: int, first: int = 0) -> None:
    """Append some batches of a busy market."""
    random = Random(seed)
    for number in range(entries):
        commands: list[AnyCommand] = [busy_command(random, first + number * size + place) for place in range(size)]
        node.add(commands, seconds=random.choice([0, 1, 50]))


def begun(directory: Path, *, database: str = "", node_id: str = "n1") -> NodeLog:
    node = NodeLog(directory, database=database)
    node.config = msgspec.structs.replace(node.config, node_id=node_id)
    node.add(foundations((1_000, 3_000), MONEY))
    market(node, 1, 12, 3)
    return node


def gone_back(node: NodeLog, last_index: int, *, noted: bool = True) -> None:
    """Cut the node's log after an entry, as a way back does. Later entries have a later term. `noted`: with the
    command's note.
    """
    kept = [entry for entry in entries_of(node) if entry.index <= last_index]
    term = node.term
    node.log.close()
    for directory in (LOG, cutover.ARCHIVE):
        shutil.rmtree(node.config.data_path / directory, ignore_errors=True)
    node.open()
    for entry in kept:
        node.log.append(entry)
    node.applied, node.term, node.engine = last_index, term + 1, Engine()
    for entry in kept:
        if entry.payload[1:]:
            batch = decode_batch(entry.payload[1:])
            node.engine.apply(batch)
            node.time = batch.time
    if noted:
        (node.config.data_path / cutover.REWINDS).write_bytes(msgspec.json.encode([cutover.Rewind(last_index, term)]))


def rows(node: NodeLog) -> dict[str, list[Row]]:
    stored = node.stored()
    del stored["progress"]
    return stored


def asked(question: str) -> list[Row]:
    """DuckDB's answer."""
    done = subprocess.run([sys.executable, "-c", DUCKDB, question], check=True, capture_output=True, timeout=60)
    rows: list[Row] = pickle.loads(done.stdout)  # of a process of our own
    return rows


def entries_of(node: NodeLog) -> list[LogEntry]:
    return list(read_segments(node.config.data_path / cutover.ARCHIVE, node.config.data_path / LOG, abis=[ABI]))
