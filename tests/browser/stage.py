"""The cluster that the browser looks at. Playwright holds the test's thread, so the market trades in a thread of its
own.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from loadtest.ground import Ground, prepare
from loadtest.market import Trader, traders
from loadtest.scenario import Plan, Scenario
from node.keys.credentials import Credentials, generate
from node.native.products import put_again
from node.native.protocol import OrdersQuery, ProductsQuery
from statemachine.commands import AnyCommand, Grant, PlaceOrder, PutApiKey, PutUser, SetAccess
from statemachine.events import OrderState, Placed, Rejected
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, Permission, ProductStatus, Role, Scope, Side
from tests.real_cluster import end

SECONDS = 60.0
RATE = 30.0
"""Commands a second: enough that something moves, little enough for two processors with a browser on them."""
CLIENTS = 6
SEED = 5
PRODUCT = "BTC-USD"
QUIET = "AAPL-USD"
"""What nobody trades but the tests."""
ALL = sum(Permission)
"""The permissions of a key that may do all that its user's roles allow."""
CONSENT_NS = 600 * 10**9
"""How long a command waits for consent."""

Answer = TypeVar("Answer")


@dataclass
class Stage:
    """The running cluster. Its methods may be called from any thread."""

    ground: Ground
    scenario: Scenario
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, Answer], seconds: float = SECONDS) -> Answer:
        """Run a coroutine where the market trades, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    @property
    def urls(self) -> dict[str, str]:
        """The nodes' public URLs."""
        return self.scenario.access.https

    @property
    def person(self) -> Trader:
        """A trader for whom nobody else trades."""
        return traders(CLIENTS + 1, SEED)[-1]

    def leader(self) -> str:
        """Who leads."""
        return self.run(self.scenario.watcher.wait_leader(SECONDS))

    def kill_leader(self) -> str:
        """Kill every process of the leader; its id."""
        leader = self.leader()
        self.kill(leader)
        return leader

    def kill(self, node_id: str) -> None:
        """Kill every process of a node."""
        self.run(asyncio.to_thread(self.ground.cluster.kill, node_id, signal.SIGKILL))

    def bring_back(self, node_id: str) -> None:
        """Start a node again and wait until all serve."""
        self.run(asyncio.to_thread(self.ground.cluster.start, [node_id]))
        self.run(self.ground.cluster.wait_ready(SECONDS))

    def put_status(self, product_id: str, status: ProductStatus) -> None:
        """Change a product's status."""
        self.run(self._put_status(product_id, status))

    async def _put_status(self, product_id: str, status: ProductStatus) -> None:
        operator = self.scenario.access.client()
        try:
            rows = await operator.query(ProductsQuery(), True)
            row = next(row for row in rows if row.product_id == product_id)
            await operator.submit([put_again(row, f"browser:{product_id}:{row.product_sequence}", status=status)])
        finally:
            await operator.close()

    @contextlib.contextmanager
    def four_eyes(self) -> Iterator[tuple[Credentials, Credentials]]:
        """The keys of two market operators, Olga and Oscar. Meanwhile what one does to a product waits for the consent
        of the other, and the operator's key is switched off.
        """
        ada, olga, oscar = (generate(f"browser-{name}") for name in ("ada", "olga", "oscar"))
        operator = Role.MARKET_OPERATOR
        users = [(ada, "ada", Role.ADMINISTRATOR), (olga, "olga", operator), (oscar, "oscar", operator)]
        commands: list[AnyCommand] = []
        for key, name, role in users:
            commands.append(PutUser(OPERATOR, f"browser:user:{name}", name, [Grant(role, Scope.VENUE)]))
            commands.append(
                PutApiKey(OPERATOR, f"browser:key:{name}", key.key_id, OPERATOR, key.secret, key.passphrase, ALL, user_id=name)
            )
        settings = SetAccess(OPERATOR, "browser:consent", True, Permission.MARKET, CONSENT_NS)
        self.run(self._submit([*commands, settings], None))
        try:
            yield olga, oscar
        finally:
            self.run(self._submit([SetAccess(OPERATOR, "browser:no-consent", False)], ada))

    async def _submit(self, commands: list[AnyCommand], key: Credentials | None) -> None:
        """Send commands of the operator, with the operator's key unless another one is given."""
        client = self.scenario.access.client(key)
        try:
            outcomes = await client.submit(commands)
        finally:
            await client.close()
        assert not any(isinstance(outcome, Rejected) for outcome in outcomes), outcomes

    def sell(self, product_id: str, price: int, size: int) -> None:
        """Let another trader sell. Price and size are in smallest units."""
        self.run(self._sell(product_id, price, size))

    async def _sell(self, product_id: str, price: int, size: int) -> None:
        other = traders(1, SEED)[0]
        client = self.scenario.access.trader_client(other)
        try:
            command_id = f"c:browser.{product_id}.{price}"
            order = PlaceOrder(other.account_id, command_id, product_id, Side.SELL, OrderType.LIMIT, price, size)
            (outcome,) = await client.submit([order])
            assert isinstance(outcome, Placed), outcome
        finally:
            await client.close()

    def open_orders(self) -> list[OrderState]:
        """Return the open orders of `person`, as the leader has them."""
        return self.run(self._open_orders())

    async def _open_orders(self) -> list[OrderState]:
        operator = self.scenario.access.client()
        try:
            return await operator.query(OrdersQuery(self.person.account_id, "", True, False, 1_000, 0), True)
        finally:
            await operator.close()


@contextlib.contextmanager
def staged(directory: Path, *, https: bool = False) -> Iterator[Stage]:
    """Start the cluster and the market in a thread; stop both at the end."""
    ground = prepare(directory, https=https, settings={"history.enabled": True})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="market")
    thread.start()
    scenario: Scenario | None = None

    async def begin() -> Scenario:
        await ground.start(SECONDS)
        made = Scenario(ground.cluster, directory, Plan(seed=SEED, clients=CLIENTS + 1, rate=RATE, run="browser", history=0))
        await made.__aenter__()
        await made.watcher.wait_leader(SECONDS)
        await made.put_market()
        made.people.pop()  # has money and a key, and trades by hand
        made.start_trading()
        return made

    try:
        scenario = asyncio.run_coroutine_threadsafe(begin(), loop).result(3 * SECONDS)
        yield Stage(ground, scenario, loop)
    finally:
        if scenario is not None:
            asyncio.run_coroutine_threadsafe(scenario.__aexit__(None, None, None), loop).result(SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()
        end(ground)
