"""`python -m node.gateway.process --config node.toml --worker 0`: one gateway process of a node, until SIGTERM.

The supervisor starts `http.gateways` of them. They share the port by SO_REUSEPORT.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from pathlib import Path

import click
import uvloop

from node.config.settings import NodeConfig
from node.config.start import config_option, serve
from node.gateway.app import Application
from node.gateway.backend import NodeBackend
from node.gateway.gateway import build
from node.native.client import ClusterClient
from node.system.sockets import host_and_port, listening
from node.tls.certificates import CertificateWatch
from node.tls.pki import client_context, server_context
from node.tracing import tracer_of
from snapshots.abi import ABI

log = logging.getLogger(__name__)

GC_YOUNG_MAX = 10_000
"""New objects that trigger a garbage collection: about those of a few hundred requests under way."""
SHUTDOWN_TIMEOUT = 2.0
"""Seconds in which requests under way may end after SIGTERM."""


def backend_of(config: NodeConfig, *, redirect: bool) -> NodeBackend:
    """Return the backend of a node, which reaches other nodes with the node's certificate. It needs a running event loop.
    With `redirect` a follower answers NotLeaderError instead of forwarding a command.
    """
    addresses = {node.node_id: node.native for node in config.nodes}
    cluster = ClusterClient(
        addresses, tls=client_context(config), deadline=config.http.deadline, client=f"gateway of {config.node_id}", abi=ABI
    )
    backend = NodeBackend(str(config.engine_socket), cluster, config.http.deadline, redirect=redirect)
    tracer = tracer_of(config, "gateway")
    backend.trace = tracer.gateway if tracer is not None else None
    return backend


async def run(config: NodeConfig, worker: int, stop: asyncio.Event) -> None:
    """Serve HTTP until `stop` is set."""
    backend = backend_of(config, redirect=config.http.followers == "redirect")
    app = Application(build(config, backend, worker))
    tls: ssl.SSLContext | None = server_context(config, require_client_cert=False) if config.http.tls else None
    watching = asyncio.create_task(CertificateWatch(config).run())
    try:
        with listening("http.listen", config.http.listen):
            await app.start(*host_and_port(config.http.listen), tls)
        _calm_collector()
        log.info("gateway %d of %s listens on %s", worker, config.node_id, config.http.listen)
        await stop.wait()
    finally:
        watching.cancel()
        await app.stop(SHUTDOWN_TIMEOUT)


def _calm_collector() -> None:
    """Exclude permanent objects from garbage collection, and run it less often. Most objects of a request are freed
    without it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_MAX, 20, 20)


@click.command()
@config_option
@click.option("--worker", type=int, default=0, help="Which of the node's gateways this is.")
def main(path: Path, worker: int) -> None:
    """Serve REST and WebSocket for one node."""
    serve(path, f"gateway-{worker}", lambda config, stop: run(config, worker, stop), uvloop.run)


if __name__ == "__main__":
    main()
