"""A node's log on disk without the node, and an engine that gives the expected results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine as Database
from sqlalchemy import Table, select

from cluster.errors import MissingEntriesError
from cluster.log import DurableLog
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
from node.migration.contents import LOG
from node.native.protocol import MemberStatus, NodeStatus
from snapshots.abi import ABI
from statemachine.commands import AnyCommand, Batch, encode_batch
from statemachine.engine import Engine

DEADLINE = 20.0
START = 1_767_225_600 * 10**9
"""2026-01-01, midnight UTC."""


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

    def add(self, commands: Sequence[AnyCommand], *, seconds: float = 1.0) -> None:
        """Append a batch, `seconds` after the previous one."""
        self.time += round(seconds * 10**9)
        batch = Batch(self.time, list(commands))
        self.engine.apply(batch)
        self._append(bytes([COMMAND]) + encode_batch(batch))

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
                assert time.monotonic() < deadline, "the condition did not come true in time"
                assert not keeper.advance(self.applied)
                time.sleep(0.005)
        keeper.close()

    def drain(self, keeper: Keeper) -> None:
        """Store everything."""
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
