"""The addresses and keys of a cluster, from the directory that `quorumbook init` made."""

from __future__ import annotations

import ssl
from pathlib import Path

from loadtest.market import Trader
from node.cluster_directory import ClusterDirectory
from node.keys.credentials import Credentials
from node.native.client import ClusterClient
from node.native.connection import NativeConnection


class ClusterAccess:
    """The addresses and keys of a cluster whose nodes all have their directories on this machine. The constructor and
    `reload` read the configurations.

    Raises:
        DirectoryError, ConfigError: the directory has no cluster, or a configuration is invalid.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.reload()
        self.admin = self.layout.admin()

    def reload(self) -> None:
        """Read the directory again, after nodes were added or removed. Raises like the constructor."""
        self.layout = ClusterDirectory(self.directory)
        here = self.layout.node_ids
        self.natives = {node_id: self.layout.addresses[node_id] for node_id in here}
        self.https = {node_id: self.layout.http_urls[node_id] for node_id in here}

    def tls(self) -> ssl.SSLContext:
        """Return a TLS context for a client. It trusts the nodes of this cluster only, and sends no certificate."""
        return self.layout.tls()

    def client(self, credentials: Credentials | None = None, deadline: float = 8.0) -> ClusterClient:
        """Return a client that follows the leader. It acts for the operator unless `credentials` are given."""
        return self.layout.client(credentials, deadline=deadline, client="load test")

    def trader_client(self, person: Trader, deadline: float = 8.0) -> ClusterClient:
        """Return a client that acts for a trader."""
        return self.client(Credentials(person.key_id, person.secret, person.passphrase), deadline)

    async def connect(self, node_id: str, credentials: Credentials | None = None) -> NativeConnection:
        """Open a connection to one node.

        Raises:
            ConnectionLost, RequestFailed: the node does not answer, or refuses the greeting.
        """
        tls, key = self.tls(), credentials or self.admin
        return await NativeConnection.open(self.natives[node_id], tls=tls, credentials=key, client="load test")
