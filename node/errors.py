"""What can go wrong around a node, as one tree.

    QuorumbookError
    ├── ConnectionLost       a native connection ended; what was under way on it has an unknown outcome
    ├── RequestFailed        a node answered `Failed`, or no node answered in time
    ├── FramingError         bytes that are not the native protocol
    ├── NodeRunningError     a second start on the same data directory
    ├── NodeStartError       a node's processes could not be started
    ├── DirectoryError       a directory that should be a cluster's is not
    ├── ConfigError          a node's TOML file is not right; names the file, the key and what was expected
    ├── MembershipError      a node could not be added or removed, or not in time
    ├── SetupError           `quorumbook init` cannot make a cluster as asked
    ├── DataDirectoryError   a node's data directory is not that of this node, or is gone
    ├── ReplayError          a recorded order flow could not be sent through the cluster
    ├── TxlogError           a transaction log cannot be read, or does not hold what is needed
    ├── DatasetError         TSV files that a cluster cannot begin with
    ├── ClusterKeyError      a cluster key is not there, or not the one that encrypted an API key
    ├── UnfitSecretError     a secret or passphrase that an API key cannot have
    ├── StreamError          a stream to a broker cannot go on as it is
    ├── HistoryError         a history's database cannot be used, or does not fit the node's log
    └── AuditError           an audit could not be made (what an audit finds is a result, not an error)

Faults of a client are not exceptions but answers; a fault of ours is an `AssertionError` and ends the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from node.native.protocol import FailCode, LeaderHint


_Error = TypeVar("_Error", bound=BaseException)


def cause(error: BaseException | None, kind: type[_Error]) -> _Error | None:
    """The error of this kind because of which another one was raised, if there is one: what failed once raises other
    errors from then on.
    """
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error


class QuorumbookError(Exception):
    """What every error of this package is."""


class ConnectionLost(QuorumbookError):  # noqa: N818 - the event's name in this protocol
    """The connection to a node ended, or could not be made. Whether requests under way were carried out is unknown."""


class RequestFailed(QuorumbookError):  # noqa: N818 - named after the message `Failed`
    """A request has no result. `code` says why, `leader` where the leader is if the answer told."""

    def __init__(self, code: FailCode, message: str, leader: LeaderHint | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.leader = leader


class OtherVersionError(RequestFailed):
    """Nothing was sent: the node that leads has another schema than this software."""


class FramingError(QuorumbookError):
    """A peer sent bytes in which no frame boundary can be trusted any more; the connection has to be closed."""


class NodeRunningError(QuorumbookError):
    """A node runs on this data directory already; the text names its pid."""


class NodeStartError(QuorumbookError):
    """A node's processes could not be started, or did not become ready in time; the text names the log to read."""


class DirectoryError(QuorumbookError):
    """A directory is not what `quorumbook init` makes; the text says what is missing."""


class ConfigError(QuorumbookError):
    """A node's configuration is not right. `key` is the key's dotted name, such as "raft.heartbeat", or "" for the
    whole file.
    """

    def __init__(self, file: str, key: str, text: str) -> None:
        super().__init__(f"{file}: {key}: {text}" if key else f"{file}: {text}")
        self.file = file
        self.key = key
        self.text = text


class SetupError(QuorumbookError):
    """A cluster cannot be laid out as asked; nothing was written."""


class MembershipError(QuorumbookError):
    """The cluster's membership was not changed as asked, or not in time; the text says why and where to look."""


class DataDirectoryError(QuorumbookError):
    """A data directory is not that of this node of this cluster, or its contents are gone. The text says what to do."""


class ReplayError(QuorumbookError):
    """A recorded order flow could not be sent through the cluster whole; the text says where it stopped."""


class AuditError(QuorumbookError):
    """An audit could not be made: files are missing or unreadable. The text names them."""


class DatasetError(QuorumbookError):
    """A dataset is not right; nothing of it was applied. The text names file, line, column, field and what was
    expected.
    """


class ClusterKeyError(QuorumbookError):
    """A cluster key cannot be read, is not there, or is another one than that which encrypted an API key. The text says
    which and what to do.
    """


class UnfitSecretError(QuorumbookError):
    """A secret or passphrase that an API key cannot have. The text names the field and what was expected, and shows
    nothing of it.
    """


class HistoryError(QuorumbookError):
    """A history's database cannot be used: it is another node's, of another schema, or contradicts the log. The text
    says which, and what to do.
    """


class StreamError(QuorumbookError):
    """A stream to a broker cannot go on as it is: its place is of another log, or entries are gone. A person has to
    decide.
    """


class TxlogError(QuorumbookError):
    """A transaction log cannot be read, or does not hold what is needed. The text names the place."""
