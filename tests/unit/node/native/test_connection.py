"""A connection that could not be made leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cluster_directory import ClusterDirectory
from node.deployment.setup import initialise
from node.errors import RequestFailed
from node.native.connection import NativeConnection
from node.native.protocol import FailCode, Failed, frame
from node.tls import pki


@pytest.fixture
def layout(tmp_path: Path) -> ClusterDirectory:
    """Certificates of a node."""
    initialise(tmp_path / "c", 1)
    return ClusterDirectory(tmp_path / "c")


@pytest.fixture
def refusing(layout: ClusterDirectory) -> Iterator[str]:
    """The address of a node that refuses the greeting and leaves it to the client to close."""
    context = pki.server_context(layout.configs["n1"], require_client_cert=False)
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with context.wrap_socket(connection, server_side=True) as channel:
            channel.recv(1 << 16)
            channel.sendall(frame(Failed(0, FailCode.UNAUTHORIZED, "passphrase: invalid")))
            over.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


def test_a_refused_greeting_leaves_no_open_socket(layout: ClusterDirectory, refusing: str) -> None:
    """The event loop of a command ends at once, so a connection that is still being closed would never be."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        with pytest.raises(RequestFailed, match="passphrase"):
            asyncio.run(NativeConnection.open(refusing, tls=layout.tls()))
        gc.collect()
    assert [str(each.message) for each in seen if each.category is ResourceWarning] == []
