"""Measures a running cluster: the latency of one order, and its throughput in orders a second.

It trades on a product of its own, `BENCHA-BENCHB`, with accounts of its own, so it touches no other product's book or
money. The product is closed when the benchmark ends. The product and its accounts stay, because an exchange deletes
nothing. The load is real: other clients notice it.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence

import msgspec

from node.cluster_directory import Access
from node.errors import QuorumbookError, RequestFailed
from node.native.client import ClusterClient
from node.native.protocol import FailCode
from statemachine.commands import AnyCommand, CancelAll, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.events import Placed, Rejected
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, ProductStatus, Side

PRODUCT, BASE, QUOTE = "BENCHA-BENCHB", "BENCHA", "BENCHB"
SCALE = 6
UNIT = 10**SCALE
ACCOUNTS = 8
IN_FLIGHT = 3
ORDERS = 50
"""Of the throughput phase: accounts, requests in flight for each account, orders in a request."""

MIDDLE = 1_000
SPREAD = 10
"""Prices are within this many ticks of the middle, so that some orders trade at once."""

SETUP_DEADLINE_S = 30.0


class BenchResult(msgspec.Struct, frozen=True):
    """The measured figures. Latencies are of one order at a time, from sending until its outcome, in seconds."""

    orders_s: float
    latency_p50_s: float
    latency_p99_s: float
    orders: int
    trades_share: float
    loaded_p99_s: float
    seconds: float
    nodes: int


class BenchRefusedError(QuorumbookError):
    """The exchange rejected what the benchmark needs; the message has the reason."""


async def run(access: Access, seconds: float, report: Callable[[str, float], None], seed: int = 1) -> BenchResult:
    """Set up, measure two phases of `seconds` each, and clean up.

    Args:
        report: called with the present phase and its elapsed seconds.

    Raises:
        BenchRefusedError: the key may not do this, or an order was refused.
        RequestFailed: no leader answered.
    """
    clients = [access.client(client="bench") for _ in range(ACCOUNTS)]
    accounts = [f"bench-{number}" for number in range(ACCOUNTS)]
    run_id = uuid.uuid4().hex[:12]
    try:
        report("setting up", 0.0)
        await _submit(clients[0], _setup(accounts, run_id))
        try:
            lone = await _alone(clients[0], _Orders(accounts[0], seed, f"{run_id}:a"), seconds, report)
            loaded = _Load(accounts, seed, run_id)
            start = time.perf_counter()
            await loaded.run(clients, seconds, report)
            taken = time.perf_counter() - start
        finally:
            await _submit(
                clients[0], [_product(ProductStatus.CANCEL_ONLY), *_cancels(accounts, run_id), _product(ProductStatus.OFFLINE)]
            )
        return BenchResult(
            loaded.orders / taken,
            _quantile(lone, 0.5),
            _quantile(lone, 0.99),
            loaded.orders,
            loaded.filled / max(1, loaded.orders),
            _quantile(loaded.times, 0.99),
            taken,
            len(clients[0].addresses),
        )
    finally:
        await asyncio.gather(*(client.close() for client in clients))


def _product(status: ProductStatus) -> PutProduct:
    return PutProduct(OPERATOR, f"bench:{uuid.uuid4()}", PRODUCT, BASE, QUOTE, UNIT, 1, 1, 10**12, 0, 0, status)


def _setup(accounts: Sequence[str], marks: str) -> list[AnyCommand]:
    """Return the commands that create the market of the benchmark."""
    commands: list[AnyCommand] = [PutCurrency(OPERATOR, f"bench:{name}", name, SCALE) for name in (BASE, QUOTE)]
    commands.append(_product(ProductStatus.ONLINE))
    commands += [OpenAccount(OPERATOR, f"bench:{name}", name) for name in accounts]
    commands += [
        Deposit(name, f"bench:{marks}:{name}:{currency}", currency, 10**6 * UNIT)
        for name in accounts
        for currency in (BASE, QUOTE)
    ]
    return commands


def _cancels(accounts: Sequence[str], marks: str) -> list[AnyCommand]:
    return [CancelAll(name, f"bench:{marks}:end", PRODUCT) for name in accounts]


async def _submit(client: ClusterClient, commands: Sequence[AnyCommand]) -> None:
    for outcome in await client.submit(commands, SETUP_DEADLINE_S):
        if isinstance(outcome, Rejected):
            raise BenchRefusedError(f"{outcome.reason.name.lower().replace('_', ' ')}: {outcome.field} {outcome.detail}".strip())


class _Orders:
    """Makes orders of one account, with small sizes so that its money lasts."""

    def __init__(self, account_id: str, seed: int, marks: str) -> None:
        self._account_id = account_id
        self._chance = random.Random(f"{seed}:{account_id}:{marks}")
        self._marks = marks
        self._number = 0

    def next(self) -> AnyCommand:
        """Return the next command. Every hundredth one cancels the account's open orders, so that the book stays small."""
        self._number += 1
        command_id = f"bench:{self._marks}:{self._number}"
        if self._number % 100 == 0:
            return CancelAll(self._account_id, command_id, PRODUCT)
        side = Side.BUY if self._chance.random() < 0.5 else Side.SELL
        price = (MIDDLE + self._chance.randint(-SPREAD, SPREAD)) * UNIT
        return PlaceOrder(self._account_id, command_id, PRODUCT, side, OrderType.LIMIT, price, self._chance.randint(1, 100))


async def _alone(client: ClusterClient, orders: _Orders, seconds: float, report: Callable[[str, float], None]) -> list[float]:
    """Measure orders one after another. Returns their latencies."""
    times: list[float] = []
    begun = now = time.perf_counter()
    while now - begun < seconds:
        await client.submit([orders.next()])
        after = time.perf_counter()
        times.append(after - now)
        now = after
        report("one order at a time", now - begun)
    return times


class _Load:
    """Sends many orders at a time."""

    def __init__(self, accounts: Sequence[str], seed: int, marks: str) -> None:
        self._flows = [
            (number, _Orders(name, seed, f"{marks}:{slot}")) for number, name in enumerate(accounts) for slot in range(IN_FLIGHT)
        ]
        self.times: list[float] = []
        self.orders = self.filled = 0

    async def run(self, clients: Sequence[ClusterClient], seconds: float, report: Callable[[str, float], None]) -> None:
        """Send orders for this many seconds."""
        begun = time.perf_counter()
        end = begun + seconds

        async def one(client: ClusterClient, flow: _Orders) -> None:
            while (now := time.perf_counter()) < end:
                try:
                    outcomes = await client.submit([flow.next() for _ in range(ORDERS)])
                except RequestFailed as error:
                    if error.code not in (FailCode.OVERLOADED, FailCode.BUSY):
                        raise
                    continue
                self.times.append(time.perf_counter() - now)
                for outcome in outcomes:
                    if isinstance(outcome, Placed):
                        self.orders += 1
                        self.filled += outcome.order.filled_size > 0
                report("many orders at a time", time.perf_counter() - begun)

        await asyncio.gather(*(one(clients[number], flow) for number, flow in self._flows))


def _quantile(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
