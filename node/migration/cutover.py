"""Replaces the old data by the migrated data, and back.

    DATA/migration.tmp/      a conversion in progress; the next start deletes it if it was interrupted
    DATA/migration.ready/    complete and checked data. If this start is killed, the next one finishes the switch
    DATA/rollback.ready/     the same for a rollback
    DATA/former/ABI/         the data of the version with that ABI, until `quorumbook migrate --finalize`

During the switch `snapshots` and `log` may be of different ABIs for a moment. No version starts on such data, and the
next start of this version finishes the switch.

`WayBack` is the rollback to the previous version, and the commands that it undoes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from cluster import hardstate
from cluster.errors import LogDamagedError
from cluster.log import command_of, read_segments, segment_abis, segment_name
from cluster.log_conversion import raise_term
from cluster.storage import RealDisk
from node.errors import DataDirectoryError
from node.migration.contents import LOG, SNAPSHOTS, look
from node.records.txlog import TxEntry, Txlog
from node.system import files
from snapshots import durable
from snapshots.levels.level import ACCEPTED, is_level_entry
from snapshots.levels.states import commands_of, is_migrated, level_with

DRAFT = "migration.tmp"
READY = "migration.ready"
BACK = "rollback.ready"
FORMER = "former"
RECORD = "migration.json"
REWINDS = "rewinds.json"
ARCHIVE = "archive"
"""The directory of log segments that the log no longer needs. `node.engine.process` keeps them while a rollback is
possible.
"""

_UNDONE = "undone"
_REWIND = "rewind.json"
"""The `Rewind` of a rollback, beside the data that it puts back."""

_PARTS = (SNAPSHOTS, LOG)
_Kept = TypeVar("_Kept")


class MigrationRecord(msgspec.Struct, frozen=True):
    """The record beside the former data: both ABIs, the software and the digest of the steps, the end of the log, and
    the state's hash there (hex).
    """

    from_abi: str
    to_abi: str
    software: str
    migrated_at: int
    snapshot_index: int
    last_index: int
    last_term: int = 0
    state_hash: str = ""
    steps: str = ""


def encoded(record: MigrationRecord) -> bytes:
    """Return a record as bytes for the disk."""
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


class Rewind(msgspec.Struct, frozen=True):
    """A rollback that was made: it undid the entries after `last_index` with a term up to `term`."""

    last_index: int
    term: int

    def undid(self, index: int, term: int) -> bool:
        """Return whether the rollback undid an entry."""
        return index > self.last_index and term <= self.term


def rewinds(data: Path) -> list[Rewind]:
    """Return the rollbacks that were made on this data, oldest first.

    Raises:
        DataDirectoryError: the file cannot be read.
    """
    path = data / REWINDS
    return _decoded(path, list[Rewind], "a list of rollbacks") if path.exists() else []


def _decoded(path: Path, kind: type[_Kept], what: str) -> _Kept:
    """Return the contents of a file. Raises DataDirectoryError if it is something else, and OSError if it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataDirectoryError(
            f"{path}: not {what}: {error}. With the other nodes up, move the data directory away and start the node with --rejoin"
        ) from error


def _record_in(directory: Path) -> MigrationRecord:
    return _decoded(directory / RECORD, MigrationRecord, "the record of a migration")


def former(data: Path) -> list[MigrationRecord]:
    """Return the migrations that are not final yet, oldest first.

    Raises:
        DataDirectoryError: a record cannot be read.
    """
    records = [_record_in(path.parent) for path in (data / FORMER).glob(f"*/{RECORD}")]
    return sorted(records, key=lambda record: record.migrated_at)


def may_go_back(data: Path) -> bool:
    """Return whether there is a migration that was not finalized yet."""
    return any((data / FORMER).glob(f"*/{RECORD}"))


def draft(data: Path) -> Path:
    """Return the directory for migrated data, without what an interrupted migration left in it."""
    for name in (DRAFT, *(part + durable.TRASH for part in (READY, BACK, _UNDONE, FORMER, ARCHIVE))):
        durable.remove(data / name)
    return data / DRAFT


def commit(data: Path, record: MigrationRecord) -> None:
    """Make the data in the draft the node's data, and keep the former data. Durable on return.

    Raises:
        OSError: it cannot be done. If it had begun, `finish` completes it later.
    """
    made = data / DRAFT
    files.write_new(made / RECORD, encoded(record))
    for part in _PARTS:
        (made / part).mkdir(exist_ok=True)
        durable.sync_path(made / part)
    durable.sync_path(made)
    os.rename(made, data / READY)
    durable.sync_path(data)
    finish(data)


def finish(data: Path) -> bool:
    """Finish an interrupted switch or rollback. Returns whether there was one.

    Raises:
        DataDirectoryError: a record of it is damaged.
        OSError: files cannot be read or written.
    """
    if (data / READY).is_dir():
        record = _record_in(data / READY)
        aside = data / FORMER / record.from_abi
        aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        _exchange(data, data / READY, aside)
        (aside / RECORD).write_bytes((data / READY / RECORD).read_bytes())
        durable.sync_path(aside / RECORD)
        durable.sync_path(aside)
        durable.discard(data / READY)
        return True
    if (data / BACK).is_dir():
        _finish_back(data)
        return True
    durable.discard(data / _UNDONE)
    return False


def _exchange(data: Path, ready: Path, aside: Path) -> None:
    """Replace each part in use by the one in `ready`, and move the old part aside. Safe to repeat after an interruption."""
    for part in _PARTS:
        if not (ready / part).exists():
            continue
        if not (aside / part).exists():
            (data / part).mkdir(mode=0o700, exist_ok=True)
            os.rename(data / part, aside / part)
            durable.sync_path(aside)
        os.rename(ready / part, data / part)
        durable.sync_path(ready)
        durable.sync_path(data)
    durable.sync_path(aside.parent)


def go_back(data: Path, record: MigrationRecord) -> None:
    """Put the data from before a migration back, and delete the present data, also from the archive. Durable on return.

    The node's term is raised beyond every term that it has known: see `log_conversion.raise_term`. The rollback is
    recorded, so that a reader of the log (the history) notices that entries were undone. After a kill either nothing
    has changed, or `finish` completes all of it.
    """
    kept = data / FORMER / record.from_abi
    now = hardstate.load(RealDisk(data / LOG))
    raise_term(RealDisk(kept / LOG), now)
    files.replace(kept / _REWIND, msgspec.json.encode(Rewind(record.last_index, now.term if now else 0)))
    os.rename(kept, data / BACK)
    durable.sync_path(data / FORMER)
    durable.sync_path(data)
    finish(data)


def _finish_back(data: Path) -> None:
    """Complete a rollback. Safe to repeat after an interruption."""
    back, aside = data / BACK, data / _UNDONE
    if (back / _REWIND).exists():  # version 0.2.0 wrote none
        rewind = _decoded(back / _REWIND, Rewind, "the record of a rollback")
        if rewind not in (known := rewinds(data)):
            files.replace(data / REWINDS, msgspec.json.encode([*known, rewind]))
    if (back / LOG).is_dir():
        record = _record_in(back)
        _drop_archived(data / ARCHIVE, back / LOG, record)
    aside.mkdir(mode=0o700, exist_ok=True)
    _exchange(data, back, aside)
    durable.discard(aside)  # first: what lies there would be in the way of the next rollback
    durable.discard(back)


def _drop_archived(archive: Path, log: Path, record: MigrationRecord) -> None:
    """Delete the archived segments that the rollback undoes, and those whose entries the restored log has: a reader of
    both would meet these entries twice, and after them the entry that changed the level.
    """
    first = min(segment_abis(log), default=segment_name(record.last_index + 1))
    for name in segment_abis(archive) if archive.is_dir() else ():
        if name >= first:
            (archive / name).unlink()


def finalize(data: Path, *, keep_archive: bool) -> int:
    """Delete all former data, and log segments that were kept only for a rollback. Returns how many migrations were
    made final.

    The node may run. Its archive directory stays, because the node may be about to move a segment there.

    Raises:
        DataDirectoryError: a switch is unfinished.
    """
    if (data / READY).is_dir() or (data / BACK).is_dir():
        raise DataDirectoryError(f"{data}: a switch between former and migrated data is under way; start the node first")
    records = former(data)
    durable.discard(data / FORMER)
    if records and not keep_archive and (data / ARCHIVE).is_dir():
        for path in (data / ARCHIVE).iterdir():
            path.unlink()
    return len(records)


@dataclass(frozen=True)
class WayBack:
    """The data to which a node can roll back, and the entries applied since."""

    data: Path
    record: MigrationRecord

    def txlog(self) -> Txlog:
        """Return all of `since` as a transaction log. Raises as `since` does."""
        return Txlog(self.record.last_index + 1, iter(list(self.since())), level=level_with(self.record.to_abi))

    def since(self) -> Iterator[TxEntry]:
        """Return the entries with commands that were written since the migration, in order.

        The last ones may not have been committed.

        Raises:
            DataDirectoryError: entries are missing, because the node installed a snapshot, or the log is damaged.
        """
        expected = 0
        try:
            for entry in read_segments(self.data / ARCHIVE, self.data / LOG, abis=ACCEPTED):
                if entry.index <= self.record.last_index:
                    continue
                if expected and entry.index != expected:
                    raise self._gap(expected, entry.index - 1)
                if not expected and entry.index > self.record.last_index + 1:
                    raise self._gap(self.record.last_index + 1, entry.index - 1)
                expected = entry.index + 1
                payload = command_of(entry)
                if payload is not None and not is_level_entry(payload) and not is_migrated(payload):
                    yield TxEntry(entry.index, entry.term, commands_of(self.record.to_abi, payload))
        except LogDamagedError as error:
            raise DataDirectoryError(str(error)) from error
        found = look(self.data)
        if found.manifest is not None and found.manifest.index >= max(expected, self.record.last_index + 1):
            raise self._gap(max(expected, self.record.last_index + 1), found.manifest.index)

    def _gap(self, first: int, last: int) -> DataDirectoryError:
        return DataDirectoryError(
            f"{self.data}: log entries {first} to {last}, applied since the migration, are not on this node (it took a snapshot from another "
            "one). Export on a node that has them, and roll back here with --without-export"
        )


def way_back(data: Path) -> WayBack:
    """Return the way back from the latest migration.

    Raises:
        DataDirectoryError: no migration can be undone.
    """
    finish(data)
    found = look(data)
    if found.abi is not None and found.abi not in ACCEPTED and may_go_back(data):
        raise DataDirectoryError(
            f"{data}: the data has ABI {found.abi}, at whose level this software cannot run: roll back with the version that made the migration"
        )
    records = [record for record in former(data) if record.to_abi == found.abi]
    if not records:
        raise DataDirectoryError(f"{data}: there is no migration that could be undone: none was made, or it was finalized")
    return WayBack(data, records[-1])


def ways_back(directories: Sequence[Path]) -> dict[Path, WayBack]:
    """Return the ways back of several nodes. After an interrupted rollback, nodes that are already back are left out.

    Raises:
        DataDirectoryError: one of the others has no migration that can be undone.
    """
    ways: dict[Path, WayBack] = {}
    faults: dict[Path, DataDirectoryError] = {}
    for data in directories:
        try:
            ways[data] = way_back(data)
        except DataDirectoryError as error:
            faults[data] = error
    back_at = {way.record.from_abi for way in ways.values()}
    for data, fault in faults.items():
        if look(data).abi not in back_at:
            raise fault
    return ways
