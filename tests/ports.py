"""Ports on loopback for the servers of a test."""

from __future__ import annotations

import os
import socket

from loadtest.ground import PORT_SHARE, PORTS_APART, first_ports


def take_share() -> None:
    """If pytest runs in several processes, choose ports from this process's share."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        os.environ[PORT_SHARE] = f"{worker.removeprefix('gw')}/{os.environ['PYTEST_XDIST_WORKER_COUNT']}"


def free_port() -> int:
    """Return a port on which nothing listens at this moment, nor on the `PORTS_APART` - 1 ports after it."""
    for port in first_ports():
        if all(_is_free(port + offset) for offset in range(PORTS_APART)):
            return port
    raise AssertionError("no free port on loopback")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
