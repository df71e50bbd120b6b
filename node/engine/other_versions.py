"""Checks before a migration whether other nodes still run the previous version.

One cluster cannot use two ABIs. A node that migrated while the others run the previous version would be isolated, and
the cluster would lose its spare node unnoticed. The node therefore asks all reachable nodes first, and changes nothing
while one of them serves.
"""

from __future__ import annotations

import asyncio

from node.config.settings import NodeAddress, NodeConfig
from node.errors import ConnectionLost, RequestFailed
from node.migration.found import look
from node.native.connection import NativeConnection
from node.native.protocol import Welcome
from node.tls.pki import client_context
from snapshots.abi import ABI
from snapshots.errors import MigrationError

CHECK = "no other node runs the version before"


def check(config: NodeConfig) -> None:
    """Refuse to migrate while other nodes run on the ABI of this node's data.

    Raises:
        MigrationError: naming them. Nothing was changed.
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data cannot be trusted.
    """
    abi = look(config.data_path).abi
    if abi is None or abi == ABI:
        return
    running = [welcome for welcome in asyncio.run(_greetings(config)) if welcome.abi == abi]
    if running:
        names = ", ".join(f"{welcome.node_id} (version {welcome.software})" for welcome in running)
        raise MigrationError(
            CHECK,
            "",
            f"{names} would refuse this node once its data is migrated: two ABIs cannot be in one cluster. Stop all nodes, then start "
            "them with the new version (docs/migrations.md)",
        )


async def _greetings(config: NodeConfig) -> list[Welcome]:
    """Return the statuses of the other nodes that can be reached."""
    others = [node for node in config.nodes if node.node_id != config.node_id]
    found = await asyncio.gather(*(_greeting(config, node) for node in others))
    return [welcome for welcome in found if welcome is not None]


async def _greeting(config: NodeConfig, node: NodeAddress) -> Welcome | None:
    try:
        connection = await NativeConnection.open(node.native, tls=client_context(config), client=f"start of {config.node_id}")
    except (ConnectionLost, RequestFailed):
        return None
    welcome = connection.welcome
    await connection.close()
    return welcome if welcome.cluster_id == config.cluster_id else None
