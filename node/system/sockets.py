"""Addresses of sockets: "host:port", and Unix sockets in deep directories.

The address of a Unix socket holds about 107 bytes, and the path of a data directory may be longer. Linux can reach such
a socket through an open descriptor of its directory.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATH_MAX = 100


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Yield a name for `path` that is short enough for a socket's address. It is valid inside the block.

    Raises:
        OSError: the directory does not exist.
    """
    if len(os.fsencode(path)) <= PATH_MAX:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


@contextmanager
def listening(key: str, address: str) -> Iterator[None]:
    """Let an error of the block, which listens on an address, name the setting and the address: a name that does not resolve
    has neither in its error.

    Raises:
        OSError: the address cannot be listened on.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{key} {address}: {error.strerror or error}") from error


def is_taken(address: str) -> bool:
    """Return whether a process listens on an address of this machine. Processes of one user can share a port without
    noticing, if each asks for that, so this is asked before the first of them listens.
    """
    host, port = host_and_port(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
            trial.bind(place)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def host_and_port(address: str) -> tuple[str, int]:
    """Return the parts of a valid "host:port". An IPv6 address loses its brackets.

    >>> host_and_port("[::1]:80")
    ('::1', 80)

    Raises:
        ValueError: the port is not a number.
    """
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def host_of(address: str) -> str:
    """Return the host of a valid "host:port", without the brackets of an IPv6 address."""
    return address.rpartition(":")[0].strip("[]")
