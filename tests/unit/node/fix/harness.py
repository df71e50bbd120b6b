"""A FIX server over a real engine in this process, and a client that speaks FIX through `simplefix`."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import simplefix

from node.errors import RequestFailed
from node.fix.process import build
from node.fix.server import FixServer
from node.fix.wire import timestamp
from node.native.protocol import FailCode
from statemachine.commands import AnyCommand, Deposit, OpenAccount, PlaceOrder, PutApiKey, PutCurrency, PutProduct
from statemachine.events import AnyEvent, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import OrderType, Side
from tests.unit.node.gateway.harness import SECRET, FakeBackend, config

DEADLINE = 10.0
PRODUCT = "BTC-USD"
HEADER = (43, 97, 122)
"""Fields of the header that a test may give with those of the body."""
Fields = dict[int, str]


class FixBackend(FakeBackend):
    """Serves report streams as an engine does: until the connection ends."""

    idle_s = 0.001

    @contextlib.asynccontextmanager
    async def replay(self, product_id: str, from_sequence: int) -> AsyncIterator[AsyncIterator[list[AnyEvent]]]:
        if "/" in product_id and self.engine.stream(product_id) is None:
            raise RequestFailed(FailCode.NOT_FOUND, "no such stream")
        async with super().replay(product_id, from_sequence) as stream:
            yield stream


def exchange(backend: FixBackend | None = None) -> FixBackend:
    """BTC-USD (8 and 2 digits), and alice and bob with money and a key each."""
    backend = backend or FixBackend()
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, "usd", "USD", 2),
        PutCurrency(OPERATOR, "btc", "BTC", 8),
        PutProduct(OPERATOR, "p", PRODUCT, "BTC", "USD", 100, 1_000_000, 1_000_000, AMOUNT_MAX, 1_000, 2_000),
    ]
    for name in ("alice", "bob"):
        commands += [
            OpenAccount(OPERATOR, f"o-{name}", name),
            PutApiKey(OPERATOR, f"k-{name}", f"{name}-key", name, SECRET, f"{name}'s passphrase", 3),
            Deposit(name, f"usd-{name}", "USD", 10**12),
            Deposit(name, f"btc-{name}", "BTC", 10**12),
        ]
    assert not [outcome for outcome in backend.apply(*commands) if isinstance(outcome, Rejected)]
    return backend


def trade_with(backend: FixBackend, side: Side, price: int, size: int, name: str = "") -> None:
    """Place an order of bob that does not come over FIX."""
    backend.apply(
        PlaceOrder("bob", f"bob-{name or time.time_ns()}", PRODUCT, side, OrderType.LIMIT, price, size, client_oid=name)
    )


@dataclass
class Client:
    """A client's end. It numbers its messages, and keeps what it gets."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    key: str = "alice-key"
    target: str = "QUORUMBOOK"
    number: int = 1
    got: list[Fields] = field(default_factory=list)
    _parser: simplefix.FixParser = field(default_factory=lambda: simplefix.FixParser(allow_empty_values=True))

    def encode(self, kind: str, *fields: tuple[int, object], number: int | None = None, **header: str) -> bytes:
        """Encode a message with this number, or the next one."""
        message = simplefix.FixMessage()
        message.append_pair(8, header.get("begin", "FIXT.1.1"))
        message.append_pair(35, kind)
        message.append_pair(49, header.get("sender", self.key))
        message.append_pair(56, header.get("target", self.target))
        message.append_pair(34, str(self.number if number is None else number))
        message.append_pair(52, header.get("time", timestamp(time.time_ns())))
        if number is None:
            self.number += 1
        for tag, value in sorted(fields, key=lambda field: field[0] not in HEADER):
            message.append_pair(tag, str(value))
        encoded: bytes = message.encode()
        return encoded

    def send(self, kind: str, *fields: tuple[int, object], number: int | None = None, **header: str) -> None:
        self.writer.write(self.encode(kind, *fields, number=number, **header))

    def logon(
        self, *more: tuple[int, object], reset: bool = True, heartbeat: int = 30, secret: str = SECRET, **over: Any
    ) -> None:
        """Send a signed Logon."""
        if reset:
            self.number = 1
        now = over.pop("time", timestamp(time.time_ns()))
        passphrase = over.pop("passphrase", f"{self.key.removesuffix('-key')}'s passphrase")
        signed = "\x01".join((now, "A", str(self.number), self.key, self.target, passphrase))
        mac = base64.b64encode(hmac.digest(base64.b64decode(secret), signed.encode(), "sha256")).decode()
        fields: list[tuple[int, object]] = [(98, 0), (108, heartbeat), (553, self.key), (554, passphrase)]
        fields += [(95, len(mac)), (96, mac), (1137, 9)]
        if reset:
            fields.append((141, "Y"))
        self.send("A", *fields, *more, time=now, **over)

    async def next(self, kind: str = "", deadline: float = DEADLINE) -> Fields:
        """Return the next message, or the next one of a type. Raises EOFError at the end."""
        async with asyncio.timeout(deadline):
            while True:
                message = self._parser.get_message()
                if message is None:
                    data = await self.reader.read(65_536)
                    if not data:
                        raise EOFError
                    self._parser.append_buffer(data)
                    continue
                fields = {int(tag): value.decode() for tag, value in reversed(message.pairs)}
                self.got.append(fields)
                if not kind or fields[35] == kind:
                    return fields

    async def end(self) -> list[Fields]:
        """Return all messages until the connection ends."""
        found: list[Fields] = []
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                found.append(await self.next())
        return found

    def order(self, name: str, side: str = "1", price: str = "100", size: str = "0.05", *more: tuple[int, object]) -> None:
        """Send a limit order."""
        self.send("D", (11, name), (55, PRODUCT), (54, side), (40, 2), (44, price), (38, size), *more)


@dataclass
class Served:
    """A server on loopback."""

    backend: FixBackend
    server: FixServer
    port: int
    _clients: list[Client] = field(default_factory=list)

    async def connect(self, key: str = "alice-key", target: str = "QUORUMBOOK") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        client = Client(reader, writer, key, target)
        self._clients.append(client)
        return client

    async def logged_on(
        self, key: str = "alice-key", target: str = "QUORUMBOOK", *more: tuple[int, object], **how: Any
    ) -> Client:
        """Return a client that is logged on."""
        client = await self.connect(key, target)
        client.logon(*more, **how)
        answer = await client.next()
        assert answer[35] == "A", answer
        return client

    def close(self) -> None:
        for client in self._clients:
            client.writer.close()


@contextlib.asynccontextmanager
async def serving(backend: FixBackend | None = None) -> AsyncIterator[Served]:
    """Run a node's FIX server on the backend. Several may share one, as the nodes of a cluster share a state."""
    backend = backend or exchange()
    server = build(config(), backend)
    port = await server.start("127.0.0.1", 0, None)
    served = Served(backend, server, port)
    try:
        yield served
    finally:
        served.close()
        await server.close()
        await server.feeds.close()
