"""The exceptions of this package, as one tree.

A name with dots is the module and the class.

    QuorumbookError
    ├── ConnectionLost       a native connection ended; whether requests in flight were applied is unknown
    ├── RequestFailed        a node answered `Failed`, or no node answered in time
    │   └── OtherVersionError    the leader has another schema; nothing was sent
    ├── FramingError         bytes that are not the native protocol
    ├── NodeRunningError     a second start on the same data directory
    ├── NodeStartError       a node's processes could not be started
    ├── DirectoryError       a directory that should be a cluster's is not
    ├── ConfigError          a node's TOML file is wrong; names the file, the key and the expected value
    ├── MembershipError      a node could not be added or removed, or not in time
    ├── SetupError           `quorumbook init` cannot make a cluster as requested
    ├── DataDirectoryError   a data directory belongs to another node, or is gone
    ├── ReplayError          a recorded order flow could not be sent through the cluster
    ├── TxlogError           a transaction log cannot be read, or lacks what is needed
    ├── DatasetError         TSV files with which a cluster cannot begin
    ├── ClusterKeyError      a cluster key is missing, or is not the one that encrypted an API key
    ├── UnfitSecretError     a secret or passphrase that an API key cannot have
    ├── StreamError          a stream to a broker cannot continue
    ├── HistoryError         a history's database cannot be used, or does not fit the node's log
    │   └── history.keeper.OtherLogError    the history is not of the node's log
    ├── AuditError           an audit could not be made (what an audit finds is a result, not an error)
    ├── client.native.OrderRejected         the exchange rejected an order or a cancel
    ├── client.rest.RestError               the exchange answered a REST request with an error
    ├── config.calendars.CalendarError      a trading calendar in TOML is invalid
    ├── diagnosis.bench.BenchRefusedError   the exchange rejected what a benchmark needs
    ├── engine.feed.FeedError               a subscription cannot be served
    │   └── engine.feed.TooOldError         the events from a sequence on are no longer kept
    ├── fix.fields.FieldError               a field of a FIX message is invalid
    ├── fix.logon.LogonRefusedError         a FIX logon is rejected
    ├── fix.wire.WireError                  bytes that are not FIX
    ├── gateway.errors.ApiError             a request is answered with an error of the API
    │   ├── gateway.errors.BadRequestError      a field of a request is invalid
    │   ├── gateway.errors.ProposedError        a command waits for the consent of a second person
    │   └── gateway.errors.UnknownHereError     this node does not know what was asked for
    ├── gateway.errors.NotLeaderError       another node leads
    ├── gateway.errors.UnavailableError     no leader answered in time
    ├── native.framing.MalformedError       a frame of the native protocol does not decode
    ├── records.recording.RecordingError    a file is not a recorded order flow
    ├── streams.orders.BadRecordError       a record of the orders' topic is not an order
    └── system.processes.DescriptorsError the process may open too few files

A client's mistake is answered and is not an exception. A bug fails an assertion and ends the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from node.native.protocol import FailCode, LeaderHint


_Error = TypeVar("_Error", bound=BaseException)


def cause(error: BaseException | None, kind: type[_Error]) -> _Error | None:
    """Return the error of this kind in the chain of causes, if there is one: a first failure causes further errors."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error


class QuorumbookError(Exception):
    """The base of every error of this package."""


class ConnectionLost(QuorumbookError):  # noqa: N818 - the event's name in this protocol
    """The connection to a node ended or could not be made. Whether requests in flight were applied is unknown."""


class RequestFailed(QuorumbookError):  # noqa: N818 - named after the message `Failed`
    """A request has no result. `code` is the reason; `leader` is the leader's place if the answer named it."""

    def __init__(self, code: FailCode, message: str, leader: LeaderHint | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.leader = leader


class OtherVersionError(RequestFailed):
    """Nothing was sent: the leader has another schema than this software."""


class FramingError(QuorumbookError):
    """A peer sent bytes after which no frame boundary can be trusted. The connection must be closed."""


class NodeRunningError(QuorumbookError):
    """A node already runs on this data directory; the message names its pid."""


class NodeStartError(QuorumbookError):
    """A node's processes did not start or become ready in time; the message names the log to read."""


class DirectoryError(QuorumbookError):
    """A directory is not one that `quorumbook init` makes; the message says what is missing."""


class ConfigError(QuorumbookError):
    """A node's configuration is wrong. `key` is the key's dotted name, such as "raft.heartbeat", or "" for the whole
    file.
    """

    def __init__(self, file: str, key: str, text: str) -> None:
        super().__init__(f"{file}: {key}: {text}" if key else f"{file}: {text}")
        self.file = file
        self.key = key
        self.text = text


class SetupError(QuorumbookError):
    """A cluster cannot be laid out as requested; nothing was written."""


class MembershipError(QuorumbookError):
    """The cluster's membership was not changed as requested, or not in time; the message gives the reason and the place
    to look.
    """


class DataDirectoryError(QuorumbookError):
    """A data directory belongs to another node or cluster, or its contents are gone. The message says what to do."""


class ReplayError(QuorumbookError):
    """A recorded order flow could not be sent completely; the message says where it stopped."""


class AuditError(QuorumbookError):
    """An audit could not be made, because files are missing or unreadable. The message names them."""


class DatasetError(QuorumbookError):
    """A dataset is invalid; nothing was applied. The message names file, line, column, field and the expected value."""


class ClusterKeyError(QuorumbookError):
    """A cluster key is missing or unreadable, or differs from the key that encrypted an API key. The message says
    which, and what to do.
    """


class UnfitSecretError(QuorumbookError):
    """An API key cannot have this secret or passphrase. The message names the field and the expected value, and shows
    no part of it.
    """


class HistoryError(QuorumbookError):
    """A history's database cannot be used: it belongs to another node, has another schema, or contradicts the log. The
    message says which, and what to do.
    """


class StreamError(QuorumbookError):
    """A stream to a broker cannot continue: its place is of another log, or entries are missing. A person has to
    decide.
    """


class TxlogError(QuorumbookError):
    """A transaction log cannot be read, or lacks what is needed. The message names the place."""
