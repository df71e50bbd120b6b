"""The main scenario: a loaded cluster loses its leader to SIGKILL, elects another one, and takes the dead node back.

Each method of `Scenario` is one step, and its attributes show the results. The demo and the chaos tests combine the
steps.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from random import Random
from types import TracebackType

import msgspec

from loadtest.access import ClusterAccess
from loadtest.books import BookFollower
from loadtest.flow import ClientFlow
from loadtest.history import History
from loadtest.market import PRODUCTS, Trader, set_up, traders
from loadtest.reader import FeedChecker
from loadtest.recorder import Recorder
from loadtest.trading import Desk
from loadtest.verdict import Verdict, books_rebuilt, caught_up, feed_whole, hashes_equal, linearizable, money_conserved
from loadtest.watch import Watcher, none_leaving, reached
from node.deployment.local_cluster import LocalCluster
from node.native.client import ClusterClient
from node.native.products import put_again
from node.native.protocol import AnyQuery, BalancesQuery, BookQuery, NodeStatus, OrdersQuery, ProductsQuery, TradesQuery
from node.records.audit import AuditCheck, audit_running
from node.records.committed_log import committed_batches, empty_engine
from node.system import tasks as background
from statemachine.commands import AnyCommand
from statemachine.types import ProductStatus

LEADER_SECONDS = 20.0
LEVEL_SECONDS = 30.0
ACKS_FILE = "acknowledged.jsonl"
HISTORY_FILE = "history.jsonl"
ASKERS = 2
"""The number of clients that only read."""

ASK_PAUSE = 0.1
UNDER_WAY_MAX = 10_000
"""More commands than are ever in flight: a read may show commands after the last answer of a history."""


class Kill(msgspec.Struct):
    """A killed node: when, whether it led, the next leader, and the gap in acknowledgements in seconds."""

    node_id: str
    led: bool
    at: float
    sequence: int
    new_leader: str = ""
    new_term: int = 0
    gap: float = 0.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a run. `rate`: commands a second of all clients together, or 0 for no limit."""

    seed: int = 1
    clients: int = 24
    chunk: int = 2
    rate: float = 1500.0
    run: str = "demo"
    followed: tuple[str, ...] = tuple(spec.product_id for spec in PRODUCTS)
    """Products whose feeds are read, by two readers each."""
    history: int = 200_000
    """Operations whose linearizability is judged at most, the first ones; 0 for none."""


class Scenario:
    """A cluster in `directory`, its clients, and readers of its feeds.

    Use it as `async with`. At the end the clients and readers stop, and the nodes keep running.
    """

    def __init__(self, cluster: LocalCluster, directory: Path, plan: Plan) -> None:
        self.cluster = cluster
        self.plan = plan
        self.access = ClusterAccess(directory)
        self.people: list[Trader] = traders(plan.clients, plan.seed)
        self.others = False
        """Whether somebody else sends commands to this cluster as well."""
        self.acks_path = directory / ACKS_FILE
        self.history = History(directory / HISTORY_FILE, plan.history) if plan.history else None
        self.recorder = Recorder(self.acks_path, self.history)
        self.desk = Desk(self.recorder, rate=plan.rate)
        self.watcher = Watcher(self.access)
        self.readers: list[FeedChecker] = []
        self.followers: list[BookFollower] = []
        self.kills: list[Kill] = []
        self._operator = self.access.client()
        self._clients: list[ClusterClient] = []
        self._trading: list[asyncio.Task[None]] = []
        self._asking: list[asyncio.Task[None]] = []
        self._reading: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Scenario:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.desk.stopping.set()
        for reader in self.readers:
            reader.stop()
        await background.cancel([*self._trading, *self._asking, *self._reading])
        self.recorder.close()
        for client in (*self._clients, self._operator):
            await client.close()
        await self.watcher.close()

    async def put_market(self) -> None:
        """Create currencies, products, accounts and keys, and deposit money. Raises `SetupRefusedError`."""
        sent = time.monotonic()
        done = await set_up(self._operator, self.people)
        commands, outcomes = [command for command, _ in done], [outcome for _, outcome in done]
        self.recorder.answered(commands, outcomes, sent, time.monotonic())

    async def put_status(self, status: ProductStatus) -> None:
        """Change the status of the products that are followed."""
        rows = await self._operator.query(ProductsQuery(), linearizable=True)
        followed = [row for row in rows if row.product_id in self.plan.followed]
        mark = f"{self.plan.run}:session"
        commands = [put_again(row, f"{mark}:{row.product_id}:{row.product_sequence}", status=status) for row in followed]
        sent = time.monotonic()
        self.recorder.answered(commands, await self._operator.submit(commands), sent, time.monotonic())

    async def opened(self, product_id: str) -> tuple[int, int]:
        """Return the price and the total size of the trades of the product's uncross that the node still has, or zeros."""
        trades = [
            trade for trade in await self._operator.query(TradesQuery(product_id, 1_000), linearizable=True) if trade.auction
        ]
        return (trades[0].price, sum(trade.size for trade in trades)) if trades else (0, 0)

    def start_trading(self) -> None:
        """Start all clients. Each sends its generated flow over its own connection."""
        for person in self.people:
            flow = ClientFlow(self.plan.seed, person.account_id, self.plan.run)
            self.start_client(self.access.trader_client(person), flow)
        if self.history is not None:
            for number in range(ASKERS):
                self._start_asker(number)

    def _start_asker(self, number: int) -> None:
        client = self.access.client()
        self._clients.append(client)
        queries = _queries(Random(f"{self.plan.seed}:asker{number}"), self.people)
        self._asking.append(asyncio.create_task(self.desk.ask(client, queries, ASK_PAUSE)))

    def start_client(self, client: ClusterClient, flow: Iterable[AnyCommand], chunk: int = 0) -> None:
        """Start a client that sends `flow`. The scenario closes it at the end."""
        self._clients.append(client)
        self._trading.append(asyncio.create_task(self.desk.trade(client, flow, chunk or self.plan.chunk)))

    def members_changed(self) -> None:
        """Read the members again, after nodes were added or removed. Running clients learn of the others themselves."""
        self.access.reload()
        self.cluster.reload()

    def start_readers(self, first: str) -> None:
        """Follow each product's feed from its first event, with two readers: one begins at node `first`, one at another
        node.

        Where the nodes have gateways, its books are followed over a WebSocket as well, beginning at `first`.
        """
        for product_id in self.plan.followed:
            reader = FeedChecker(product_id, self.access.natives, first, tls=self.access.tls(), credentials=self.access.admin)
            self._start_reader(reader)
            for node_id in sorted(set(self.access.natives) - {first})[:1]:
                self._start_reader(
                    FeedChecker(product_id, self.access.natives, node_id, tls=self.access.tls(), credentials=self.access.admin)
                )
            if all(config.http.processes for config in self.access.layout.configs.values()):
                self._start_follower(product_id, first)

    def _start_follower(self, product_id: str, first: str) -> None:
        urls = self.access.https
        follower = BookFollower([urls[first], *(url for node_id, url in urls.items() if node_id != first)], product_id)
        self.followers.append(follower)
        self._reading.append(asyncio.create_task(follower.run()))

    def _start_reader(self, reader: FeedChecker) -> None:
        self.readers.append(reader)
        self._reading.append(asyncio.create_task(reader.run()))

    def move_readers(self, node_id: str) -> None:
        """Move the first reader of each product to another node. The second one stays until its node dies."""
        for reader in self.readers[::2]:
            reader.move(node_id)

    def check_tasks(self) -> None:
        """Raise the exception of a client or reader that failed."""
        for task in (*self._trading, *self._asking, *self._reading):
            if task.done() and not task.cancelled():
                task.result()

    async def kill(self, node_id: str) -> Kill:
        """Send SIGKILL to every process of a node, and wait for a leader that is another node."""
        status = await self.watcher.status(node_id)
        led = status is not None and status.role == "leader"
        kill = Kill(node_id, led, time.monotonic(), status.sequence if status else 0)
        self.kills.append(kill)
        await asyncio.to_thread(self.cluster.kill, node_id, signal.SIGKILL)
        kill.new_leader = await self.watcher.wait_leader(LEADER_SECONDS, other_than=node_id)
        new = await self.watcher.status(kill.new_leader)
        kill.new_term = new.term if new else 0
        return kill

    async def measure(self, kill: Kill) -> float:
        """Wait for answers after a kill, and return the gap in acknowledgements around it, in seconds."""
        await reached(lambda: self.recorder.since(kill.at + 0.3) >= 50 or self._all_done(), LEADER_SECONDS)
        kill.gap = self.recorder.gap(kill.at, min(time.monotonic(), kill.at + 10.0)).seconds
        return kill.gap

    def _all_done(self) -> bool:
        return all(task.done() for task in self._trading)

    async def restart(self, node_id: str) -> None:
        """Start a killed node again. The method returns before the node has caught up."""
        await asyncio.to_thread(self.cluster.restart, node_id)

    async def stop_trading(self) -> None:
        """Send no new commands, and wait for the answers to those that are in flight."""
        self.desk.stopping.set()
        await asyncio.gather(*self._trading, *self._asking)

    async def settle(self) -> dict[str, NodeStatus | None]:
        """Wait until no order will expire soon, all nodes have applied the same entries, and the readers have read
        everything.
        """
        await none_leaving(self._operator, [person.account_id for person in self.people], LEVEL_SECONDS)
        statuses = await self.watcher.wait_equal(LEVEL_SECONDS)
        expected = await self._product_sequences()
        await reached(
            lambda: all(reader.tally.last_sequence >= expected[reader.product_id] for reader in self.readers), LEVEL_SECONDS
        )
        self.check_tasks()
        return statuses

    async def _product_sequences(self) -> dict[str, int]:
        rows = await self._operator.query(ProductsQuery(), linearizable=True)
        return {row.product_id: row.product_sequence for row in rows}

    async def judge(self, statuses: dict[str, NodeStatus | None], visits_min: int = 1) -> Verdict:
        """Return the verdict on a settled cluster. Nobody may trade afterwards."""
        self.recorder.close()
        return await self.check(statuses, visits_min)

    async def check(self, statuses: dict[str, NodeStatus | None], visits_min: int = 1, *, answers: bool = True) -> Verdict:
        """Return the verdict on a settled cluster. Nobody may trade during the check. Without `answers` the verdict
        does not cover the answers that this process received.
        """
        self.recorder.flush()
        verdict = Verdict()
        report = await asyncio.to_thread(audit_running, self.access.directory, self.acks_path, statuses)
        verdict.checks += report.checks
        if self.history is not None:
            verdict.checks.append(await asyncio.to_thread(self._judge_history, self.history, statuses))
        verdict.checks.append(hashes_equal(statuses))
        verdict.checks.append(await money_conserved(self._operator, [person.account_id for person in self.people]))
        if self.readers:
            verdict.checks.append(feed_whole(self.readers, await self._product_sequences(), visits_min))
            verdict.checks.append(await self._books(statuses))
        for kill in {kill.node_id: kill for kill in self.kills}.values():
            verdict.checks.append(caught_up(statuses, kill.node_id, kill.sequence))
        if not answers:
            return verdict
        faults = self.desk.faults
        detail = "; ".join(faults.texts[:3]) or f"{self.recorder.acknowledged:,} answers agree with what was asked"
        verdict.add("no answer contradicts its request", not faults.count and self.recorder.acknowledged > 0, detail)
        return verdict

    async def _books(self, statuses: dict[str, NodeStatus | None]) -> AuditCheck:
        url = next(
            (self.access.https[name] for name, status in statuses.items() if status is not None and name in self.access.https), ""
        )
        return await books_rebuilt(self.readers, self.followers, self._operator, url, LEVEL_SECONDS)

    def _judge_history(self, history: History, statuses: dict[str, NodeStatus | None]) -> AuditCheck:
        first = inf if history.complete else history.last_sequence + UNDER_WAY_MAX
        batches = committed_batches(self.access.directory, statuses, first=first)
        return linearizable(history, batches, others=self.others, engine=empty_engine(self.access.directory))


def _queries(random: Random, people: list[Trader]) -> Iterator[AnyQuery]:
    """Yield random queries for balances, orders and books, without end."""
    while True:
        account_id = random.choice(people).account_id
        product_id = random.choice(PRODUCTS).product_id
        yield random.choice((BalancesQuery(account_id), OrdersQuery(account_id, limit=20), BookQuery(product_id, 2)))
