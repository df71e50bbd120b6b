"""The cluster of a test: it is created in a directory, runs on loopback, and is stopped at the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from shlex import quote

from loadtest.errors import LoadTestError
from node.cluster_directory import ClusterDirectory
from node.config.file import Setting, change_settings
from node.deployment.local_cluster import LocalCluster
from node.deployment.setup import initialise
from node.system.sockets import host_and_port

MARK = "made-by-loadtest"
"""A marker file: a directory with it may be deleted and created again."""

READY_SECONDS = 40.0
PORTS_APART = 100
TRIES = 60
PORT_RANGES = 220
LOWEST_PORT = 10_000
"""The range of first ports. All ports are below those that the system assigns."""

USUAL_BASE = 7000
"""The first port of `quorumbook init`."""

PORT_SHARE = "QUORUMBOOK_PORT_SHARE"
"""The environment variable that names the share of the port ranges which this process and its children take, as
`number/count`: `0/2` and `1/2` never choose the same range. Tests that run in several processes set it.
"""


class Ground:
    """A cluster directory and its nodes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = LocalCluster(directory)

    async def start(self, seconds: float = READY_SECONDS) -> None:
        """Start all nodes and wait until they serve. Raises `NodeStartError`."""
        await asyncio.to_thread(self.cluster.start)
        await self.cluster.wait_ready(seconds)

    def stop(self) -> None:
        """Stop the running nodes; kill those that do not stop in time."""
        self.cluster.stop(seconds=10.0)


def prepare(
    directory: Path,
    *,
    nodes: int = 3,
    usual_ports: bool = False,
    https: bool = False,
    settings: Mapping[str, Setting] | None = None,
) -> Ground:
    """Create a cluster in `directory`, without starting it. The nodes keep old log segments for the audit.

    `settings` are keys of the configuration by dotted name, such as "snapshot.every_commands", for every node. With
    `https` the gateways serve HTTPS with the nodes' certificates. With `usual_ports` the ports are those that a person
    expects if nothing listens there, else any that are free.

    Raises:
        LoadTestError: the directory holds something else, or a cluster that still runs, or no free ports were found.
    """
    for base in first_ports(usual_ports):
        _clear(directory)
        initialise(directory, nodes, base_port=base, https=https, cluster_id=f"loadtest-{os.getpid()}")
        (directory / MARK).touch()
        if all(_is_free(address) for address in _addresses(directory)):
            for path in sorted(directory.glob("*/node.toml")):
                change_settings(path, {"raft.archive_log": True, **(settings or {})})
            return Ground(directory)
    raise LoadTestError("no free range of ports on the loopback interface")


def place_for(directory: Path, make: Callable[[int], object]) -> None:
    """Call `make` with the first port of a range, so that it creates a cluster in `directory`. If one of its ports is
    taken, call it again with another range.

    Raises:
        LoadTestError: no free ports were found.
    """
    for base in first_ports():
        if directory.exists():
            shutil.rmtree(directory)
        make(base)
        if all(_is_free(address) for address in _addresses(directory)):
            return
    raise LoadTestError("no free range of ports on the loopback interface")


def first_ports(usual_first: bool = False) -> Iterator[int]:
    """Yield the first ports of ranges of `PORTS_APART` ports, in random order, from this process's share of them."""
    if usual_first:
        yield USUAL_BASE
    number, count = map(int, os.environ.get(PORT_SHARE, "0/1").split("/"))
    places = range(number, PORT_RANGES, count)
    for place in Random().sample(places, min(TRIES, len(places))):
        yield LOWEST_PORT + place * PORTS_APART


def _clear(directory: Path) -> None:
    """Remove an earlier ground from the directory. Raises LoadTestError if the directory holds something else, or nodes
    run in it.
    """
    if not directory.exists():
        directory.parent.mkdir(parents=True, exist_ok=True)
        return
    if not any(directory.iterdir()):
        return
    if not (directory / MARK).exists():
        raise LoadTestError(f"{directory} holds something else; name another directory")
    if running := LocalCluster(directory).running():
        raise LoadTestError(
            f"{', '.join(running)} still run in {directory}; end them with: quorumbook cluster down --cluster {quote(str(directory))}"
        )
    shutil.rmtree(directory)


def _addresses(directory: Path) -> list[str]:
    """Return the addresses on which the nodes listen."""
    layout = ClusterDirectory(directory)
    return [
        address
        for config in layout.configs.values()
        for address in (config.raft.listen, config.native.listen, config.http.listen)
    ]


def _is_free(address: str) -> bool:
    """Return whether an address can be bound."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(host_and_port(address))
        except OSError:
            return False
    return True
