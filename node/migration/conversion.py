"""Converts the data of a directory to another ABI, in a new directory, and checks the result. The source is only read,
so a rehearsal does the same.

It converts snapshot, log entries (committed or not), terms, indexes and votes, so the node continues in Raft without a
break. Every node converts its own data. The conversion depends on the bytes alone, so equal entries stay equal.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.log import command_of
from cluster.log_conversion import convert_entry, convert_log
from cluster.ports import LogEntry, SnapshotMark
from cluster.storage import RealDisk
from node.data_directory.marks import mark_of
from node.migration.contents import LOG, SNAPSHOTS, Found
from node.system import software
from snapshots.abi.releases import Releases
from snapshots.errors import MigrationError
from snapshots.job import JobState
from snapshots.levels.level import BROUGHT_TO
from snapshots.levels.states import empty
from snapshots.manifest import Manifest, SnapshotFields
from snapshots.migration.chain import Step
from snapshots.migration.report import MigrationReport
from snapshots.migration.run import COUNTED_EVERY, Counted, LogMigration, Rows, StateMigration, uncounted
from snapshots.naming import snapshot_path
from snapshots.store import SnapshotStore
from statemachine.engine import Engine
from statemachine.events import Rejected

POLL = 0.02
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """The converted data.

    Attributes:
        before, after: the rows of the newest snapshot, in the old and the new schema; empty without a snapshot.
        last_index, last_term: of the log's last entry, 0 without one.
        behind: the number of commands after the snapshot, and of those that this software rejects.
        state_hash: the hash over all tables after the whole log; nodes with equal logs have equal hashes.
        seconds: the duration.
        bytes_before, bytes_after: the size of snapshot and log.
    """

    report: MigrationReport
    before: Rows
    after: Rows
    snapshot_index: int
    last_index: int
    last_term: int
    behind: int
    rejected: int
    state_hash: bytes
    seconds: float
    bytes_before: int
    bytes_after: int


class Builder:
    """Converts one directory into another.

    Args:
        out: the new directory; it must not exist.
        steps: at least one.
        progress: called with the name of each stage, and with each line that an executable prints.
        counted: called with the steps done in a stage (rows, log entries), and all its steps.
    """

    def __init__(
        self,
        found: Found,
        out: Path,
        steps: list[Step],
        releases: Releases,
        node_id: str,
        progress: Progress,
        counted: Counted = uncounted,
    ) -> None:
        self._found = found
        self._out = out
        self._current = releases.schema(BROUGHT_TO.abi)
        self._from, self._to = steps[0].source.abi, steps[-1].target.abi
        self._node_id = node_id
        self._progress = progress
        self._counted = counted
        self._state = StateMigration(steps, progress, counted)
        self._log = LogMigration(steps, self._current)
        self._steps = steps
        self.engine: Engine | None = None
        """The state at the end of the log, after `build`, if the schema is that of a level."""

    def build(self) -> Built:
        """Convert and check the data, and sync it to the disk.

        Raises:
            MigrationError: a step or a check failed.
            SnapshotDamagedError, LogDamagedError: the source is damaged.
            OSError: the disk is full, or cannot be read or written.
        """
        started = time.monotonic()
        self._check_space()
        self._out.mkdir(mode=0o700)
        (self._out / SNAPSHOTS).mkdir(mode=0o700)
        before, after, index = self._snapshot()
        self._progress("converting the log")
        entries = self._convert_log()
        behind, rejected, state_hash = self._replay(entries, index)
        self._state.report.entries, self._state.report.commands = self._log.entries, self._log.commands
        return Built(
            self._state.report,
            before,
            after,
            index,
            entries[-1].index if entries else 0,
            entries[-1].term if entries else 0,
            behind,
            rejected,
            state_hash,
            time.monotonic() - started,
            _bytes(self._found.snapshot) + _bytes(self._found.data / LOG),
            _bytes(self._out),
        )

    def _check_space(self) -> None:
        """Check the disk space before anything is written. The new data is about as large as the old."""
        place = self._out.parent
        snapshot, log = _bytes(self._found.snapshot), _bytes(self._found.data / LOG)
        # On the same file system the snapshot is read through hard links, on another one from a copy.
        copy = snapshot if place.stat().st_dev != self._found.data.stat().st_dev else 0
        needed, free = snapshot + log + copy, shutil.disk_usage(place).free
        if free < needed:
            raise MigrationError(
                "the disk has room", str(place), f"expected {needed / 1e6:,.1f} MB free, found {free / 1e6:,.1f} MB"
            )

    def _snapshot(self) -> tuple[Rows, Rows, int]:
        """Convert the snapshot. Returns the rows before and after, and its log index."""
        if self._found.snapshot is None:
            return {}, {}, 0
        self._progress(f"reading the snapshot {self._found.snapshot.name}")
        manifest, before = self._read()
        after = self._state.run(before, self._current)
        self._progress("writing the snapshot")
        self._write(manifest, after)
        return before, after, manifest.index

    def _read(self) -> tuple[Manifest, Rows]:
        """Read the rows from a copy, because opening the database leaves files behind."""
        copy = self._out / "source"
        assert self._found.snapshot is not None
        link_tree(self._found.snapshot, copy / self._found.snapshot.name)
        store = SnapshotStore(copy, abi=self._from)
        manifest = store.newest()
        assert manifest is not None
        rows = store.load(manifest)
        shutil.rmtree(copy)
        return manifest, rows

    def _write(self, manifest: Manifest, rows: Rows) -> None:
        """Write the converted snapshot."""
        fields = SnapshotFields(
            index=manifest.index,
            term=manifest.term,
            mark=msgspec.msgpack.encode(self._mark(manifest)),
            sequence=manifest.sequence,
            software=software.version(),
            created_at=time.time_ns(),
        )
        job = SnapshotStore(self._out / SNAPSHOTS, abi=self._to).begin(fields, rows)
        while job.poll() is JobState.RUNNING:
            time.sleep(POLL)
        if job.poll() is not JobState.DONE:
            raise MigrationError("the snapshot is written", str(snapshot_path(self._out, manifest.index)), job.reason)

    def _mark(self, manifest: Manifest) -> SnapshotMark:
        """Convert the snapshot's position. It has the last two entries, because a follower may ask for them."""
        mark, convert = mark_of(manifest), LogMigration(self._steps, self._current).convert
        return msgspec.structs.replace(
            mark, last=convert_entry(mark.last, convert), previous=convert_entry(mark.previous, convert)
        )

    def _convert_log(self) -> list[LogEntry]:
        """Convert the log. Returns its entries."""
        target = RealDisk(self._out / LOG)
        if not (self._found.data / LOG).is_dir():
            return []
        return convert_log(
            RealDisk(self._found.data / LOG),
            target,
            node_id=self._node_id,
            from_abi=self._from,
            to_abi=self._to,
            convert=self._log.convert,
            counted=self._counted,
        )

    def _replay(self, entries: list[LogEntry], index: int) -> tuple[int, int, bytes]:
        """Apply the commands after the snapshot to an engine. Returns how many there are, how many it rejects, and the
        hash at the end.
        """
        if self._to != self._current.abi:
            return 0, 0, b""
        engine = self._state.engine if index else empty(BROUGHT_TO)
        assert engine is not None
        self.engine = engine
        commands = rejected = 0
        for number, entry in enumerate(entries):
            if number % COUNTED_EVERY == 0:
                self._counted(number, len(entries))
            payload = command_of(entry) if entry.index > index else None
            if payload is not None:
                outcomes = engine.apply_entry(payload).outcomes
                commands += len(outcomes)
                rejected += sum(isinstance(outcome, Rejected) for outcome in outcomes)
        try:
            engine.check()
        except AssertionError as error:
            raise MigrationError("the engine's check() passes after the log", "", str(error)) from error
        return commands, rejected, engine.full_hash()


def link_tree(source: Path, target: Path) -> None:
    """Copy a snapshot. Large files never change, so they become hard links where that is possible."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        with contextlib.suppress(OSError):
            if path.suffix == ".sst":
                os.link(path, target / path.name)
                continue
        shutil.copy2(path, target / path.name)


def _bytes(path: Path | None) -> int:
    if path is None or not path.is_dir():
        return 0
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
