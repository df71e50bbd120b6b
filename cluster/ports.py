"""What the cluster layer asks of its surroundings: a state machine, snapshots, a disk, a wire, a clock.

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
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    term: int


class SnapshotMark(msgspec.Struct, frozen=True, array_like=True):
    """Which point of the log a snapshot stands for: its last entry, and the one before that (PySyncObj begins its log
    with both).

    `members` is the membership there; None as long as no log entry ever said one, so that the configuration goes on
    saying it.
    """

    last: LogEntry
    previous: LogEntry
    members: Membership | None = None

    @property
    def index(self) -> int:
        """The last index whose effect is in the snapshot."""
        return self.last.index


@dataclass(frozen=True)
class Timekeeper:
    """How entries are stamped, for `clocks.Clocks`. All times are nanoseconds since the Unix epoch.

    `now` reads this node's wall clock. `stamp` finds the time in the first bytes of a command, 0 when there is none.
    `reached` is the time that the state machine has reached: a stamp up to it changes nothing.
    """

    now: Callable[[], int] = lambda: 0
    stamp: Callable[[bytes], int] = lambda _command: 0
    reached: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Schemas:
    """In which schema (ABI) the commands of the log are. One entry may say that what comes behind it is in another one.

    `in_force`: that of the state. `behind`: what a command says of those behind it; None where it says nothing.
    `accepted`: those that this node can read. `may_apply`: whether a committed command can be applied now. Where it
    cannot, nothing is applied, and it is asked again with every tick, until what the owner prepares for it is ready.
    """

    in_force: Callable[[], str]
    accepted: frozenset[str]
    behind: Callable[[bytes], str | None] = lambda _command: None
    may_apply: Callable[[bytes], bool] = lambda _command: True


class StateMachine(Protocol):
    """What is replicated."""

    def apply(self, index: int, payload: bytes) -> object:
        """Apply a committed command; the result goes to whoever proposed it, on the node where that was. If the result
        is a function, what it returns goes there, and the other nodes do not call it.

        Total and deterministic. Whatever it raises stops the node.
        """

    def digest(self) -> bytes:
        """A running hash of all that was applied and of what came of it, 1 to 64 bytes, equal on all nodes after the
        same entry.

        Cheap: it is asked for between two commands. A difference must stay: what differs once differs after each later
        command.
        """


class CaptureState(Enum):
    """What became of the snapshot that `Snapshots.capture` began."""

    IDLE = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3


class SnapshotSource(Protocol):
    """A snapshot as one run of bytes, for a peer that is behind the log. Stays readable until closed."""

    mark: SnapshotMark
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`, at most `length`, fewer only at the end.

        Raises:
            SnapshotUnreadableError: they are not there.
        """

    def close(self) -> None:
        """Release it."""


class SnapshotUnreadableError(ClusterError):
    """The newest snapshot cannot be read any more; the text says where. The state in memory is as good as it was."""


class SnapshotSink(Protocol):
    """A snapshot coming in from the leader. Nothing of it is visible before `finish`."""

    def write(self, data: bytes) -> None:
        """Append."""

    def finish(self) -> None:
        """All of it is written: begin to check it whole (ABI, counts, hash) and to make its state. Returns at once."""

    def poll(self) -> SnapshotMark | None:
        """Its mark once it is checked, durable and the newest, which it becomes in this call; None until then. Called
        after `finish`.

        Raises:
            SnapshotRefusedError: it is damaged or of another schema; nothing changed.
        """

    def abort(self) -> None:
        """Forget it, also after `finish`; what `poll` has told stays."""


class SnapshotRefusedError(ClusterError):
    """An incoming snapshot was not taken; the text says why."""


class Snapshots(Protocol):
    """Where snapshots are kept, and the state machine they are of.

    Attributes:
        damaged: whether `examine` has found the newest snapshot to be other than what was written. It is sent to nobody
            then, and the next capture has nothing of it and takes its place.
    """

    @property
    def damaged(self) -> bool: ...

    def newest(self) -> SnapshotMark | None:
        """The newest whole snapshot, or None. Raises if one is there but cannot be trusted."""

    def restore(self, mark: SnapshotMark) -> None:
        """Make the state machine's state that of the newest snapshot. Raises if that fails; the node then stops.

        Quick for one that has just come in by a sink; else as long as it takes to read it.
        """

    def capture(self, mark: SnapshotMark) -> None:
        """Begin to write the state as it is now, which is the state after `mark`. Returns before it is durable."""

    def poll(self) -> CaptureState:
        """What became of the capture. DONE and FAILED are told once, then IDLE."""

    def examine(self) -> None:
        """Begin to compare the newest snapshot with what was written; `damaged` tells the result. Returns at once.
        Nothing while one goes on.
        """

    def open_source(self) -> SnapshotSource:
        """The newest snapshot, for sending.

        Raises:
            SnapshotUnreadableError: it is not there whole.
        """

    def open_sink(self) -> SnapshotSink:
        """Begin to receive one."""


class DiskFile(Protocol):
    """An open file. Writes become durable with `sync` only."""

    def append(self, data: bytes) -> None:
        """Write at the end."""

    def sync(self) -> None:
        """fdatasync. Raises OSError if anything written may not be there after a power loss."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def close(self) -> None:
        """Close."""


class Disk(Protocol):
    """A directory of files. Names have no slashes."""

    def names(self) -> list[str]:
        """All files, sorted."""

    def read(self, name: str) -> bytes:
        """A file whole. Raises FileNotFoundError."""

    def settle(self, name: str) -> None:
        """Make durable what an earlier process wrote to a file, and let `read` return only what is on the disk.

        A process that is killed between a write and its sync leaves bytes in the page cache. The next process can read
        them, but they do not survive a power loss. After a sync that failed, the cache may even hold bytes that no
        later sync writes.
        """

    def open(self, name: str) -> DiskFile:
        """Open for appending, created when absent."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a file anew, durable and atomic: after a crash it is whole, old or new."""

    def remove(self, name: str) -> None:
        """Delete a file."""

    def archive(self, name: str) -> None:
        """The file is no longer needed by the log: delete it, or move it where the operator keeps old log segments."""

    def sync_names(self) -> None:
        """Make creations and removals durable (fsync of the directory)."""


class Wire(Protocol):
    """Carries messages between nodes; in order while a connection lasts; a broken connection loses what was under way.

    Attributes:
        accepts_unknown: whether a node of this cluster's authority that is no peer is let in. True while this node
            knows of no leader: the next one may have become a member when this node was away.
    """

    accepts_unknown: bool

    def start(
        self,
        on_message: Callable[[str, bytes], None],
        on_connected: Callable[[str], None],
        on_disconnected: Callable[[str], None],
    ) -> None:
        """Begin. The callbacks get the peer's node id."""

    def set_peers(self, peers: Mapping[str, str], removed_peers: Mapping[str, bytes]) -> None:
        """From now on these are the peers, with their addresses. A connection to any other node may stay until it
        breaks.

        `removed_peers` has the nodes that are not let in, with the last message for each: it is sent when it calls, and
        at once if it is connected; then the connection is closed.
        """

    def send(self, peer: str, message: bytes) -> bool:
        """Queue a message. False when it certainly will not arrive."""

    def stop(self) -> None:
        """Close every connection."""
