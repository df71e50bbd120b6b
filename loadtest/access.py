"""How to reach a cluster, read from the directory that `quorumbook init` made: addresses, the certificate authority, the operator's key."""

from __future__ import annotations

import ssl
from pathlib import Path

from loadtest.errors import LoadTestError
from loadtest.market import Trader
from node import pki
from node.client import ClusterClient
from node.config import NodeConfig, load
from node.connection import NativeConnection
from node.credentials import Credentials


class Access:
    """Addresses and keys of one cluster. Reads the nodes' configurations once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configs: dict[str, NodeConfig] = {}
        for path in sorted(directory.glob("*/node.toml")):
            config = load(path)
            self.configs[config.node_id] = config
        if not self.configs:
            raise LoadTestError(f"{directory}: no node.toml in its folders; `quorumbook init {directory}` makes a cluster")
        first = next(iter(self.configs.values()))
        self.natives = {node.node_id: node.native for node in first.nodes}
        self.https = {node.node_id: node.http for node in first.nodes}
        self.rafts = {node.node_id: node.raft for node in first.nodes}
        self.admin = Credentials(first.admin.key_id, first.admin.secret, first.admin.passphrase)
        self._config = first

    def tls(self) -> ssl.SSLContext:
        """A client's TLS context that trusts this cluster's nodes only, and shows no certificate."""
        return pki.client_context(self._config, with_cert=False)

    def client(self, credentials: Credentials | None = None, deadline: float = 8.0) -> ClusterClient:
        """A client that follows the leader; for the operator unless `credentials` are given."""
        return ClusterClient(self.natives, tls=self.tls(), credentials=credentials or self.admin, deadline=deadline)

    def trader_client(self, person: Trader, deadline: float = 8.0) -> ClusterClient:
        """A client that acts for a trader."""
        return self.client(Credentials(person.key_id, person.secret, person.passphrase), deadline)

    async def connect(self, node_id: str, credentials: Credentials | None = None) -> NativeConnection:
        """A connection to one node.

        Raises:
            ConnectionLost, OSError: it is not there.
        """
        return await NativeConnection.open(
            self.natives[node_id], tls=self.tls(), credentials=credentials or self.admin, client="load test"
        )
