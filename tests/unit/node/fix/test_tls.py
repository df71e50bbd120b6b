"""The port speaks TLS. A client without a key that only keeps a connection open uses a place of its address, and only
for a moment.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from node.config.file import load
from node.deployment.setup import initialise
from node.fix import server as fix_server
from node.fix.process import build
from node.tls.pki import server_context
from tests.unit.node.fix.harness import Client, exchange
from tests.waiting import until


async def test_a_client_logs_on_over_tls_and_a_silent_one_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fix_server, "HANDSHAKE_TIMEOUT", 0.5)
    config = load(initialise(tmp_path / "c", 1, base_port=9000, fix=True)[0])
    server = build(config, exchange())
    port = await server.start("127.0.0.1", 0, server_context(config, require_client_cert=False))
    try:
        silent_reader, silent = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: len(server.connections) == 1)
        trusting = ssl.create_default_context(cafile=str(tmp_path / "c" / "ca.pem"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        client = Client(reader, writer)
        client.logon()
        assert (await client.next())[35] == "A"
        client.order("one")
        assert (await client.next())[150] == "0"
        assert await silent_reader.read() == b""
        await until(lambda: len(server.connections) == 1)
        client.send("5")
        assert (await client.next())[35] == "5"
        for each in (silent, writer):
            each.close()
        await until(lambda: not server.connections)
    finally:
        await server.close()
