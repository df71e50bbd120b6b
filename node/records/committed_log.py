"""The committed entries of a cluster, read from the logs of its nodes on disk.

An entry counts as committed up to the highest commit index that a node reports. Where no node answers, it counts as
committed up to the last entry that a majority of the voters have in common. The nodes need not be trusted: every log is
compared with every other one, entry by entry.

The whole log is needed. `raft.archive_log = true` keeps the segments that a node itself no longer needs.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TypeVar

import msgspec

from cluster.errors import LogDamagedError
from cluster.log import HEADER_BYTES_MAX, command_of, members_of, read_header, read_segments, segment_abis
from cluster.membership import Membership
from cluster.ports import LogEntry
from node.config.file import load
from node.config.settings import NodeConfig
from node.errors import AuditError
from node.native.protocol import NodeStatus
from snapshots.abi import ABI
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, OWN, Level, by_abi, decode_set_level, is_level_entry
from snapshots.levels.states import commands_of
from statemachine.commands import Batch
from statemachine.engine import Engine

ATTEMPTS = 4
"""How often the logs of running nodes are read before an error in them is reported."""

ATTEMPT_PAUSE_S = 0.5

_Result = TypeVar("_Result")


class EntryDigest(msgspec.Struct, frozen=True, array_like=True):
    """The term of an entry and a digest of its bytes."""

    term: int
    digest: bytes

    @classmethod
    def of(cls, entry: LogEntry) -> EntryDigest:
        """Return the digest of an entry."""
        return cls(entry.term, hashlib.blake2b(entry.payload, digest_size=16).digest())


class NodeLog:
    """The log of one node: its directories, and a digest of each entry by index.

    Raises:
        AuditError: the log is damaged, cannot be read, or begins with another ABI.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.node_id = config.node_id
        self.directories = log_directories(config)
        self._check_abis()
        self.digests: dict[int, EntryDigest] = {}
        self.memberships: dict[int, Membership] = {}
        for entry in self.entries():
            self.digests[entry.index] = EntryDigest.of(entry)
            membership = members_of(entry)
            if membership is not None:
                self.memberships[entry.index] = membership

    def _check_abis(self) -> None:
        """Check that this software can read all segments. Raises AuditError."""
        others = {abi for directory in self.directories for abi in segment_abis(directory).values() if abi not in ACCEPTED}
        if others:
            raise AuditError(
                f"{self.node_id}: the log begins with ABI {', '.join(sorted(others))}, this software has ABI {ABI}: an audit needs the whole "
                "log and does not reach over a migration. Audit with the version that wrote it"
            )

    def entries(self) -> Iterator[LogEntry]:
        """Yield all entries by index.

        Raises:
            AuditError: the log is damaged or cannot be read.
        """
        try:
            yield from read_segments(*self.directories, abis=ACCEPTED)
        except (LogDamagedError, OSError) as error:
            raise AuditError(f"{self.node_id}: {error}") from error


class CommittedLog:
    """The committed entries of the nodes whose directories are in one directory, as `quorumbook init` lays them out.

    Args:
        directory: the cluster's directory.
        statuses: the nodes' statuses; None for a node that does not answer.

    Raises:
        AuditError: there is no node, no node has a log, or a log cannot be read.
        ConfigError: a node's configuration is wrong.
    """

    def __init__(self, directory: Path, statuses: Mapping[str, NodeStatus | None] | None) -> None:
        configs = _configs(directory)
        if not configs:
            raise AuditError(f"{directory}: no node in it (expected {directory}/n1/node.toml)")
        self.logs = [log for log in map(NodeLog, configs) if log.digests]
        self.statuses = {node_id: status for node_id, status in (statuses or {}).items() if status is not None}
        self.commit_index = self._find_commit_index([node.node_id for node in configs[0].nodes])
        self.agreed: dict[int, EntryDigest] = {}
        """The committed entry of each index."""
        self.differences: list[str] = []
        """Where a node has another committed entry than the others."""
        self.uncommitted: list[str] = []
        """Which nodes hold entries that were never committed."""
        self._compare()

    def _find_commit_index(self, configured: Sequence[str]) -> int:
        """Return the last index that is certainly committed; see the module."""
        if not self.logs:
            raise AuditError("no node here has a log")
        last = max(max(log.digests) for log in self.logs)
        if self.statuses:
            return min(last, max(status.commit_index for status in self.statuses.values()))
        everywhere = {index: membership for log in self.logs for index, membership in log.memberships.items()}
        for index in range(last, 0, -1):
            for log in self.logs:
                if index in log.digests and self._is_on_majority(
                    log, index, _voters(everywhere | log.memberships, index, configured)
                ):
                    return index
        raise AuditError("no entry is in the logs of a majority of the voters")

    def _is_on_majority(self, holder: NodeLog, index: int, voters: Sequence[str]) -> bool:
        """Return whether a majority of the voters have the entry that this log has at `index`."""
        same = [log for log in self.logs if log.node_id in voters and log.digests.get(index) == holder.digests[index]]
        return len(same) > len(voters) // 2

    def _compare(self) -> None:
        """Find the committed entry of each index, and the nodes that disagree.

        A node that was cut off may hold entries that were never committed, at indexes where other nodes have committed
        entries of a later term. That is not a difference as long as the node has not applied them. Its entries from
        there on do not count.
        """
        ends = {log.node_id: max(log.digests) for log in self.logs}
        for index in range(1, self.commit_index + 1):
            holders = [log for log in self.logs if index in log.digests and index <= ends[log.node_id]]
            if not holders:
                continue
            agreed = self.agreed[index] = max((log.digests[index] for log in holders), key=lambda digest: digest.term)
            for log in holders:
                if log.digests[index] == agreed:
                    continue
                ends[log.node_id] = index - 1
                status = self.statuses.get(log.node_id)
                if log.digests[index].term == agreed.term or (status is not None and status.applied_index >= index):
                    self.differences.append(f"{log.node_id} has another entry at {index}")
                else:
                    self.uncommitted.append(f"{log.node_id} holds uncommitted entries from {index} on")

    def level_at_start(self) -> Level:
        """Return the level of the first entry."""
        return level_at_start(directory for log in self.logs for directory in log.directories)

    def payloads(self) -> Iterator[tuple[int, bytes]]:
        """Yield index and payload of each committed entry that has commands or changes the level.

        Each comes from any log that has it.

        Raises:
            AuditError: an entry is in no log.
        """
        expected = 1
        for entry in heapq.merge(*(log.entries() for log in self.logs), key=lambda entry: entry.index):
            if entry.index == expected <= self.commit_index and EntryDigest.of(entry) == self.agreed.get(expected):
                expected += 1
                payload = command_of(entry)
                if payload is not None:
                    yield entry.index, payload
        if expected <= self.commit_index:
            raise AuditError(
                f"entry {expected} of {self.commit_index} is in no node's log: an audit needs all of them (raft.archive_log = true keeps them)"
            )

    def batches(self) -> Iterator[Batch]:
        """Yield the committed batches of commands in order.

        Raises:
            AuditError: an entry is in no log, or is not a batch.
        """
        level = self.level_at_start()
        for index, payload in self.payloads():
            try:
                change = decode_set_level(payload)
                batch = None if is_level_entry(payload) else commands_of(level.abi, payload)
            except msgspec.DecodeError as error:
                raise AuditError(f"entry {index} is not a batch of commands: {error}") from error
            if batch is not None:
                yield batch
            elif change is not None and change.old.abi == level.abi:
                level = change.to


def committed_batches(
    directory: Path, statuses: Mapping[str, NodeStatus | None] | None = None, *, first: float = inf
) -> list[Batch]:
    """Return the committed batches of commands in order, from the logs of nodes that may be running.

    Reading stops when the batches have `first` commands. The other arguments and the errors are those of
    `CommittedLog`.
    """

    def read() -> list[Batch]:
        batches: list[Batch] = []
        commands = 0
        for batch in CommittedLog(directory, statuses).batches():
            batches.append(batch)
            commands += len(batch.commands)
            if commands >= first:
                break
        return batches

    return retried(read)


def empty_engine(directory: Path) -> Engine:
    """Return an empty exchange of the level at which the logs of the nodes in `directory` begin.

    Raises:
        AuditError: a log cannot be read.
        ConfigError: a node's configuration is wrong.
    """

    def read() -> Engine:
        try:
            return states.empty(level_at_start(each for config in _configs(directory) for each in log_directories(config)))
        except (LogDamagedError, OSError) as error:
            raise AuditError(str(error)) from error

    return retried(read)


def retried(read: Callable[[], _Result]) -> _Result:
    """Read logs of nodes that may be running. A node that is archiving a segment makes its log unreadable for a moment."""
    for _ in range(ATTEMPTS - 1):
        try:
            return read()
        except AuditError:
            time.sleep(ATTEMPT_PAUSE_S)
    return read()


def log_directories(config: NodeConfig) -> list[Path]:
    """Return the directories of a node's log segments: those in use and, with `raft.archive_log`, the archived ones."""
    return sorted({path.parent for path in config.data_path.glob("*/log-*.seg")})


def _configs(directory: Path) -> list[NodeConfig]:
    return [load(path, dates=False) for path in sorted(directory.glob("*/node.toml"))]


def level_at_start(directories: Iterable[Path]) -> Level:
    """Return the level of the first entry of the logs in these directories, as far as this version can read them.

    A damaged segment tells nothing: whoever reads its entries reports it.
    """
    for path in sorted((path for directory in directories for path in directory.glob("log-*.seg")), key=lambda path: path.name):
        try:
            with path.open("rb") as file:
                read = read_header(path.name, file.read(HEADER_BYTES_MAX + 64))
        except (LogDamagedError, FileNotFoundError):  # the node may have removed it in the meantime
            continue
        level = by_abi(read[0].abi) if read is not None else None
        if level is not None:
            return level
    return OWN


def _voters(memberships: Mapping[int, Membership], index: int, configured: Sequence[str]) -> Sequence[str]:
    """Return the voters at an index of the log: those of the configuration until the log says otherwise."""
    newest = max((at for at in memberships if at <= index), default=0)
    return memberships[newest].voters if newest else configured
