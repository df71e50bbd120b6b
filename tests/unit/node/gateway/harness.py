"""A gateway over a real engine in this process, and a client that signs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import ClientResponse, ClientSession, ClientWebSocketResponse

from node.config.settings import AdminConfig, HttpConfig, NativeConfig, NodeAddress, NodeConfig, RaftConfig, TlsConfig
from node.engine.feed import Audience, Feed
from node.engine.queries import BadQueryError, NotFoundError, Views
from node.errors import ConnectionLost, QuorumbookError, RequestFailed
from node.gateway.app import Application
from node.gateway.backend import Lost, Outcomes, Resent
from node.gateway.errors import NotLeaderError
from node.gateway.gateway import Gateway, build
from node.keys.credentials import Credentials, sign
from node.native.connection import KeysCallback
from node.native.protocol import ANSWER_TYPES, AnyQuery, Events, FailCode, LeaderHint, MemberStatus, NodeStatus, StatusQuery
from node.native.submissions import OutcomesTaker
from statemachine.commands import AnyCommand, Batch
from statemachine.engine import Engine
from statemachine.events import AnyEvent, AnyOutcome

ADMIN = Credentials("admin-key", "c2VjcmV0LW9mLXRoZS1vcGVyYXRvcg==", "open sesame")
SECRET = "YS1zZWNyZXQtb2YtYS10cmFkZXI="
DEADLINE = 10.0
LEADER = LeaderHint("n2", "127.0.0.1:7202", "http://127.0.0.1:7302")


class FakeBackend:
    """The engine of a node, without the node. The next submits raise the entries of `fail`, one after the other;
    `leads` False redirects. `taken`: how many requests took the fast path. `lost_answers`: the first answers of this
    many submits are lost, and the submits are sent again.
    """

    idle_s = 0.0
    """Seconds between two looks of a replay for events."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.feed = Feed(events_kept=100_000)
        self.views = Views(self.feed, lambda: 0.0)
        self.events: dict[str, list[AnyEvent]] = {}
        self.subscribers: dict[str, list[tuple[Callable[[Events], None], Lost]]] = {}
        self.fail: list[QuorumbookError] = []
        self.leads = True
        self.down = False
        self.lost_answers = 0
        self.taken = 0
        self.follows_keys = True
        self.on_keys: KeysCallback = lambda _key_ids: None
        self.kept_from = 1
        self.status: dict[str, Any] = {}
        self.submitted: list[AnyCommand] = []
        self.batches: list[int] = []
        self.queried: list[AnyQuery] = []
        self._clock = time.time_ns()

    @property
    def ready(self) -> bool:
        return not self.down

    def enqueue(self, commands: Sequence[AnyCommand], outcomes: OutcomesTaker) -> None:
        asyncio.get_running_loop().call_soon(self._take, commands, outcomes)

    def _take(self, commands: Sequence[AnyCommand], outcomes: OutcomesTaker) -> None:
        self.taken += 1
        if self.fail or self.lost_answers or not self.leads:
            outcomes.set_exception(self.fail.pop(0) if self.fail else ConnectionLost("gone"))
        else:
            outcomes.set_result(self.apply(*commands))

    async def submit(
        self, commands: Sequence[AnyCommand], resent: Resent | None = None, begun: Outcomes | None = None
    ) -> list[AnyOutcome]:
        await asyncio.sleep(0)
        if begun is not None and not isinstance(begun.exception(), ConnectionLost):
            return await begun
        if self.fail:
            raise self.fail.pop(0)
        if self.lost_answers:
            self.lost_answers -= 1
            self.apply(*commands)
            if resent is not None:
                resent.note()
        if not self.leads:
            raise NotLeaderError(LEADER)
        return self.apply(*commands)

    def apply(self, *commands: AnyCommand) -> list[AnyOutcome]:
        """Apply a batch and publish its events, as one frame for each product. A command that cannot be encoded cannot
        be sent to an engine.
        """
        self._clock += 1_000_000
        payload = msgspec.msgpack.encode(Batch(self._clock, list(commands)))
        self.submitted += commands
        self.batches.append(len(commands))
        applied = self.engine.apply(msgspec.msgpack.decode(payload, type=Batch))
        self.feed.publish(applied.event_products, applied.encoded_events)
        if applied.keys_put:
            self.on_keys(applied.keys_put)
        groups: dict[str, list[AnyEvent]] = {}
        for event in applied.events:
            groups.setdefault(event.product_id, []).append(event)
        for product_id, events in groups.items():
            self.events.setdefault(product_id, []).extend(events)
            for on_events, _ in list(self.subscribers.get(product_id, [])):
                on_events(Events(product_id, events))
        return applied.outcomes

    def advance(self, *, seconds: int) -> None:
        """Advance the time without a command."""
        self._clock += seconds * 10**9
        self.apply()

    async def query(self, query: AnyQuery, linearizable: bool = False) -> Any:
        await asyncio.sleep(0)
        self.queried.append(query)
        if self.down:
            raise RequestFailed(FailCode.STOPPING, "down")
        if linearizable and not self.leads:
            raise NotLeaderError(LEADER)
        if isinstance(query, StatusQuery):
            return self.node_status()
        try:
            asked = msgspec.msgpack.decode(msgspec.msgpack.encode(query), type=type(query))
            body = self.views.answer(self.engine, asked, Audience.FULL)
        except NotFoundError as error:
            raise RequestFailed(FailCode.NOT_FOUND, str(error)) from None
        except BadQueryError as error:
            raise RequestFailed(FailCode.BAD_REQUEST, str(error)) from None
        return msgspec.msgpack.decode(body, type=ANSWER_TYPES[type(query)])

    async def query_leader(self, query: AnyQuery) -> Any:
        return await self.query(query, linearizable=True)

    async def hand_over(self, node_id: str) -> None:
        await asyncio.sleep(0)
        if node_id not in ("", "n2"):
            raise RequestFailed(FailCode.BAD_REQUEST, f"{node_id} is not a voter")
        self.status |= {"leader_id": "n2", "role": "follower", "term": self.node_status().term + 1}

    def node_status(self) -> NodeStatus:
        role = "leader" if self.leads else "follower"
        sequence, peers = self.engine.sequence, [MemberStatus("n2", True, 0)]
        status = NodeStatus("n1", "c1", role, "n1", 3, 9, 9, 9, 1, 0, sequence, "", True, True, True, 1.0, "0", "abi", peers)
        return msgspec.structs.replace(status, **self.status)

    async def subscribe(self, product_id: str, from_sequence: int, on_events: Callable[[Events], None], on_lost: Lost) -> int:
        await asyncio.sleep(0)
        self._check_kept(from_sequence)
        self.subscribers.setdefault(product_id, []).append((on_events, on_lost))
        kept = [event for event in self.events.get(product_id, []) if event.product_sequence >= from_sequence]
        if kept:
            on_events(Events(product_id, kept))
        return from_sequence

    def follow_keys(self, on_change: KeysCallback) -> None:
        self.on_keys = on_change

    def lose(self, product_id: str) -> None:
        """End every subscription, as if the engine had ended."""
        for _, on_lost in self.subscribers.pop(product_id, []):
            on_lost("the engine went away")

    @contextlib.asynccontextmanager
    async def replay(self, product_id: str, from_sequence: int) -> AsyncIterator[AsyncIterator[list[AnyEvent]]]:
        self._check_kept(from_sequence)

        async def batches() -> AsyncGenerator[list[AnyEvent], None]:
            at = from_sequence
            while True:
                part = [event for event in self.events.get(product_id, []) if event.product_sequence >= at][:3]
                if part:
                    at = part[-1].product_sequence + 1
                    yield part
                await asyncio.sleep(self.idle_s)

        stream = batches()
        try:
            yield stream
        finally:
            await stream.aclose()

    def _check_kept(self, from_sequence: int) -> None:
        if from_sequence < self.kept_from:
            raise RequestFailed(FailCode.TOO_OLD, f"events are kept from {self.kept_from} on")

    async def close(self) -> None:
        pass


def config() -> NodeConfig:
    return NodeConfig(
        "c1",
        "n1",
        "data",
        RaftConfig("127.0.0.1:7101"),
        NativeConfig("127.0.0.1:7201"),
        HttpConfig("127.0.0.1:7301", "http://127.0.0.1:7301"),
        TlsConfig("ca.pem", "node.pem", "node.key"),
        AdminConfig(ADMIN.key_id, ADMIN.secret, ADMIN.passphrase),
        [NodeAddress("n1", "127.0.0.1:7101", "127.0.0.1:7201", "http://127.0.0.1:7301")],
    )


def headers(
    credentials: Credentials, method: str, target: str, body: bytes = b"", timestamp: str | None = None
) -> dict[str, str]:
    """Return the CB-ACCESS headers."""
    stamp = timestamp if timestamp is not None else f"{time.time():.6f}"
    return {
        "CB-ACCESS-KEY": credentials.key_id,
        "CB-ACCESS-SIGN": sign(credentials.secret, stamp, method, target, body),
        "CB-ACCESS-TIMESTAMP": stamp,
        "CB-ACCESS-PASSPHRASE": credentials.passphrase,
        "Content-Type": "application/json",
    }


HOST = "127.0.0.1"
STOP_TIMEOUT = 2.0


class Client:
    """A client of an application that serves on a free port of loopback."""

    def __init__(self, app: Application, session: ClientSession) -> None:
        assert app.server is not None, "the application serves"
        self.app = app
        self.host, self.port = HOST, app.server.port
        self.request, self.get, self.post = session.request, session.get, session.post
        self.ws_connect = session.ws_connect

    def make_url(self, path: str) -> str:
        """Return the whole URL of a path."""
        return f"http://{self.host}:{self.port}{path}"


@contextlib.asynccontextmanager
async def served(gateway: Gateway) -> AsyncIterator[Client]:
    """Yield a client of the gateway, which serves inside the block."""
    app = Application(gateway)
    await app.start(HOST, 0)
    try:
        assert app.server is not None
        async with ClientSession(f"http://{HOST}:{app.server.port}", auto_decompress=False) as session:
            yield Client(app, session)
    finally:
        await app.stop(STOP_TIMEOUT)


@dataclass
class Exchange:
    """A gateway with BTC-USD (8 and 2 digits), ETH-BTC (8 and 8), and the accounts alice and bob with money and a key
    each.
    """

    backend: FakeBackend
    gateway: Gateway
    client: Client
    keys: dict[str, Credentials] = field(default_factory=dict)

    async def call(self, who: str, method: str, target: str, body: object = None, **options: Any) -> tuple[int, Any]:
        """Send a signed request. Returns status and JSON."""
        response = await self.send(who, method, target, body, **options)
        return response.status, json.loads(await response.read())

    async def send(self, who: str, method: str, target: str, body: object = None, raw: bytes | None = None) -> ClientResponse:
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        signed = headers(self.keys[who], method, target, data) if who else {}
        return await self.client.request(method, target, data=data or None, headers=signed, allow_redirects=False)

    async def get(self, target: str) -> tuple[int, Any]:
        """Send a public request."""
        return await self.call("", "GET", target)

    async def order(self, who: str, side: str, price: str, size: str, **fields: object) -> Any:
        """Place a limit order on BTC-USD that must be accepted. Returns the order."""
        body = {"product_id": "BTC-USD", "side": side, "price": price, "size": size} | fields
        status, answer = await self.call(who, "POST", "/orders", body)
        assert status == 200, answer
        return answer

    async def socket(self) -> ClientWebSocketResponse:
        return await self.client.ws_connect("/")

    def socket_signature(self, who: str) -> dict[str, object]:
        """Return the fields of a signed subscribe message."""
        credentials, stamp = self.keys[who], str(int(time.time()))
        signature = sign(credentials.secret, stamp, "GET", "/users/self/verify")
        return {"key": credentials.key_id, "passphrase": credentials.passphrase, "timestamp": stamp, "signature": signature}


async def set_up(exchange: Exchange) -> None:
    """Create currencies, products, accounts, keys and money, by the operator's calls."""
    exchange.keys["admin"] = ADMIN
    for currency, scale in (("USD", 2), ("BTC", 8), ("ETH", 8)):
        assert (await exchange.call("admin", "PUT", f"/admin/currencies/{currency}", {"scale": scale}))[0] == 200
    product = {"base_currency": "BTC", "quote_currency": "USD", "base_increment": "0.01", "quote_increment": "1"}
    product |= {"maker_fee_rate": "0.001", "taker_fee_rate": "0.002", "base_min_size": "0.02", "base_max_size": "1000"}
    assert await exchange.call("admin", "PUT", "/admin/products/BTC-USD", product) == (
        200,
        {"id": "BTC-USD", "changed": True, "sequence": 4},
    )
    other = {"base_currency": "ETH", "quote_currency": "BTC", "base_increment": "0.1", "quote_increment": "0.0001"}
    assert (await exchange.call("admin", "PUT", "/admin/products/ETH-BTC", other))[0] == 200
    for name in ("alice", "bob"):
        assert (await exchange.call("admin", "PUT", f"/admin/accounts/{name}", {}))[0] == 200
        exchange.keys[name] = Credentials(f"{name}-key", SECRET, f"{name}'s passphrase")
        key = {
            "account_id": name,
            "secret": SECRET,
            "passphrase": f"{name}'s passphrase",
            "permissions": ["view", "trade", "transfer", "deposit"],
        }
        assert (await exchange.call("admin", "PUT", f"/admin/keys/{name}-key", key))[0] == 200
        for currency, amount in (("USD", "1000000"), ("BTC", "100"), ("ETH", "100")):
            body = {"currency": currency, "amount": amount, "transfer_id": f"start-{currency}"}
            assert (await exchange.call("admin", "POST", f"/admin/accounts/{name}/deposits", body))[0] == 200


@contextlib.asynccontextmanager
async def running(backend: FakeBackend | None = None, node: NodeConfig | None = None) -> AsyncIterator[Exchange]:
    """Run an exchange that is set up, with its server on loopback."""
    backend = backend or FakeBackend()
    gateway = build(node or config(), backend)
    async with served(gateway) as client:
        exchange = Exchange(backend, gateway, client)
        await set_up(exchange)
        yield exchange


async def receive(socket: ClientWebSocketResponse, kind: str = "", deadline: float = DEADLINE) -> Any:
    """Return the next message, or the next one of type `kind`."""
    async with asyncio.timeout(deadline):
        while True:
            message = json.loads(await socket.receive_str())
            if not kind or message["type"] == kind:
                return message


FULL = {"type": "subscribe", "product_ids": ["BTC-USD"]}


async def subscribe(exchange: Exchange, **message: object) -> ClientWebSocketResponse:
    """Open a connection, and make a subscription that must be accepted."""
    socket = await exchange.socket()
    await socket.send_json({"type": "subscribe"} | message)
    assert (await receive(socket))["type"] == "subscriptions"
    return socket


async def gather(socket: ClientWebSocketResponse, count: int) -> list[Any]:
    return [await receive(socket) for _ in range(count)]


async def trade(exchange: Exchange, price: str = "100", size: str = "1") -> None:
    await exchange.order("bob", "sell", price, size)
    await exchange.order("alice", "buy", price, size)
