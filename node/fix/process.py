"""`python -m node.fix.process --config node.toml`: the FIX server of a node, until SIGTERM.

The supervisor starts it if `fix.listen` is set. FIX sessions are few, long and busy; in a separate process they do not
delay HTTP requests (ADR 0048). The process has no state of its own: if it fails, its clients log on again, at this node
or another one.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click

from node.config.settings import NodeConfig
from node.config.start import config_option, serve
from node.fix.server import FixServer
from node.gateway.auth import Authenticator, Revocation
from node.gateway.backend import Backend
from node.gateway.catalogue import Catalogue
from node.gateway.feeds import Feeds
from node.gateway.metrics import Metrics
from node.gateway.process import backend_of
from node.keys.encryption import ClusterKeys
from node.system.counts import counts_file, keep_writing
from node.system.sockets import host_and_port, listening
from node.tls.certificates import CertificateWatch
from node.tls.pki import server_context

log = logging.getLogger(__name__)


def build(config: NodeConfig, backend: Backend) -> FixServer:
    """Return the FIX server of a node, which uses `backend`."""
    catalogue = Catalogue(backend)
    feeds = Feeds(backend, catalogue, Metrics(config.node_id, 0))
    auth = Authenticator(backend, config.admin, ClusterKeys(config.cluster_key_path), config.fix.logon_age_max)
    return FixServer(config.fix, backend, catalogue, feeds, auth)


async def run(config: NodeConfig, stop: asyncio.Event) -> None:
    """Serve FIX until `stop` is set."""
    server = build(config, backend_of(config, redirect=False))  # FIX has no redirect
    revocation = Revocation(server.auth, server.connections)
    watching = asyncio.create_task(CertificateWatch(config).run())
    counting = asyncio.create_task(keep_writing(counts_file(config.data_path, "fix"), server.counts.families))
    try:
        with listening("fix.listen", config.fix.listen):
            await server.start(*host_and_port(config.fix.listen), server_context(config, require_client_cert=False))
        log.info("the FIX server of %s listens on %s", config.node_id, config.fix.listen)
        await stop.wait()
    finally:
        watching.cancel()
        counting.cancel()
        await server.close()
        await revocation.close()
        await server.feeds.close()
        await server.backend.close()


@click.command()
@config_option
def main(path: Path) -> None:
    """Serve FIX for one node."""
    serve(path, "fix", run)


if __name__ == "__main__":
    main()
