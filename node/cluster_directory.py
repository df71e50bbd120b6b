"""A cluster as `quorumbook init` lays it out: the places of its nodes, and how clients reach it.

DIR/ca.pem  DIR/admin.json  DIR/n1/node.toml  DIR/n1/data/  DIR/n2/...
"""

from __future__ import annotations

import shlex
import ssl
from pathlib import Path

import msgspec

from node.config.file import load
from node.config.settings import NodeAddress, NodeConfig
from node.data_directory import identity
from node.errors import ConfigError, DirectoryError
from node.keys.credentials import Credentials
from node.native.client import ClusterClient
from node.system import files
from node.tls import pki
from snapshots.abi import ABI as ABI

REMOVED = "removed-nodes"
"""File in a cluster's directory with the ids of removed nodes, one a line."""


class KeyFile(msgspec.Struct, frozen=True):
    """An API key in a file. `account_id` is the account of the key; it is empty for the operator's key.

    `nodes` (node id to native address "host:port") and `ca` (the cluster's authority as PEM) make the file enough to
    reach the cluster from any machine. Files of older versions have neither.
    """

    key_id: str
    secret: str
    passphrase: str
    account_id: str = ""
    nodes: dict[str, str] = {}
    ca: str = ""

    def __repr__(self) -> str:
        """Omit the secrets, because a repr ends up in logs."""
        return f"KeyFile(key_id={self.key_id!r}, account_id={self.account_id!r})"

    def credentials(self) -> Credentials:
        """Return the key for a client."""
        return Credentials(self.key_id, self.secret, self.passphrase)


class Access(msgspec.Struct, frozen=True):
    """How a client reaches a cluster: native addresses by node id, the trusted authority (PEM), and the signing key."""

    addresses: dict[str, str]
    authority: str
    credentials: Credentials

    def tls(self) -> ssl.SSLContext:
        """Make a client's TLS context, which trusts this cluster's nodes only and presents no certificate."""
        return pki.trusting_context(self.authority)

    def client(self, *, deadline: float = 8.0, client: str = "cli") -> ClusterClient:
        """Make a client that follows the leader."""
        return ClusterClient(
            self.addresses, tls=self.tls(), credentials=self.credentials, deadline=deadline, client=client, abi=ABI
        )


class ClusterDirectory:
    """The directory of a cluster. It reads every node's configuration once, at construction. Certificates may have
    expired, because the directory is needed to renew them.

    Args:
        directory: what `quorumbook init` made.
        leave_out_invalid: leave out a node with an invalid configuration, and keep the error in `invalid`.

    Attributes:
        invalid: the errors of the nodes that were left out.

    Raises:
        DirectoryError: there is no node in it.
        ConfigError: a node's configuration is invalid; with `leave_out_invalid`, every node's.
        DataDirectoryError: it cannot be read whether a node was removed.
    """

    def __init__(self, directory: Path, *, leave_out_invalid: bool = False) -> None:
        self.directory = directory.resolve()
        paths = sorted(self.directory.glob("*/node.toml"))
        if not paths and (self.directory / "admin.json").exists():
            key = shlex.quote(str(directory / "admin.json"))
            raise DirectoryError(
                f"{directory}: the directories of its nodes are not here (expected {directory}/n1/node.toml). Commands that need no "
                f"files of nodes work with the operator's key: --cluster {key}"
            )
        if not paths:
            raise DirectoryError(
                f"{directory}: no node in it (expected {directory}/n1/node.toml); make one with: "
                f"quorumbook init {shlex.quote(str(directory))}"
            )
        self.config_paths: dict[str, Path] = {}
        self.configs: dict[str, NodeConfig] = {}
        self.invalid: list[ConfigError] = []
        for path in paths:
            try:
                config = load(path, dates=False)
            except ConfigError as error:
                if not leave_out_invalid:
                    raise
                self.invalid.append(error)
                continue
            self.config_paths[config.node_id] = path
            self.configs[config.node_id] = config
        if not self.configs:
            raise self.invalid[0]
        self.removed = noted_removed(self.directory) | {
            node_id for node_id, config in self.configs.items() if identity.stage_of(config) is identity.Stage.REMOVED
        }

    def note_removed(self, node_id: str) -> None:
        """Record that a node was removed from the cluster: an id is used once."""
        noted = noted_removed(self.directory)
        if node_id not in noted:
            files.replace(self.directory / REMOVED, "".join(f"{each}\n" for each in sorted(noted | {node_id})).encode())
            self.removed.add(node_id)

    @property
    def node_ids(self) -> list[str]:
        """The nodes in this directory, sorted, without removed ones."""
        return [node_id for node_id in self.configs if node_id not in self.removed]

    @property
    def cluster_id(self) -> str:
        """The cluster's id."""
        return self.like.cluster_id

    @property
    def addresses(self) -> dict[str, str]:
        """The native address "host:port" of every node that the configurations know."""
        return {node.node_id: node.native for node in self._nodes()}

    @property
    def http_urls(self) -> dict[str, str]:
        """The public HTTP URL of every node that the configurations know."""
        return {node.node_id: node.http for node in self._nodes()}

    @property
    def like(self) -> NodeConfig:
        """The configuration of one node of the cluster. Except for addresses, all nodes have the same settings."""
        return self.configs[(self.node_ids or list(self.configs))[0]]

    def _nodes(self) -> list[NodeAddress]:
        """Return the addresses of the nodes: from each node's own file, or from the others' files for nodes on other
        machines.
        """
        active = [self.configs[node_id] for node_id in self.node_ids]
        named = {node.node_id: node for config in active for node in config.nodes}
        named.update((config.node_id, config.address(config.node_id)) for config in active)
        return [node for node_id, node in sorted(named.items()) if node_id not in self.removed]

    def log_file(self, node_id: str) -> Path:
        """Return the log file of a node that runs in the background."""
        return self.config_paths[node_id].parent / "node.log"

    def tls(self) -> ssl.SSLContext:
        """Make a client's TLS context, which trusts this cluster's nodes only and presents no certificate."""
        return pki.client_context(self.like, with_cert=False)

    def admin(self) -> Credentials:
        """Return the operator's key from `admin.json` or, if that file is not here, from a node's configuration.

        Raises:
            DirectoryError: `admin.json` is not a key file.
        """
        path = self.directory / "admin.json"
        if path.exists():
            return read_key(path).credentials()
        admin = self.like.admin
        return Credentials(admin.key_id, admin.secret, admin.passphrase)

    def access(self, credentials: Credentials | None = None) -> Access:
        """Return how a client reaches the cluster. It acts as the operator unless `credentials` are given."""
        authority = self.like.path(self.like.tls.ca).read_text(encoding="ascii")
        return Access(self.addresses, authority, credentials or self.admin())

    def client(self, credentials: Credentials | None = None, *, deadline: float = 8.0, client: str = "cli") -> ClusterClient:
        """Make a client that follows the leader. It acts as the operator unless `credentials` are given."""
        return ClusterClient(
            self.addresses, tls=self.tls(), credentials=credentials or self.admin(), deadline=deadline, client=client, abi=ABI
        )


def read_key(path: Path) -> KeyFile:
    """Read an API key from a JSON file with `key_id`, `secret` and `passphrase`.

    Raises:
        DirectoryError: the file is missing or has other contents.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=KeyFile)
    except OSError as error:
        raise DirectoryError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DirectoryError(f"{path}: expected JSON with key_id, secret and passphrase: {error}") from error


def noted_removed(directory: Path) -> set[str]:
    """Return the nodes that were removed from the cluster in a directory. Their own directories may be gone, and the other
    nodes' configurations still name them.
    """
    path = directory / REMOVED
    return set(path.read_text(encoding="utf-8").split()) if path.exists() else set()
