"""A node's configuration: one TOML file, frozen, checked once at the start.

Paths in the file are relative to the file. Times are seconds. `quorumbook init` writes such files, `file.load` reads
them, and `docs/operations.md` explains every key.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

NODE_COUNTS = (1, 3, 5)
"""The sizes of a new cluster. Later membership changes pass through even numbers."""

GATEWAYS_BY_DEFAULT_MAX = 4
"""Gateways of a node whose configuration names no number. Four keep one engine busy; each takes about 100 MB."""

COMMANDS_PER_SUBMIT_MAX = 1_000
"""Commands in one `Submit` of the native protocol."""


class RaftConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[raft]`: consensus and its log."""

    listen: str
    heartbeat: float = 0.07
    election_timeout_min: float = 0.3
    election_timeout_max: float = 0.6
    leader_fallback: float = 0.8
    archive_log: bool = False
    fsync: bool = True


class SnapshotConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[snapshot]`: when snapshots are taken. `every_seconds` of 0 disables snapshots by time."""

    on_stop: bool = True
    every_commands: int = 200_000
    every_seconds: float = 3600.0
    every_bytes: int = 64 * 1024 * 1024
    keep: int = 2


class StartConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """`[start]`: where a node's state comes from. `source` is the key `from`. `dataset` is a directory for a cluster
    that has never run.
    """

    source: str = "auto"
    dataset: str = ""


RENAMED = {
    "raft.snapshot_entries": "snapshot.every_commands",
    "raft.snapshot_bytes": "snapshot.every_bytes",
    "raft.snapshots_kept": "snapshot.keep",
}
"""Keys of older files and their present names."""


class NativeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[native]`: the engine's own protocol over TLS.

    `key_rate` limits the requests of one API key other than commands, in units of work a second. `account_rate` limits
    the commands of one account on all connections. One unit is the work of one command (see `node.budget`). 0 means no
    limit.
    """

    listen: str
    queue_max: int = 20_000
    batch_commands_max: int = 500
    events_kept: int = 100_000
    key_rate: float = 1000.0
    account_rate: float = 5000.0


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[http]`: REST and WebSocket, with TLS when `tls` is true. Other nodes give `public_url` to clients.

    `gateways`: processes that serve HTTP; by default one for each processor beyond the engine's, see `processes`.
    `followers`: "forward" commands to the leader, or "redirect" the client to it. `key_rate`, `address_rate`: requests
    a second, 0 for no limit. `trusted_proxies`: networks of proxies whose header with a request's origin is trusted.
    `metrics_from`: networks that may read /metrics besides this machine; none means everybody may.
    """

    listen: str
    public_url: str
    gateways: int | None = None
    tls: bool = False
    deadline: float = 8.0
    signature_age_max: float = 30.0
    followers: str = "forward"
    key_rate: float = 1000.0
    address_rate: float = 1000.0
    trusted_proxies: tuple[str, ...] = ()
    metrics_from: tuple[str, ...] = ()

    @property
    def processes(self) -> int:
        """The number of gateways of a node that has this machine for itself, unless the configuration names another."""
        return gateways_of_node(1) if self.gateways is None else self.gateways


def gateways_of_node(nodes: int) -> int:
    """Return the number of gateways that suits a node on a machine with `nodes` nodes: one for each of its processors
    beyond the engine's, at least 1 and at most `GATEWAYS_BY_DEFAULT_MAX`.
    """
    return min(max(len(os.sched_getaffinity(0)) // nodes - 1, 1), GATEWAYS_BY_DEFAULT_MAX)


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[tls]`: PEM files. The certificate's subject alternative name "quorumbook-node-<node_id>" identifies a node."""

    ca: str
    certificate: str
    key: str


class AdminConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[admin]`: the operator's API key, which is the same on every node. All other keys are in the replicated state.

    `addresses`: networks from which it may be used; none means any.
    """

    key_id: str
    secret: str
    passphrase: str
    addresses: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Omit the secrets, because a repr ends up in logs."""
        return f"AdminConfig(key_id={self.key_id!r})"


class HistoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[history]`: the market database of this node. `database` is a URL for SQLAlchemy; empty means SQLite in the data
    directory.

    `archive_days`: days that stay in the database before they move to Parquet files, once a day; 0 means that all stay.
    `log_bytes`: the newest bytes of the log that stay on disk, after this history has read them, for the histories of
    other nodes.
    """

    enabled: bool = False
    database: str = ""
    archive_days: int = 0
    log_bytes: int = 1024 * 1024 * 1024


class FixConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[fix]`: FIX sessions over TLS. An empty `listen` disables them.

    `key_rate`: messages a second of one API key, 0 for no limit. `logon_age_max`: seconds by which a Logon's
    SendingTime may differ from the node's clock.
    """

    listen: str = ""
    key_rate: float = 1000.0
    logon_age_max: float = 30.0


class StreamsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams]`: publishes every event of the exchange to a broker, and takes orders from a topic.

    `url`: kafka://host:port,host:port or nats://host:port; empty means no stream. `prefix`: of the topics' names.
    `format`: "json" or "msgpack". `partitions`, `replication`: of topics that the stream creates. `takeover`: seconds
    without progress of another node's stream after which this node takes over. `orders`: a topic with orders to place;
    empty means none. `options`: settings of the broker's client library, each "name=value".
    """

    url: str = ""
    prefix: str = "quorumbook"
    format: str = "json"
    partitions: int = 6
    replication: int = 1
    takeover: float = 15.0
    orders: str = ""
    options: tuple[str, ...] = ()

    @property
    def enabled(self) -> bool:
        """Whether there is a stream."""
        return bool(self.url)

    def __repr__(self) -> str:
        """Omit the options, because one of them may be a password."""
        return f"StreamsConfig(url={self.url!r}, prefix={self.prefix!r})"


class TracingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[tracing]`: traces of orders for OpenTelemetry. `endpoint`: URL of OTLP over HTTP; empty means no traces.
    `ratio`: share of commands that are traced.
    """

    endpoint: str = ""
    ratio: float = 0.01


class NodeAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[nodes]]`: the addresses of each node of the cluster, this one included. `http` is its public URL."""

    node_id: str
    raft: str
    native: str
    http: str


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole file. `directory` is the file's directory; it is not a key of the file.

    `log_bytes`: size at which node.log is renamed, if `quorumbook cluster up` started the node. `log_files`: how many
    renamed logs stay.
    """

    cluster_id: str
    node_id: str
    data_dir: str
    raft: RaftConfig
    native: NativeConfig
    http: HttpConfig
    tls: TlsConfig
    admin: AdminConfig
    nodes: list[NodeAddress]
    snapshot: SnapshotConfig = SnapshotConfig()
    start: StartConfig = StartConfig()
    history: HistoryConfig = HistoryConfig()
    fix: FixConfig = FixConfig()
    streams: StreamsConfig = StreamsConfig()
    tracing: TracingConfig = TracingConfig()
    log_level: str = "info"
    log_format: str = "text"
    log_bytes: int = 64 * 1024 * 1024
    log_files: int = 4
    cluster_key: str = "cluster.key"
    directory: str = "."

    def path(self, name: str) -> Path:
        """Make a path of the file absolute."""
        return (Path(self.directory) / name).resolve()

    @property
    def data_path(self) -> Path:
        """The data directory."""
        return self.path(self.data_dir)

    @property
    def cluster_key_path(self) -> Path:
        """The file with the cluster keys, which encrypt API keys."""
        return self.path(self.cluster_key)

    @property
    def history_path(self) -> Path:
        """The directory of the history's files."""
        return self.data_path / "history"

    @property
    def streams_path(self) -> Path:
        """The directory of the stream's files."""
        return self.data_path / "streams"

    @property
    def keeps_log(self) -> bool:
        """Whether log segments stay after the engine no longer needs them: for audits, or until the history and the
        stream have read them.
        """
        return self.raft.archive_log or self.history.enabled or self.streams.enabled

    @property
    def engine_socket(self) -> Path:
        """The Unix socket between the engine and this node's gateways."""
        return self.data_path / "engine.sock"

    def address(self, node_id: str) -> NodeAddress:
        """Return the addresses of a node.

        Raises:
            KeyError: the node is unknown.
        """
        for node in self.nodes:
            if node.node_id == node_id:
                return node
        raise KeyError(node_id)
