"""Ports on loopback for a test's servers."""

from __future__ import annotations

import socket
from random import Random

LOWEST, HIGHEST, APART = 10_000, 32_000, 50
"""Below those that Linux gives to outgoing connections, of which there are always some; and enough apart for a node's
servers.
"""


def free_port() -> int:
    """A port on which nobody listens at this moment, nor on the `APART` - 1 behind it."""
    for port in Random().sample(range(LOWEST, HIGHEST, APART), 50):
        if all(_is_free(port + offset) for offset in range(APART)):
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
