"""A node's configuration: one TOML file, frozen and checked once, at start.

Paths in the file are relative to the file. Times are seconds. `quorumbook init` writes such files, `file.load` reads
them; `docs/operations.md` explains every key.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

NODE_COUNTS = (1, 3, 5)
"""How many nodes a cluster begins with. Later membership changes pass through even numbers."""

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
    """`[snapshot]`: when snapshots are taken. `every_seconds` of 0: never by time."""

    on_stop: bool = True
    every_commands: int = 200_000
    every_seconds: float = 3600.0
    every_bytes: int = 64 * 1024 * 1024
    keep: int = 2


class StartConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """`[start]`: what a node begins with. `source` is the key `from`; `dataset` is a directory, for a cluster that has
    never run.
    """

    source: str = "auto"
    dataset: str = ""


RENAMED = {
    "raft.snapshot_entries": "snapshot.every_commands",
    "raft.snapshot_bytes": "snapshot.every_bytes",
    "raft.snapshots_kept": "snapshot.keep",
}
"""Keys of older files, and what stands in their place."""


class NativeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[native]`: the engine's own protocol over TLS.

    `key_rate`: units of work a second for what one API key asks for but commands, `account_rate`: for the commands of
    one account, wherever they come from. A unit is the work of one command (see `node.budget`). 0: no limit.
    """

    listen: str
    queue_max: int = 20_000
    batch_commands_max: int = 500
    events_kept: int = 100_000
    key_rate: float = 1000.0
    account_rate: float = 5000.0


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[http]`: REST and WebSocket. `public_url` is what other nodes tell clients; TLS when `tls` is true.

    `followers`: "forward" commands to the leader, or "redirect" the client there. `key_rate`, `address_rate`: requests
    a second, 0: no limit. `trusted_proxies`: networks of proxies whose word is taken for where a request comes from.
    `metrics_from`: networks that may read /metrics, beside this machine; none: everybody may.
    """

    listen: str
    public_url: str
    gateways: int = 1
    tls: bool = False
    deadline: float = 8.0
    signature_age_max: float = 30.0
    followers: str = "forward"
    key_rate: float = 1000.0
    address_rate: float = 1000.0
    trusted_proxies: tuple[str, ...] = ()
    metrics_from: tuple[str, ...] = ()


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[tls]`: PEM files. The certificate's subject alternative name "quorumbook-node-<node_id>" says who a node is."""

    ca: str
    certificate: str
    key: str


class AdminConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[admin]`: the operator's API key, the same on every node; every other key lives in the replicated state.

    `addresses`: networks that it may be used from; none: any.
    """

    key_id: str
    secret: str
    passphrase: str
    addresses: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the secrets: a repr ends up in logs."""
        return f"AdminConfig(key_id={self.key_id!r})"


class HistoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[history]`: the market database of this node. `database` is a URL of SQLAlchemy's; empty: SQLite in the data
    directory.

    `archive_days`: days that stay in the database before they go to Parquet files, once a day; 0: all of them stay.
    `log_bytes`: so much of the log that this history has read stays on disk for those of other nodes, the newest of it.
    """

    enabled: bool = False
    database: str = ""
    archive_days: int = 0
    log_bytes: int = 1024 * 1024 * 1024


class FixConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[fix]`: sessions of FIX over TLS. `listen` empty: none are served.

    `key_rate`: messages a second of one API key, 0: no limit. `logon_age_max`: by how many seconds a Logon's
    SendingTime may differ from our clock.
    """

    listen: str = ""
    key_rate: float = 1000.0
    logon_age_max: float = 30.0


class StreamsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[streams]`: every event of the exchange to a broker, and orders in from a topic.

    `url`: kafka://host:port,host:port or nats://host:port; empty: no stream. `prefix`: of the topics' names. `format`:
    "json" or "msgpack". `partitions`, `replication`: of topics that the stream makes. `takeover`: seconds without
    progress of another node's stream after which this one goes on in its place. `orders`: topic with orders to place;
    empty: none. `options`: settings of the broker's client library, "name=value" each.
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
        """Without the options: one of them may be a password."""
        return f"StreamsConfig(url={self.url!r}, prefix={self.prefix!r})"


class TracingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[tracing]`: traces of orders for OpenTelemetry. `endpoint`: of OTLP over HTTP; empty: none. `ratio`: share of
    commands that are traced.
    """

    endpoint: str = ""
    ratio: float = 0.01


class NodeAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[nodes]]`: where each node of the cluster is, this one included. `http` is its public URL."""

    node_id: str
    raft: str
    native: str
    http: str


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole file. `directory` is where the file lies; it is not a key of the file.

    `log_bytes`, `log_files`: when node.log, which `quorumbook cluster up` has a node write, is renamed, and how many
    older ones stay.
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
        """A path of the file, made absolute."""
        return (Path(self.directory) / name).resolve()

    @property
    def data_path(self) -> Path:
        """The data directory."""
        return self.path(self.data_dir)

    @property
    def cluster_key_path(self) -> Path:
        """The file of cluster keys, under which API keys are encrypted."""
        return self.path(self.cluster_key)

    @property
    def history_path(self) -> Path:
        """Where the history keeps its files."""
        return self.data_path / "history"

    @property
    def streams_path(self) -> Path:
        """Where the stream keeps its files."""
        return self.data_path / "streams"

    @property
    def keeps_log(self) -> bool:
        """Whether log segments are kept that the engine no longer needs: for audits, or until the history and the
        stream have read them.
        """
        return self.raft.archive_log or self.history.enabled or self.streams.enabled

    @property
    def engine_socket(self) -> Path:
        """The Unix socket on which the engine speaks to this node's gateways."""
        return self.data_path / "engine.sock"

    def address(self, node_id: str) -> NodeAddress:
        """Where a node is. Raises KeyError for an unknown one."""
        for node in self.nodes:
            if node.node_id == node_id:
                return node
        raise KeyError(node_id)
