"""The exceptions of the cluster layer.

ClusterError
├── RaftFatalError         the node must stop, because continuing would be unsafe
│   ├── DivergedError      its state is not that of the majority
│   └── RemovedError       it was removed from its cluster
├── LogDamagedError        the log cannot be trusted
├── LogAbiError            the log was written with another schema
├── MissingEntriesError    the log no longer has entries that a reader needs
├── WireRefusedError       a message or connection was refused
├── ports.SnapshotRefusedError      an incoming snapshot was not installed
├── ports.SnapshotUnreadableError   the newest snapshot cannot be read for sending
└── membership.ChangeRefusedError   a change of the membership does not fit
"""

from __future__ import annotations


class ClusterError(Exception):
    """Root of this package's errors."""


class RaftFatalError(ClusterError):
    """The node must stop; the text says at which index and why."""


class DivergedError(RaftFatalError):
    """This node's state is not that of the majority. It must stop, and must not start again on its data.

    Attributes:
        node_id: this node.
        index, term: the log index at which the states were compared, and the term in which that happened.
        own, majority: the digests of the state after that index, here and on the nodes in `agreeing`.
    """

    def __init__(self, node_id: str, *, index: int, term: int, own: bytes, majority: bytes, agreeing: tuple[str, ...]) -> None:
        super().__init__(
            f"the state of {node_id} has diverged: at index {index} its hash is {own.hex()}, that of {', '.join(agreeing)} is "
            f"{majority.hex()}. It leaves service. Keep its data directory as evidence and compare with `quorumbook audit`; it comes "
            "back on a new data directory, with --rejoin"
        )
        self.node_id = node_id
        self.index = index
        self.term = term
        self.own = own
        self.majority = majority
        self.agreeing = agreeing


class RemovedError(RaftFatalError):
    """This node was removed from its cluster. It stops, and does not come back under this id.

    Attributes:
        node_id: this node.
        index: the log entry that removed it, or a later one.
    """

    def __init__(self, node_id: str, index: int) -> None:
        super().__init__(
            f"{node_id} was removed from its cluster (log entry {index}). It leaves service. An id is used once: to bring the machine "
            "back, add it under another id, on an empty data directory"
        )
        self.node_id = node_id
        self.index = index


class LogDamagedError(ClusterError):
    """The log on disk is not what was written; the text names file and offset, and what to do."""


class LogAbiError(ClusterError):
    """A log segment was written with another schema. `found` and `expected` are ABIs."""

    def __init__(self, name: str, found: str, expected: str) -> None:
        super().__init__(f"{name}: written with ABI {found}; this software has ABI {expected}. Run the version that wrote it")
        self.found = found
        self.expected = expected


class WireRefusedError(ClusterError):
    """A message or a connection on the Raft port was refused. `kind` names the counter."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class MissingEntriesError(ClusterError):
    """The log does not have the entry at `index`: a snapshot covers it, or it is of another schema."""

    def __init__(self, index: int) -> None:
        super().__init__(f"entry {index} is not in the log")
        self.index = index
