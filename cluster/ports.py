"""The interfaces that the cluster layer needs: a state machine, snapshots, a disk, a wire, a clock.

Everything here is implemented twice: for production (`storage.RealDisk`, `wire.TlsWire`, and in `node` the engine and
the snapshot store) and for the simulation (in memory, under one seed). Nothing in this package reads a clock, a socket
or a file in any other way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

import msgspec

from cluster.errors import ClusterError
from cluster.membership import Membership

Clock = Callable[[], float]
"""Monotonic seconds."""


class LogEntry(NamedTuple):
    """One entry of the Raft log. `payload` is a type byte and the command. A tuple, because PySyncObj takes entries
    apart by position.
    """

    payload: bytes
    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used
    term: int


class SnapshotMark(msgspec.Struct, frozen=True, array_like=True):
    """The position of a snapshot in the log: its last entry, and the one before that (PySyncObj begins its log with
    both).

    `members` is the membership there; None if no log entry has ever had one, so that the configuration applies.
    """

    last: LogEntry
    previous: LogEntry
    members: Membership | None = None

    @property
    def index(self) -> int:
        """The index of the last entry whose effect is in the snapshot."""
        return self.last.index


@dataclass(frozen=True)
class Timekeeper:
    """How entries are stamped with times, for `clocks.Clocks`. All times are nanoseconds since the Unix epoch.

    `now` reads this node's wall clock. `stamp` reads the time from the first bytes of a command, 0 if there is none.
    `reached` is the time that the state machine has reached: a stamp up to it changes nothing.
    """

    now: Callable[[], int] = lambda: 0
    stamp: Callable[[bytes], int] = lambda _command: 0
    reached: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Schemas:
    """The schemas (ABIs) of the commands in the log. An entry may change the schema of the entries after it.

    `in_force`: the schema of the state. `behind`: the schema that a command sets for the entries after it; None if it
    sets none. `accepted`: the schemas that this node can read. `may_apply`: whether a committed command can be applied
    now. If not, nothing is applied, and it is called again with every tick, until the owner is ready.
    """

    in_force: Callable[[], str]
    accepted: frozenset[str]
    behind: Callable[[bytes], str | None] = lambda _command: None
    may_apply: Callable[[bytes], bool] = lambda _command: True


class StateMachine(Protocol):
    """The replicated state machine."""

    def apply(self, index: int, payload: bytes) -> object:
        """Apply a committed command. The result goes to the proposer, on the node that proposed it. If the result is a
        function, only that node calls it, and its return value is the result.

        It must be total and deterministic. An exception stops the node.
        """

    def digest(self) -> bytes:
        """Return the running hash of all entries applied and their results, 1 to 64 bytes, equal on all nodes after the
        same entry.

        It must be cheap, because it is called between two commands. A difference must stay after each later command.
        """


class CaptureState(Enum):
    """The progress of the snapshot that `Snapshots.capture` began."""

    IDLE = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3


class SnapshotSource(Protocol):
    """A snapshot as one run of bytes, for a peer that is behind the log. Stays readable until closed."""

    mark: SnapshotMark
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes from `offset`, at most `length`, fewer only at the end.

        Raises:
            SnapshotUnreadableError: the bytes cannot be read.
        """

    def close(self) -> None:
        """Close the source."""


class SnapshotUnreadableError(ClusterError):
    """The newest snapshot can no longer be read; the text says where. The state in memory is not affected."""


class SnapshotSink(Protocol):
    """An incoming snapshot from the leader. It is not visible before `finish`."""

    def write(self, data: bytes) -> None:
        """Append bytes."""

    def finish(self) -> None:
        """Begin to check the snapshot, which is completely written (ABI, counts, hash), and to build its state. Returns
        at once.
        """

    def poll(self) -> SnapshotMark | None:
        """Return the position of the snapshot once it is checked and durable, or None until then. In that call it
        becomes the newest one. Called after `finish`.

        Raises:
            SnapshotRefusedError: the snapshot is damaged or of another schema; nothing changed.
        """

    def abort(self) -> None:
        """Discard the snapshot, even after `finish`. A result that `poll` has returned stays valid."""


class SnapshotRefusedError(ClusterError):
    """An incoming snapshot was not installed; the text says why."""


class Snapshots(Protocol):
    """The store of snapshots of the state machine.

    Attributes:
        damaged: whether `examine` found that the newest snapshot differs from what was written. It is not sent to a
            peer then, and the next capture is complete and replaces it.
    """

    @property
    def damaged(self) -> bool: ...

    def newest(self) -> SnapshotMark | None:
        """Return the newest complete snapshot, or None. Raises if there is one that cannot be trusted."""

    def restore(self, mark: SnapshotMark) -> None:
        """Make the state machine's state that of the newest snapshot. Raises if that fails; the node then stops.

        It is quick for one that a sink has just received; otherwise it takes as long as reading the snapshot.
        """

    def capture(self, mark: SnapshotMark) -> None:
        """Begin to write the state as it is now, which is the state after `mark`. Returns before it is durable."""

    def poll(self) -> CaptureState:
        """Return the progress of the capture. DONE and FAILED are returned once, then IDLE."""

    def examine(self) -> None:
        """Begin to compare the newest snapshot with what was written; the result is in `damaged`. Returns at once. A
        call during a comparison does nothing.
        """

    def open_source(self) -> SnapshotSource:
        """Return the newest snapshot, for sending.

        Raises:
            SnapshotUnreadableError: there is no complete snapshot.
        """

    def open_sink(self) -> SnapshotSink:
        """Begin to receive one."""


class DiskFile(Protocol):
    """An open file. Writes become durable only with `sync`."""

    def append(self, data: bytes) -> None:
        """Write at the end."""

    def sync(self) -> None:
        """Make the written bytes durable (fdatasync). Raises OSError if anything written may not be there after a power
        loss.
        """

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def close(self) -> None:
        """Close the file."""


class Disk(Protocol):
    """A directory of files. Names have no slashes."""

    def names(self) -> list[str]:
        """Return all files, sorted."""

    def read(self, name: str) -> bytes:
        """Return the contents of a file. Raises FileNotFoundError."""

    def settle(self, name: str) -> None:
        """Make durable what an earlier process wrote to a file, and let `read` return only what is on the disk.

        A process that is killed between a write and its sync leaves bytes in the page cache. The next process can read
        them, but they do not survive a power loss. After a sync that failed, the cache may even hold bytes that no
        later sync writes.
        """

    def open(self, name: str) -> DiskFile:
        """Open for appending, created when absent."""

    def replace(self, name: str, data: bytes) -> None:
        """Replace the contents of a file, durably and atomically: after a crash the file is complete, old or new."""

    def remove(self, name: str) -> None:
        """Delete a file."""

    def archive(self, name: str) -> None:
        """The file is no longer needed by the log: delete it, or move it where the operator keeps old log segments."""

    def sync_names(self) -> None:
        """Make creations and removals durable (fsync of the directory)."""


OnMessage = Callable[[str, bytes, bool], None]
"""Gets a message: the peer's node id, the message, and whether another message of this peer has arrived already and
follows at once.
"""


class Wire(Protocol):
    """Carries messages between nodes, in order while a connection lasts. A broken connection loses the messages in
    flight.

    Attributes:
        accepts_unknown: whether a node with a certificate of this cluster's authority that is not a peer is accepted.
            It is true while this node knows no leader, because the leader may have become a member while this node
            was away.
    """

    accepts_unknown: bool

    def start(
        self,
        on_message: OnMessage,
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
    ) -> None:
        """Start to connect and listen. The callbacks get the peer's node id."""

    def set_peers(self, peers: Mapping[str, str], removed_peers: Mapping[str, bytes]) -> None:
        """Set the peers and their addresses. A connection to any other node may stay until it breaks.

        `removed_peers` has the nodes that are not accepted, with the last message for each. It is sent when the node
        connects, or at once if it is connected; then the connection is closed.
        """

    def send(self, peer: str, message: bytes) -> bool:
        """Queue a message. Returns False if it certainly will not arrive."""

    def stop(self) -> None:
        """Close every connection."""
