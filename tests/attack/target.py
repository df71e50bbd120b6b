"""The attacker's means: the addresses of the nodes, a few keys, and the protocols that any client may use."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from loadtest.access import ClusterAccess
from loadtest.market import Trader, traders
from node.errors import ConnectionLost, RequestFailed
from node.keys.credentials import Credentials, sign
from node.native.connection import NativeConnection, hello
from node.native.framing import FrameSplitter
from node.native.protocol import StatusQuery, frame
from statemachine.commands import CancelOrder

SEED = 11
HONEST = traders(2, SEED, "honest")
"""The honest trader, and a trader who only rests orders."""
ATTACKERS = traders(12, SEED, "mallory")
"""The attacker's accounts, each with a key that may view, trade and transfer."""

ATTACKER_HOST = os.environ.get("QUORUMBOOK_ATTACKER_HOST", "127.0.0.66")
"""The source address of the attacker's connections. A run in another network names an address there. The honest trader
and the nodes are at 127.0.0.1, as other people would be elsewhere.
"""


class Target:
    """A cluster as an attacker reaches it."""

    def __init__(self, directory: Path) -> None:
        self.access = ClusterAccess(directory)
        self.natives = self.access.natives
        self.https = self.access.https
        self.people = ATTACKERS
        self._ids = itertools.count()
        self._run = f"{time.time_ns():x}"

    def say(self, text: str) -> None:
        """Report a result of the attack. It is shown beside the verdict."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    @contextlib.contextmanager
    def report(self, what: str, counts: Mapping[Any, int]) -> Iterator[None]:
        """Report at the end of the attack what it counted."""
        try:
            yield
        finally:
            self.say(f"{what}: {dict(counts)}")

    async def everywhere(self, each: int, again: Callable[[str], Awaitable[None]], pause: float = 0.05) -> None:
        """Run `each` tasks for every node that call `again` in a loop. Errors of the network are ignored."""

        async def run(node_id: str) -> None:
            while True:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, aiohttp.ClientError):
                    await again(node_id)
                await asyncio.sleep(pause)

        await asyncio.gather(*(run(node_id) for node_id in self.natives for _ in range(each)))

    async def flood(self, leader: str, number: int, at_once: int, counts: Counter[str]) -> None:
        """Submit cancels of no order on one session, as fast as they are answered. It connects again when it is cut off."""
        account_id = self.people[number].account_id
        while True:
            try:
                connection = await self.connect(leader, number)
                while True:
                    try:
                        await connection.submit([CancelOrder(account_id, self.command_id(), 1) for _ in range(at_once)])
                        counts["applied"] += at_once
                    except RequestFailed as error:
                        counts[error.code.name] += 1
            except (ConnectionLost, RequestFailed, OSError) as error:
                counts[type(error).__name__] += 1
                await asyncio.sleep(0.1)

    def command_id(self) -> str:
        """Return a new command id."""
        return f"{self._run}.{next(self._ids)}"

    def credentials(self, number: int = 0) -> Credentials:
        """Return the key of one of the attacker's accounts."""
        person = self.people[number]
        return Credentials(person.key_id, person.secret, person.passphrase)

    async def leader(self) -> str:
        """Return the present leader."""
        while True:
            for node_id in self.natives:
                with contextlib.suppress(Exception):
                    connection = await self.access.connect(node_id)
                    status = await connection.query(StatusQuery())
                    await connection.close()
                    if status.leader_id:
                        return status.leader_id
            await asyncio.sleep(0.2)

    async def connect(self, node_id: str, number: int = 0) -> NativeConnection:
        """Open a session with one of the attacker's keys, with the project's own client."""
        return await self.access.connect(node_id, self.credentials(number))

    async def tcp(self, node_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a plain TCP connection to a node's native port, from the attacker's address."""
        host, port = self.native_address(node_id)
        return await asyncio.open_connection(host, port, local_addr=(ATTACKER_HOST, 0))

    async def tls(self, node_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a TLS connection to a node's native port, without a greeting."""
        host, port = self.native_address(node_id)
        return await asyncio.open_connection(host, port, ssl=self.access.tls(), local_addr=(ATTACKER_HOST, 0))

    async def session(self, node_id: str, number: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a greeted session with one of the attacker's keys, for any bytes. Raises ConnectionError if it is
        refused.
        """
        reader, writer = await self.tls(node_id)
        writer.write(frame(hello(self.credentials(number), "mallory", time.time())))
        if not await read_frame(reader):
            raise ConnectionError("the node closed the connection")
        return reader, writer

    def native_address(self, node_id: str) -> tuple[str, int]:
        """Return host and port of a node's native protocol."""
        host, _, port = self.natives[node_id].rpartition(":")
        return host, int(port)

    def http_address(self, node_id: str) -> tuple[str, int]:
        """Return host and port of a node's HTTP."""
        parts = urlsplit(self.https[node_id])
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def http(self) -> aiohttp.ClientSession:
        """Return a client for HTTP and WebSocket from the attacker's address, without a limit on connections. The
        caller closes it.
        """
        connector = aiohttp.TCPConnector(limit=0, local_addr=(ATTACKER_HOST, 0))
        return aiohttp.ClientSession(connector=connector)

    def client_tls(self) -> ssl.SSLContext:
        """Return a TLS context that trusts the cluster's nodes."""
        return self.access.tls()


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the body of the next frame; empty at the end."""
    splitter = FrameSplitter(64 * 1024 * 1024)
    try:
        head = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(head, "big"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    (found,) = splitter.feed(head + body)
    return found


def signed(person: Trader, method: str, target: str, body: Any = None) -> tuple[dict[str, str], bytes]:
    """Return headers and body of a signed request."""
    data = b"" if body is None else json.dumps(body).encode()
    timestamp = f"{time.time():.6f}"
    headers = {
        "CB-ACCESS-KEY": person.key_id,
        "CB-ACCESS-SIGN": sign(person.secret, timestamp, method, target, data),
        "CB-ACCESS-TIMESTAMP": timestamp,
        "CB-ACCESS-PASSPHRASE": person.passphrase,
        "Content-Type": "application/json",
    }
    return headers, data


async def forever() -> None:
    """Wait until the attack is over."""
    await asyncio.Event().wait()
