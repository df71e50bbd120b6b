"""Why a node cannot start or go on, as a person must read it: what is wrong, where, and what to do; and the exit code that says which kind it is.

Damage is never a question of versions, and what is damaged is named with its path. A disk that is full is named, too.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import msgspec

from cluster.errors import LogAbiError, LogDamagedError
from node import exit_codes
from node.config.settings import NodeConfig
from snapshots.errors import MigrationError, SnapshotAbiError, SnapshotDamagedError, UnknownAbiError

DAMAGED = (
    "Nothing was changed. With the other nodes up, move the data directory away and start the node with --rejoin: it takes everything from "
    "them. An older copy of the directory must not take its place. See Failures in docs/operations.md"
)
NOT_MIGRATED = "the data in {} is sound and as it was: the version that wrote it can still start on it"
FULL = (errno.ENOSPC, errno.EDQUOT)


class Diagnosis(msgspec.Struct, frozen=True):
    """The exit code, and what to say, line by line."""

    code: int
    lines: tuple[str, ...]


def of_start(config: NodeConfig, error: BaseException) -> Diagnosis:
    """What a start that failed with `error` means."""
    data = config.data_path
    match error:
        case LogDamagedError():
            return _damaged(f"the log in {data / 'log'} is damaged: {error}")
        case SnapshotDamagedError():
            return _damaged(f"a snapshot is damaged: {error.place}: {error.what}")
        case MigrationError() | UnknownAbiError() | SnapshotAbiError() | LogAbiError():
            return Diagnosis(exit_codes.NOT_MIGRATED, (str(error), NOT_MIGRATED.format(data)))
        case OSError():
            return Diagnosis(exit_codes.CANNOT_START, (of_disk(data, error),))
    return Diagnosis(exit_codes.CANNOT_START, (str(error),))


def _damaged(what: str) -> Diagnosis:
    return Diagnosis(exit_codes.CANNOT_START, (what, DAMAGED))


def of_disk(data: Path, error: OSError) -> str:
    """An error of the disk, with the path and, where the disk is full, with what is full and how far."""
    if error.errno not in FULL:
        return str(error)
    place = Path(error.filename) if error.filename else data
    while not place.exists():
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
        room = f"the file system of {place} has {usage.free / 1e6:,.1f} MB of {usage.total / 1e6:,.1f} MB free"
    except OSError:
        room = f"the file system of {place}"
    return f"the disk is full: {error}; {room}. Free space, then start the node again: nothing that was acknowledged is lost"
