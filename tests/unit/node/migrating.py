"""Data directories as another version wrote them, for tests of migrations."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cluster import hardstate
from cluster.hardstate import HardState
from cluster.log import DurableLog
from cluster.messages import COMMAND, NO_OP
from cluster.ports import LogEntry, SnapshotMark
from cluster.storage import RealDisk
from node.config.settings import NodeConfig
from node.migration.contents import LOG, SNAPSHOTS, look
from node.migration.conversion import Builder
from snapshots.abi.schema import Schema
from snapshots.job import JobState
from snapshots.levels import states
from snapshots.levels.level import BROUGHT_TO, OWN, Level
from snapshots.manifest import SnapshotFields
from snapshots.store import SnapshotStore
from statemachine.commands import Batch
from statemachine.engine import Engine
from tests.unit.snapshots.states import encoded
from tests.unit.snapshots.versions import BACKWARD, FOUR, ONE, chains

STATE = HardState(term=7, voted_for="n2", commit_index=20)


class KilledError(BaseException):
    """The process ends here."""


def dying(original: Callable[..., Any], after: int) -> Callable[..., Any]:
    """Return a function that ends the process in place of its call number `after`."""
    calls = [0]

    def call(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == after:
            raise KilledError
        return original(*arguments, **named)

    return call


def entries_of(batches: list[Batch], level: Level = OWN) -> list[LogEntry]:
    """Return a log of a level: a no-op first, as a leader begins, and one in the middle; from index 1, terms 1 and 2."""
    payloads = [bytes([COMMAND]) + states.encoded(level.abi, batch.time, batch.commands) for batch in batches]
    half = len(payloads) // 2
    return [
        LogEntry(payload, index, 1 if index <= half + 1 else 2)
        for index, payload in enumerate([bytes([NO_OP]), *payloads[:half], bytes([NO_OP]), *payloads[half:]], 1)
    ]


def engine_at(entries: list[LogEntry], index: int, level: Level = OWN, *, migrated: bool = False) -> Engine:
    """Return the state after the entry at `index`; `migrated`: as from entries of a version before 0.2.0."""
    engine = states.empty(level)
    for entry in entries[:index]:
        if entry.payload[0] == COMMAND:
            payload = entry.payload[1:]
            engine.apply_entry(encoded(states.commands_of(level.abi, payload), migrated=True) if migrated else payload)
    return engine


def write_data(
    data: Path,
    entries: list[LogEntry],
    cut: int,
    *,
    log_from: int = 1,
    node_id: str = "n1",
    level: Level = OWN,
    migrated: bool = False,
) -> None:
    """Write a data directory of a level: a snapshot at index `cut` (none if 0), the log from `log_from` on, and a hard
    state.
    """
    log = DurableLog(RealDisk(data / LOG, fsync=False), node_id=node_id, abi=level.abi, segment_bytes=4000)
    for entry in entries[log_from - 1 :]:
        log.append(entry)
    log.close()
    hardstate.store(RealDisk(data / LOG, fsync=False), STATE)
    if cut:
        engine = engine_at(entries, cut, level, migrated=migrated)
        mark = msgspec.msgpack.encode(SnapshotMark(entries[cut - 1], entries[cut - 2]))
        fields = SnapshotFields(cut, entries[cut - 1].term, mark, engine.sequence, "0.0.1", time.time_ns())
        job = SnapshotStore(data / SNAPSHOTS, abi=level.abi).begin(fields, dict(engine.tables()))
        while job.poll() is JobState.RUNNING:
            time.sleep(0.005)
        assert job.poll() is JobState.DONE


def write_former(data: Path, entries: list[LogEntry], cut: int, directory: Path, **how: Any) -> None:
    """Write a data directory of version 1, like `write_data`; the entries are of 0.2.0."""
    write_data(data, entries, cut, level=BROUGHT_TO, migrated=True, **how)
    as_version(data, ONE, directory)


def as_version(data: Path, version: Schema, directory: Path) -> None:
    """Rewrite a data directory of 0.2.0 as an earlier version would have written it."""
    directory.mkdir(exist_ok=True)
    known = chains(directory / "released", BACKWARD)
    Builder(look(data), directory / "old", known.find(FOUR.abi, version.abi), known.releases, "n1", lambda _line: None).build()
    for part in (SNAPSHOTS, LOG):
        shutil.rmtree(data / part, ignore_errors=True)
        shutil.move(directory / "old" / part, data / part)
    shutil.rmtree(directory / "old")


def contents(data: Path) -> dict[str, bytes]:
    """Return every file with data in it, by its path."""
    return {
        str(path.relative_to(data)): path.read_bytes()
        for part in (SNAPSHOTS, LOG)
        for path in sorted((data / part).rglob("*"))
        if path.is_file() and path.name not in ("writer.lock", "LOCK")
    }


def loaded(config: NodeConfig) -> tuple[Engine, list[LogEntry], HardState | None]:
    """Return what this version loads: the state at the end of the log, the log, and the hard state."""
    disk = RealDisk(config.data_path / LOG, fsync=False)
    abi = look(config.data_path).abi
    assert abi is not None
    entries = DurableLog(disk, node_id=config.node_id, abi=abi).load()
    store = SnapshotStore(config.data_path / SNAPSHOTS, abi=abi)
    newest = store.newest()
    engine = states.empty(states.level_with(abi)) if newest is None else states.restored(abi, store.load(newest))
    for entry in entries:
        if entry.payload[0] == COMMAND and entry.index > (0 if newest is None else newest.index):
            engine.apply_entry(entry.payload[1:])
    return engine, entries, hardstate.load(disk)
