"""Why a node cannot start or must stop: the exit code, the message, and what the data directory keeps of it.

A diagnosis of a start names the fault, its place and the remedy. Damage is never reported as a problem of versions. The
message names the path of damaged data, and a full disk. The exit codes are those of `node.exit_codes`.
"""

from __future__ import annotations

import errno
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster.errors import DivergedError, LogAbiError, LogDamagedError, RemovedError
from node import exit_codes
from node.config.settings import NodeConfig
from node.data_directory import evidence, identity
from node.engine.introductions import MigratedOtherwiseError, StaleDataError
from node.errors import DataDirectoryError, cause
from snapshots.errors import LevelError, MigrationError, SnapshotAbiError, SnapshotDamagedError, UnknownAbiError

log = logging.getLogger(__name__)

DAMAGED = (
    "Nothing was changed. With the other nodes up, move the data directory away and start the node with --rejoin: it gets everything from "
    "them. An older copy of the directory must not take its place. See Failures in docs/operations.md"
)
NOT_MIGRATED = "the data in {} is intact and unchanged: the version that wrote it can still start on it"
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_PORT = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Diagnosis(msgspec.Struct, frozen=True):
    """The exit code and the lines of the message."""

    code: int
    lines: tuple[str, ...]


def diagnosis_of_start(config: NodeConfig, error: BaseException) -> Diagnosis:
    """Return the diagnosis of a start that failed with `error`."""
    data = config.data_path
    match error:
        case LogDamagedError():
            return _damaged(f"the log in {data / 'log'} is damaged: {error}")
        case SnapshotDamagedError():
            return _damaged(f"a snapshot is damaged: {error.place}: {error.what}")
        case MigrationError() | UnknownAbiError() | SnapshotAbiError() | LogAbiError():
            return Diagnosis(exit_codes.NOT_MIGRATED, (str(error), NOT_MIGRATED.format(data)))
        case OSError():
            return Diagnosis(exit_codes.CANNOT_START, (diagnosis_of_disk(data, error),))
    return Diagnosis(exit_codes.CANNOT_START, (str(error),))


def _damaged(what: str) -> Diagnosis:
    return Diagnosis(exit_codes.CANNOT_START, (what, DAMAGED))


def diagnosis_of_disk(data: Path, error: OSError) -> str:
    """Describe an error of the disk with its path and, for a full disk, with its name and usage."""
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


def cannot_start(config: NodeConfig, error: Exception) -> int:
    """Log why the node cannot start. Returns the exit code."""
    diagnosis = diagnosis_of_start(config, error)
    for line in diagnosis.lines:
        log.critical("%s cannot start: %s", config.node_id, line)
    return diagnosis.code


def must_stop(config: NodeConfig, error: Exception, progress: Callable[[], str]) -> int:
    """Log the exception that ended the node, and record it in the data directory where its kind requires that. Returns
    the exit code.

    Args:
        progress: describes how far the node had come.
    """
    if isinstance(error, OSError):
        return _of_disk_or_port(config, error)
    removed, stale_data = cause(error, RemovedError), cause(error, StaleDataError)
    if removed is not None:
        return _removed(config, removed)
    if stale_data is not None:
        return _stale(config, stale_data)
    too_old = cause(error, LevelError)
    if too_old is not None:
        log.critical("%s stops: %s", config.node_id, too_old)
        return exit_codes.TOO_OLD
    otherwise = cause(error, MigratedOtherwiseError)
    if otherwise is not None:
        log.critical("%s must stop: %s", config.node_id, otherwise)
        return exit_codes.CANNOT_START
    log.critical("%s must stop: %s (%s)", config.node_id, error, progress(), exc_info=error)
    _keep_evidence(config, error)
    return exit_codes.IN_DOUBT


def _stale(config: NodeConfig, error: StaleDataError) -> int:
    """Stop before this node acknowledges anything on an old copy, and prevent further starts on it."""
    log.critical(
        "the data directory %s is an old or a second copy, %s noticed: %s. %s",
        config.data_path,
        error.noticed_by,
        error.what,
        evidence.STALE_REMEDY,
    )
    try:
        evidence.keep_staleness(config.data_path, evidence.Staleness(config.node_id, error.noticed_by, error.what))
    except OSError as failure:
        log.critical("%s cannot record that (%s): do not start it on this data directory again", config.node_id, failure)
    return exit_codes.CANNOT_START


def _removed(config: NodeConfig, error: RemovedError) -> int:
    """Record the removal in the data directory, so that the node does not connect to the cluster again after a restart."""
    log.critical("%s", error)
    try:
        identity.mark_removed(config)
    except (OSError, DataDirectoryError) as failure:
        log.critical("%s cannot record that it was removed (%s): do not start it again", config.node_id, failure)
    return exit_codes.REMOVED


def _keep_evidence(config: NodeConfig, error: Exception) -> None:
    """Store the evidence of a divergence, so that the node does not start on its state again."""
    diverged = cause(error, DivergedError)
    if diverged is None:
        return
    try:
        path = evidence.keep_divergence(config.data_path, diverged, time.time())
        log.critical("%s will not start on this data directory again: %s", config.node_id, path)
    except OSError as failure:
        log.critical("%s cannot keep the evidence (%s): do not start it on this data directory again", config.node_id, failure)


def _of_disk_or_port(config: NodeConfig, error: OSError) -> int:
    """Handle an OSError: either the Raft port could not be opened and no message was sent, or the disk failed and its
    contents are uncertain.
    """
    if is_of_port(error):
        log.critical("%s cannot start: raft.listen %s: %s", config.node_id, config.raft.listen, error)
        return exit_codes.CANNOT_START
    text = diagnosis_of_disk(config.data_path, error)
    # For a full disk the traceback has no useful information.
    log.critical("%s must stop: %s", config.node_id, text, exc_info=None if error.errno in FULL else error)
    return exit_codes.IN_DOUBT


def is_of_port(error: OSError) -> bool:
    """Return whether an address could not be listened on: its name does not resolve, it is taken or not of this
    machine, or this user may not. An error of a file names the file, such as one that may no longer be written.
    """
    number = error.errno or 0
    return number < 0 or number in NO_PORT or (number == errno.EACCES and error.filename is None)  # below 0: of the resolver
