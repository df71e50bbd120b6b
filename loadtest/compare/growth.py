"""Measures how the engine's CPU time for a command grows with resting orders and with products, in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

from statemachine.commands import AnyCommand, Batch, CancelOrder, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.commands import decode_batch as decode
from statemachine.commands import encode_batch as encode
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, Side

ORDERS_AN_ACCOUNT = 5_000
BATCH = 100
TICK = 10_000
MID_TICKS = 5_000_000
LEVELS = 2_000


class Market:
    """`orders` resting orders of as many accounts as they need, spread over `products` products; after that a flow that
    keeps their number.
    """

    def __init__(self, orders: int, products: int) -> None:
        self._accounts = [f"account-{number}" for number in range(max(4, -(-orders // ORDERS_AN_ACCOUNT)))]
        self._products = [f"P{number}-USD" for number in range(products)]
        self._placed = 0
        self._cancelled = 0
        self.engine = Engine()
        self._apply(self._foundations())
        for start in range(0, orders, BATCH):
            self._apply([self._place() for _ in range(min(BATCH, orders - start))])

    def cpu_microseconds(self, commands: int) -> float:
        """Measure the CPU time of decoding and applying a command of a flow. An order is cancelled, one rests, and
        every tenth trades."""
        flow = self._trading()
        entries = [encode(Batch(10**15, [next(flow) for _ in range(BATCH)])) for _ in range(commands // BATCH)]
        gc.collect()
        begin = time.process_time()
        for entry in entries:
            self.engine.apply(decode(entry))
        return (time.process_time() - begin) / (len(entries) * BATCH) * 1e6

    def _apply(self, commands: list[AnyCommand]) -> None:
        self.engine.apply(decode(encode(Batch(10**15, commands))))

    def _foundations(self) -> list[AnyCommand]:
        """Return the commands that create currencies, products and accounts."""
        return [
            PutCurrency(OPERATOR, "usd", "USD", 6),
            PutCurrency(OPERATOR, "btc", "BTC", 8),
            *(
                PutProduct(OPERATOR, f"put-{name}", name, "BTC", "USD", TICK, TICK, TICK, 10**12, 1_000, 2_000)
                for name in self._products
            ),
            *(OpenAccount(OPERATOR, f"open-{name}", name) for name in self._accounts),
            *(Deposit(name, f"deposit-{currency}", currency, 10**15) for name in self._accounts for currency in ("USD", "BTC")),
        ]

    def _place(self) -> PlaceOrder:
        """Return the next resting order."""
        number = self._placed
        self._placed += 1
        buys = number % 2 == 0
        away = (100 + number * 7 % LEVELS) * (-1 if buys else 1)
        account = self._accounts[number % len(self._accounts)]
        product = self._products[number // 2 % len(self._products)]
        side = Side.BUY if buys else Side.SELL
        price, size = (MID_TICKS + away) * TICK, TICK * (1 + number % 50)
        return PlaceOrder(account, f"c:{number}", product, side, OrderType.LIMIT, price, size, client_oid=f"o{number}")

    def _trading(self) -> Iterator[AnyCommand]:
        """Yield cancels, new orders and some trades, so that about as many orders rest as before."""
        taken = 0
        while True:
            number = self._cancelled
            self._cancelled += 1
            yield CancelOrder(self._accounts[number % len(self._accounts)], f"x:{number}", 0, f"o{number}")
            yield self._place()
            if number % 5 == 0:
                taken += 1
                account, product = self._accounts[taken % len(self._accounts)], self._products[taken % len(self._products)]
                side = Side.BUY if taken % 2 else Side.SELL
                yield PlaceOrder(
                    account, f"t:{taken}", product, side, OrderType.MARKET, 0, TICK * 20, 10**13 if side is Side.BUY else 0
                )


def growth(orders: tuple[int, int], products: tuple[int, int], commands: int, rounds: int) -> list[tuple[float, float]]:
    """Measure two sizes in turns. Returns the CPU microseconds for a command in each round, of the second size and of
    the first."""
    small, large = Market(orders[0], products[0]), Market(orders[1], products[1])
    return [(large.cpu_microseconds(commands), small.cpu_microseconds(commands)) for _ in range(rounds)]
