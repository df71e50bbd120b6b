"""Replaces the old data by the migrated data, and back.

    DATA/migration.tmp/      being made; thrown away by the next start if that was interrupted
    DATA/migration.ready/    whole and checked: from here on the switch is finished, by the next start if this one is killed
    DATA/rollback.ready/     likewise, on the way back
    DATA/former/ABI/         the data as the version with that ABI left it, until `quorumbook migrate --finalize`

In between, `snapshots` and `log` may be of different ABIs for a moment: no version starts on that, and the next start
of this one finishes the switch.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from cluster import hardstate
from cluster.log import segment_abis
from cluster.log_conversion import raise_term
from cluster.storage import RealDisk
from node.errors import DataDirectoryError
from node.migration.found import LOG, SNAPSHOTS
from node.system import files
from snapshots import durable

DRAFT = "migration.tmp"
READY = "migration.ready"
BACK = "rollback.ready"
FORMER = "former"
RECORD = "migration.json"
REWINDS = "rewinds.json"
ARCHIVE = "archive"
"""Where log segments go that the log no longer needs; `node.engine.process` keeps them as long as there is a way back."""

_UNDONE = "undone"
_PARTS = (SNAPSHOTS, LOG)


class MigrationRecord(msgspec.Struct, frozen=True):
    """What is kept beside the former data: from which ABI to which, by which software and steps (a digest), where the
    log ended, and the state's hash there (hex)."""

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
    """A record as it lies on disk."""
    return msgspec.json.format(msgspec.json.encode(record)) + b"\n"


class Rewind(msgspec.Struct, frozen=True):
    """A way back that was gone: entries behind `last_index` with a term up to `term` were undone."""

    last_index: int
    term: int

    def undid(self, index: int, term: int) -> bool:
        """Whether an entry is one of those."""
        return index > self.last_index and term <= self.term


def rewinds(data: Path) -> list[Rewind]:
    """The ways back that were gone on this data, oldest first.

    Raises:
        DataDirectoryError: the file cannot be read.
    """
    path = data / REWINDS
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Rewind])
    except FileNotFoundError:
        return []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataDirectoryError(f"{path}: not a list of ways back: {error}") from error


def former(data: Path) -> list[MigrationRecord]:
    """The migrations that were not finalized yet, oldest first.

    Raises:
        DataDirectoryError: a record cannot be read.
    """
    records = []
    for path in (data / FORMER).glob(f"*/{RECORD}"):
        try:
            records.append(msgspec.json.decode(path.read_bytes(), type=MigrationRecord))
        except msgspec.DecodeError as error:
            raise DataDirectoryError(f"{path}: not the record of a migration: {error}") from error
    return sorted(records, key=lambda record: record.migrated_at)


def may_go_back(data: Path) -> bool:
    """Whether there is a migration that was not finalized yet."""
    return any((data / FORMER).glob(f"*/{RECORD}"))


def draft(data: Path) -> Path:
    """Where migrated data is made; what an interrupted migration left there is gone."""
    for name in (DRAFT, *(part + durable.TRASH for part in (READY, BACK, _UNDONE, FORMER, ARCHIVE))):
        durable.remove(data / name)
    return data / DRAFT


def commit(data: Path, record: MigrationRecord) -> None:
    """Make what lies in the draft the node's data; the former data is kept. Durable on return.

    Raises:
        OSError: it cannot be; `finish` goes on with it later if it had begun.
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
    """Finish a switch that was interrupted, in whichever direction; whether there was one."""
    if (data / READY).is_dir():
        record = msgspec.json.decode((data / READY / RECORD).read_bytes(), type=MigrationRecord)
        aside = data / FORMER / record.from_abi
        aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        _exchange(data, data / READY, aside)
        (aside / RECORD).write_bytes((data / READY / RECORD).read_bytes())
        durable.sync_path(aside / RECORD)
        durable.sync_path(aside)
        durable.discard(data / READY)
        return True
    if (data / BACK).is_dir():
        aside = data / _UNDONE
        aside.mkdir(mode=0o700, exist_ok=True)
        _exchange(data, data / BACK, aside)
        durable.discard(data / BACK)
        durable.discard(aside)
        return True
    return False


def _exchange(data: Path, ready: Path, aside: Path) -> None:
    """Each part of `ready` takes the place of the one in use, which goes aside. May be interrupted and begun again."""
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
    """Put the data from before a migration in its place again; what is there now goes, also from the archive. Durable
    on return.

    The node's term is raised beyond every term it has known: see `log_conversion.raise_term`. What was undone is noted,
    so that whatever read the log meanwhile (the history) notices that it went.
    """
    kept = data / FORMER / record.from_abi
    now = hardstate.load(RealDisk(data / LOG))
    raise_term(RealDisk(kept / LOG), now)
    files.replace(data / REWINDS, msgspec.json.encode([*rewinds(data), Rewind(record.last_index, now.term if now else 0)]))
    _drop_archived(data / ARCHIVE, record.to_abi)
    os.rename(kept, data / BACK)
    durable.sync_path(data / FORMER)
    durable.sync_path(data)
    finish(data)


def _drop_archived(archive: Path, abi: str) -> None:
    """Delete the archived segments of an ABI: after a way back their entries are in no log any more, and a second
    migration makes others.
    """
    for name, found in (segment_abis(archive) if archive.is_dir() else {}).items():
        if found == abi:
            (archive / name).unlink()


def finalize(data: Path, *, keep_archive: bool) -> int:
    """Delete all former data, and log segments that were only kept for the way back. How many migrations were made
    final.

    The node may run. Its archive directory stays, since it may be about to move a segment there.

    Raises:
        DataDirectoryError: a switch is under way.
    """
    if (data / READY).is_dir() or (data / BACK).is_dir():
        raise DataDirectoryError(f"{data}: a switch between former and migrated data is under way; start the node first")
    records = former(data)
    durable.discard(data / FORMER)
    if records and not keep_archive and (data / ARCHIVE).is_dir():
        for path in (data / ARCHIVE).iterdir():
            path.unlink()
    return len(records)
