"""The cluster for foreign clients: its accounts, the scripts' arguments, and the exchange's state afterwards."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from loadtest.access import ClusterAccess
from loadtest.ground import Ground, prepare
from loadtest.market import PRODUCTS, Trader, set_up, traders
from loadtest.watch import Watcher
from node.native.protocol import OrdersQuery
from statemachine.commands import PlaceOrder
from statemachine.events import OrderState, Placed
from statemachine.types import OrderType, Side

SEED = 11
SECONDS = 40.0
PRODUCT = PRODUCTS[0]
FLOW_PRODUCT = PRODUCTS[1]
"""What the clients trade, and what a flow of orders trades beside them."""

BID, ASK = 59_000, 61_000
MADE = 1_000
"""The market maker's prices in whole dollars, and its coins on each side."""


@dataclass
class Stage:
    """The cluster. `people`: the accounts by name, for each client, the market maker and the flow."""

    ground: Ground
    access: ClusterAccess
    people: dict[str, Trader]

    async def begin(self) -> None:
        """Start the nodes, create the market, and place the market maker's orders on both sides."""
        await self.ground.start(SECONDS)
        operator = self.access.client()
        maker = self.access.trader_client(self.people["maker"])
        try:
            await set_up(operator, list(self.people.values()))
            await self._level()
            outcomes = await maker.submit([self._offer(Side.BUY, BID), self._offer(Side.SELL, ASK)])
            assert all(isinstance(outcome, Placed) for outcome in outcomes), outcomes
        finally:
            await maker.close()
            await operator.close()

    def _offer(self, side: Side, dollars: int) -> PlaceOrder:
        account = self.people["maker"].account_id
        units = 10**8
        return PlaceOrder(account, f"offer:{side}", PRODUCT.product_id, side, OrderType.LIMIT, dollars * units, MADE * units)

    async def leader(self) -> str:
        """Wait until all nodes serve, and return the leader's id."""
        await self.ground.cluster.wait_ready(SECONDS)
        return await self.ground.cluster.leader()

    async def given(self, name: str, orders: int) -> dict[str, object]:
        """Return the arguments of a client's script. The leader's URL is the first one."""
        leader, person = await self.leader(), self.people[name]
        order = [leader, *(node_id for node_id in self.access.https if node_id != leader)]
        urls = [self.access.https[node_id] for node_id in order]
        return {
            "urls": urls,
            "ws": [url.replace("http", "ws", 1) for url in urls],
            "key": person.key_id,
            "secret": person.secret,
            "passphrase": person.passphrase,
            "product": PRODUCT.product_id,
            "orders": orders,
        }

    async def open_orders(self, name: str) -> list[OrderState]:
        """Return the client's open orders at the leader."""
        operator = self.access.client()
        try:
            return await operator.query(OrdersQuery(self.people[name].account_id, "", True, False, 1_000, 0), True)
        finally:
            await operator.close()

    async def kill_leader_after(self, name: str, orders: int, last: int) -> str:
        """Kill the leader when the client has `orders` open orders, and before it has `last`. Returns the leader's id."""
        leader = await self.leader()
        end = time.monotonic() + SECONDS
        while (placed := len(await self.open_orders(name))) < orders:
            assert time.monotonic() < end, f"{name} did not place {orders} orders"
            await asyncio.sleep(0.02)
        assert placed < last, "the orders came too fast for a kill among them"
        await asyncio.to_thread(self.ground.cluster.kill, leader, signal.SIGKILL)
        return leader

    async def bring_back(self, node_id: str) -> None:
        """Start a killed node, and wait until all nodes have applied the same entries."""
        await asyncio.to_thread(self.ground.cluster.start, [node_id])
        await self.ground.cluster.wait_ready(SECONDS)
        await self._level()

    async def _level(self) -> None:
        """Wait until all nodes have applied the same entries."""
        watcher = Watcher(self.access)
        try:
            await watcher.wait_equal(SECONDS)
        finally:
            await watcher.close()


def open_stage(directory: Path) -> Stage:
    """Return a stage in a new directory, without starting it."""
    ground = prepare(directory, settings={"history.enabled": True})
    names = ("ccxt", "ccxt.pro", "cbpro", "coinbase-pro", "coinbase-pro-node", "maker", "flow-1", "flow-2", "flow-3")
    people = traders(len(names), SEED)
    return Stage(ground, ClusterAccess(directory), dict(zip(names, people, strict=True)))
