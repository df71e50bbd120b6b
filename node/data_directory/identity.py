"""The identity of a data directory: one small file, written when the directory is made and checked at every start.

A node that lost its disk has forgotten what it acknowledged and how it voted. If it started on an empty directory as if
nothing had happened, it could vote a second time in the same term, or help to elect a leader without the entries that
it acknowledged. That would break a promise to a client. So a normal start never creates a data directory. `quorumbook
init` does, and so does `quorumbook node start --rejoin`, after which the node does not vote until it has caught up.
"""

from __future__ import annotations

import os
import secrets
from enum import StrEnum
from pathlib import Path

import msgspec

from node.config.settings import NODE_COUNTS, NodeConfig
from node.data_directory import evidence
from node.errors import DataDirectoryError
from node.system import files
from snapshots.durable import sync_path

FILE = "identity.json"
FORMAT = 1

REJOIN_ADVICE = (
    "If the node's disk was lost or replaced, start it with: quorumbook node start --rejoin. It then comes back without a vote until it has "
    "caught up, because it has forgotten what it acknowledged and whom it voted for"
)

REMOVED_ADVICE = (
    "It does not start again: an id is used once. To have the machine back, add it under another id, on a new directory: quorumbook cluster "
    "add. This one may be deleted once nobody needs it for an audit"
)

RESTORE_ADVICE = "Some of its nodes would begin with the state of the snapshot, and others with nothing. Repeat it: quorumbook snapshot restore"

_HARMLESS = frozenset({"node.pid", "engine.pid", "engine.sock", "lost+found", FILE + ".new"})
"""Files that may be in a data directory in which nothing was stored."""


class Stage(StrEnum):
    """The stage of a data directory's life."""

    NEW = "new"
    """Made by `quorumbook init`; the node has never run on it."""
    RESTORING = "restoring"
    """A new cluster is given the state of a snapshot, and not every node has it yet."""
    REJOIN = "rejoin"
    """Made after the disk was lost. The log does not say yet that the node must not vote."""
    STARTED = "started"
    """The node has run on it. From now on term, vote and log must exist."""
    REMOVED = "removed"
    """The cluster has removed the node, which must not start on it again."""


class DirectoryIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of `identity.json`.

    `incarnation` is random: a disk that was lost and made again has another one. `joined`: the node joins a running
    cluster. It is not a voter until its log says so, whatever its configuration lists.
    """

    cluster_id: str
    node_id: str
    incarnation: str
    format: int = FORMAT
    stage: Stage = Stage.NEW
    joined: bool = False


def read(config: NodeConfig, *, restoring: bool = False) -> DirectoryIdentity:
    """Return the identity of the configuration's data directory. `restoring`: a restore that has not ended is not an
    error.

    Raises:
        DataDirectoryError: it is missing, unreadable, or that of another node or cluster, or of a node that was
            removed, or there is evidence against a start (`evidence.py`); or a new cluster would begin with an even number of
            nodes, or with the state of a snapshot on some of them.
    """
    evidence.refuse_start(config.data_path)
    path = config.data_path / FILE
    identity = _stored(path)
    if identity is None:
        if not config.data_path.exists():
            problem = "does not exist"
        else:
            problem = f"has no {FILE}" if _contents(config.data_path) else "is empty"
        raise DataDirectoryError(
            f"data directory {config.data_path} {problem}. If its disk is not mounted, mount it. {REJOIN_ADVICE}"
        )
    for name, found, wanted in (
        ("cluster", identity.cluster_id, config.cluster_id),
        ("node", identity.node_id, config.node_id),
    ):
        if found != wanted:
            raise DataDirectoryError(
                f"{path}: this is the data directory of {name} {found!r}, and the configuration is for {name} {wanted!r}. "
                "Set data_dir to the directory of this node; nothing was changed"
            )
    if identity.stage is Stage.RESTORING and not restoring:
        raise DataDirectoryError(f"{path}: a restore of a snapshot into this cluster did not end. {RESTORE_ADVICE}")
    _check_stage(config, path, identity)
    return identity


def _check_stage(config: NodeConfig, path: Path, identity: DirectoryIdentity) -> None:
    """Check that a node of this identity may start. Raises DataDirectoryError."""
    if identity.stage is Stage.REMOVED:
        raise DataDirectoryError(f"{path}: node {identity.node_id} was removed from the cluster. {REMOVED_ADVICE}")
    if identity.stage is Stage.NEW and not identity.joined and len(config.nodes) not in NODE_COUNTS:
        raise DataDirectoryError(
            f"nodes: expected 1, 3 or 5 of [[nodes]] in a new cluster, not {len(config.nodes)}: an even number survives no more failures "
            "than one node fewer"
        )


def check_usable(config: NodeConfig) -> None:
    """Check what a start needs of the data directory: its identity, and that it can be written.

    Raises:
        DataDirectoryError: as `read`, or it cannot be written.
    """
    read(config)
    if not os.access(config.data_path, os.W_OK):
        raise DataDirectoryError(
            f"data directory {config.data_path} cannot be written: it is another user's, or its file system is read-only"
        )


def format_data(config: NodeConfig, rejoin: bool = False, *, joined: bool = False) -> DirectoryIdentity:
    """Make the data directory; it is durable on return.

    With `rejoin` (the disk was lost) the directory may exist already. Its identity stays, and the node starts without a
    vote. `joined`: see `DirectoryIdentity`.

    Raises:
        DataDirectoryError: there is something in it that must not be overwritten, or it cannot be written.
    """
    path = config.data_path
    if rejoin and (path / FILE).exists():
        identity = msgspec.structs.replace(read(config), stage=Stage.REJOIN)
    elif contents := _contents(path):
        raise DataDirectoryError(
            f"data directory {path} has no {FILE} but holds {', '.join(contents[:5])}. Move it away, or set data_dir to another directory"
        )
    else:
        stage = Stage.REJOIN if rejoin else Stage.NEW
        identity = DirectoryIdentity(config.cluster_id, config.node_id, secrets.token_hex(16), stage=stage, joined=joined)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _store(path, identity)
        sync_path(path.parent)
    except OSError as error:
        raise DataDirectoryError(f"data directory {path} cannot be written: {error.strerror}") from error
    return identity


def mark_started(config: NodeConfig, identity: DirectoryIdentity) -> DirectoryIdentity:
    """Record, durably, that term, vote and log of this node exist, and that the log has its recovering state. Call it
    when they do.
    """
    if identity.stage is Stage.STARTED:
        return identity
    started = msgspec.structs.replace(identity, stage=Stage.STARTED)
    _store(config.data_path, started)
    return started


def mark_restoring(config: NodeConfig, *, ended: bool = False) -> None:
    """Record, durably, that a snapshot is being restored into the new cluster of this node, or that this has ended.

    Raises:
        OSError: it could not be written.
        DataDirectoryError: the identity cannot be read.
    """
    identity = read(config, restoring=True)
    _store(config.data_path, msgspec.structs.replace(identity, stage=Stage.NEW if ended else Stage.RESTORING))


def mark_removed(config: NodeConfig) -> None:
    """Record, durably, that the cluster has removed this node.

    Raises:
        OSError: it could not be written.
        DataDirectoryError: the identity cannot be read.
    """
    identity = _stored(config.data_path / FILE)
    assert identity is not None, "a node that runs has an identity"
    _store(config.data_path, msgspec.structs.replace(identity, stage=Stage.REMOVED))


def stage_of(config: NodeConfig) -> Stage | None:
    """Return the stage of the data directory; None if there is none.

    Raises:
        DataDirectoryError: the identity cannot be read.
    """
    identity = _stored(config.data_path / FILE)
    return None if identity is None else identity.stage


def _store(directory: Path, identity: DirectoryIdentity) -> None:
    files.replace(directory / FILE, msgspec.json.format(msgspec.json.encode(identity)) + b"\n")


def _stored(path: Path) -> DirectoryIdentity | None:
    """Return the identity in a file, or None. Raises DataDirectoryError."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error.strerror}") from error
    try:
        identity = msgspec.json.decode(data, type=DirectoryIdentity)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataDirectoryError(f"{path} is damaged: {error}. {REJOIN_ADVICE}, on a new data directory") from error
    if identity.format != FORMAT:
        raise DataDirectoryError(f"{path}: expected format {FORMAT}, not {identity.format}: it was written by another version")
    return identity


def _contents(path: Path) -> list[str]:
    """Return names in a directory which show that something was stored there; none if it does not exist."""
    try:
        return sorted(set(os.listdir(path)) - _HARMLESS)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataDirectoryError(f"data directory {path} cannot be read: {error.strerror}") from error
