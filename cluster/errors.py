"""What can go wrong in the cluster layer.

ClusterError
├── RaftFatalError         the node must stop: going on could break the promise
├── LogDamagedError        the log cannot be trusted
├── WireRefusedError       a peer sent something that no honest peer sends
└── snapshots: `ports.SnapshotRefusedError`
"""

from __future__ import annotations


class ClusterError(Exception):
    """Root of this package's errors."""


class RaftFatalError(ClusterError):
    """The node must stop; the text says at which index and why."""


class LogDamagedError(ClusterError):
    """The log on disk is not what was written; the text names file and offset, and what to do."""


class WireRefusedError(ClusterError):
    """A message or a connection on the Raft port was refused. `kind` is the counter it goes to."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
