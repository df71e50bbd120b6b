"""Replacements for the tests of the node: a consensus of one node, a clock, and a node assembled from them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import msgspec

from cluster.membership import Change, ChangeDone, ChangeError, ChangeResult, Member, Membership, Role
from cluster.ports import StateMachine
from cluster.raft import Done, ProposeError, ProposeResult
from cluster.status import MemberState, RaftStatus
from node.config.settings import AdminConfig, HttpConfig, NativeConfig, NodeAddress, NodeConfig, RaftConfig, TlsConfig
from node.engine.feed import Feed
from node.engine.native_server import NativeServer
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.service import EngineService, NodeIdentity
from node.keys.credentials import Credentials
from node.keys.encryption import write_keys
from node.native.connection import NativeConnection
from statemachine.commands import AnyCommand, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, Side

CLUSTER_KEYS = {1: bytes(range(64))}
SECRET = "YSBzZWNyZXQgb2YgYWxpY2U="
ADMIN = AdminConfig(key_id="admin", secret="c2VjcmV0IG9mIHRoZSBvcGVyYXRvcg==", passphrase="open")


def member(node_id: str, role: Role = Role.VOTER) -> Member:
    """Return a member with the addresses of `config_of`."""
    number = int(node_id.removeprefix("n"))
    places = (f"127.0.0.1:{7000 + number}", f"127.0.0.1:{7100 + number}", f"http://127.0.0.1:{7200 + number}")
    return Member(node_id, role, *places)


class LocalRaft:
    """A consensus of one node, in memory. Proposals are applied at the next `tick`, in order; `auto` ticks soon without
    a call. `lose_leadership` and `lead` simulate failovers; `hold` keeps proposals in flight.
    """

    def __init__(self, machine: StateMachine, node_id: str = "n1", *, auto: bool = True, leader: bool = True) -> None:
        self.on_role_change: list[Callable[[str, str], None]] = []
        self.machine = machine
        self.node_id = node_id
        self.leader_id = node_id if leader else ""
        self.index = 0
        self.hold = False
        self.snapshots_wanted = 0
        self.transfers = 0
        self.successor = ""
        self.election_in_progress = False
        self.membership = Membership(tuple(member(name) for name in sorted({"n1", "n2", "n3", node_id})))
        self.unreachable: set[str] = set()
        self.sending: dict[str, tuple[int, int]] = {}
        self.change_error: ChangeError | None = None
        self.entries: list[bytes] = []
        self._auto = auto
        self._under_way: list[tuple[bytes, Done]] = []
        self._refused: list[Done] = []

    @property
    def is_leader(self) -> bool:
        return self.leader_id == self.node_id

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def propose(self, payload: bytes, done: Done) -> None:
        if not self.is_leader:
            self._refused.append(done)
        else:
            self._under_way.append((payload, done))
        self._wake()

    def barrier(self, done: Done) -> None:
        self.propose(b"", done)

    def tick(self) -> None:
        refused, self._refused = self._refused, []
        for done in refused:
            done(ProposeResult(error=ProposeError.NOT_LEADER))
        if self.hold:
            return
        under_way, self._under_way = self._under_way, []
        for payload, done in under_way:
            self.index += 1
            value = None
            if payload:
                self.entries.append(payload)
                value = self.machine.apply(self.index, payload)
            done(ProposeResult(index=self.index, value=value() if callable(value) else value))

    def lose_leadership(self, leader_id: str = "", *, applied: bool = False) -> None:
        """Let another node lead, or none. Proposals in flight get OUTCOME_UNKNOWN, and are applied nevertheless if
        `applied`.
        """
        under_way, self._under_way = self._under_way, []
        self.leader_id = leader_id
        for payload, done in under_way:
            if applied and payload:
                self.index += 1
                self.machine.apply(self.index, payload)
            done(ProposeResult(error=ProposeError.OUTCOME_UNKNOWN))
        self._tell()

    def lead(self) -> None:
        """Make this node the leader."""
        self.leader_id = self.node_id
        self._tell()

    def request_snapshot(self) -> None:
        self.snapshots_wanted += 1

    def change_members(self, change: Change, done: ChangeDone) -> None:
        if self.change_error is not None:
            done(ChangeResult(self.change_error, "so it is"))
            return
        self.index += 1
        self.membership = msgspec.structs.replace(self.membership.changed(change), index=self.index)
        done(ChangeResult(index=self.index))

    def transfer_leadership(self, successor: str = "") -> bool:
        self.transfers += 1
        if not self.successor or successor not in ("", self.successor):
            return False
        self.lose_leadership(self.successor)
        return True

    def status(self) -> RaftStatus:
        return RaftStatus(
            role="leader" if self.is_leader else "follower",
            leader_id=self.leader_id,
            term=1,
            commit_index=self.index,
            applied_index=self.index,
            last_log_index=self.index,
            first_log_index=1,
            snapshot_index=0,
            voter=True,
            ready=bool(self.leader_id),
            quorum=True,
            snapshots_refused=0,
            members=[
                MemberState(each, each.node_id not in self.unreachable, self.index, self.sending.get(each.node_id))
                for each in self.membership.members
            ],
            members_index=self.membership.index,
        )

    def _wake(self) -> None:
        if self._auto:
            asyncio.get_running_loop().call_soon(self.tick)

    def _tell(self) -> None:
        for callback in self.on_role_change:
            callback("leader" if self.is_leader else "follower", self.leader_id)


def config_of(directory: Path, node_id: str = "n1", *, native: NativeConfig | None = None) -> NodeConfig:
    """Return a configuration of a cluster n1, n2, n3 without files."""
    nodes = [
        NodeAddress(f"n{number}", f"127.0.0.1:{7000 + number}", f"127.0.0.1:{7100 + number}", f"http://127.0.0.1:{7200 + number}")
        for number in (1, 2, 3)
    ]
    return NodeConfig(
        cluster_id="test",
        node_id=node_id,
        data_dir="data",
        raft=RaftConfig("127.0.0.1:0"),
        native=native or NativeConfig("127.0.0.1:0"),
        http=HttpConfig("127.0.0.1:0", "http://127.0.0.1"),
        tls=TlsConfig("ca.pem", "node.pem", "node.key"),
        admin=ADMIN,
        nodes=nodes,
        directory=str(directory),
    )


class FakeNode:
    """An engine service with a consensus of one, listening on a Unix socket."""

    def __init__(self, config: NodeConfig, *, auto: bool = True, leader: bool = True) -> None:
        self.config = config
        config.cluster_key_path.parent.mkdir(parents=True, exist_ok=True)
        write_keys(config.cluster_key_path, CLUSTER_KEYS)
        self.feed = Feed(config.native.events_kept)
        self.machine = ReplicatedEngine(self.feed)
        self.raft = LocalRaft(self.machine, config.node_id, auto=auto, leader=leader)
        loop = asyncio.get_running_loop()
        identity = NodeIdentity("test", "abi")
        self.service = EngineService(
            config, identity, self.machine, self.feed, self.raft, later=loop.call_soon, after=loop.call_later
        )
        self.server = NativeServer(self.service, lambda _channel: None)

    @property
    def address(self) -> str:
        return f"unix:{self.config.engine_socket}"

    async def start(self) -> None:
        self.config.data_path.mkdir(parents=True, exist_ok=True)
        await self.server.listen_local(self.config.engine_socket)

    async def stop(self) -> None:
        await self.server.stop()


@contextlib.asynccontextmanager
async def running(config: NodeConfig, *, auto: bool = True, leader: bool = True) -> AsyncIterator[FakeNode]:
    """Run a node that listens inside the block."""
    node = FakeNode(config, auto=auto, leader=leader)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


@contextlib.asynccontextmanager
async def connected(node: FakeNode, credentials: Credentials | None = None) -> AsyncIterator[NativeConnection]:
    """Yield a connection to a node's own socket."""
    connection = await NativeConnection.open(node.address, credentials=credentials, client="test")
    try:
        yield connection
    finally:
        await connection.close()


def addresses(nodes: Mapping[str, FakeNode]) -> dict[str, str]:
    """Return the addresses for a `ClusterClient`."""
    return {node_id: node.address for node_id, node in nodes.items()}


WORLD: list[AnyCommand] = [
    PutCurrency(OPERATOR, "usd", "USD", 2),
    PutCurrency(OPERATOR, "btc", "BTC", 8),
    PutProduct(OPERATOR, "btc-usd", "BTC-USD", "BTC", "USD", 1, 10**8, 10**8, 10**15, 0, 0),
    OpenAccount(OPERATOR, "alice", "alice"),
    OpenAccount(OPERATOR, "bob", "bob"),
    Deposit("alice", "d1", "USD", 10**9),
    Deposit("bob", "d2", "BTC", 10**12),
]
"""A product whose lot is one whole coin, alice with dollars, bob with coins."""


def buy(number: int, price: int = 100, size: int = 1, account: str = "alice") -> PlaceOrder:
    """Return a limit order to buy whole coins."""
    return PlaceOrder(account, f"c:{number}", "BTC-USD", Side.BUY, OrderType.LIMIT, price, size * 10**8, client_oid=str(number))


def sell(number: int, price: int = 100, size: int = 1, account: str = "bob") -> PlaceOrder:
    """Return a limit order to sell whole coins."""
    return PlaceOrder(account, f"c:{number}", "BTC-USD", Side.SELL, OrderType.LIMIT, price, size * 10**8, client_oid=str(number))
