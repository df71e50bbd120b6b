"""A book for the facts of other engines' tests: one product, prices and sizes as whole numbers, orders under the
numbers of the source.

Other engines let an account trade with itself and keep no balances. So each order here belongs to the account that its
source names, and every account is rich. What is compared is what other engines state: who traded with whom, at what
price, how much, and the book that is left.
"""

from __future__ import annotations

from typing import NamedTuple

from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelOrder,
    Deposit,
    OpenAccount,
    PlaceOrder,
    PutCurrency,
    PutProduct,
    decode_batch,
    encode_batch,
)
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, OrderMatched, OrderReceived, Placed, Rejected
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, ProductStatus, SelfTradePrevention, Side, StopType, TimeInForce

PRODUCT = "XBT-USD"
RICH = 10**15

Trade = tuple[int, int, int]
"""(number of the resting order, price, size)."""
Level = tuple[int, int, int]
"""(price, size, number of orders)."""


class Result(NamedTuple):
    """What an order led to: the trades in their order, what is left of it, whether it rests, and why it was rejected."""

    trades: list[Trade]
    left: int
    rests: bool
    reject: str


class ForeignBook:
    """One product without fees or ticks; accounts are opened as they appear."""

    def __init__(self, *, maker_ppm: int = 0, taker_ppm: int = 0) -> None:
        self.engine = Engine()
        self.commands = 0
        self.next_order_id = 1
        self.numbers: dict[int, int] = {}
        self.order_ids: dict[int, int] = {}
        self.owners: dict[int, str] = {}
        self.waiting: set[int] = set()
        self.triggered: list[int] = []
        self.accounts: set[str] = set()
        for currency in ("XBT", "USD"):
            self.send(PutCurrency(OPERATOR, self.new_id(), currency, 0))
        product = (PRODUCT, "XBT", "USD", 1, 1, 1, 10**9, maker_ppm, taker_ppm)
        self.send(PutProduct(OPERATOR, self.new_id(), *product, ProductStatus.ONLINE))

    def new_id(self) -> str:
        """Return a command id that no other command has."""
        self.commands += 1
        return f"c{self.commands}"

    def open(self, account: str, *, usd: int = RICH, xbt: int = RICH) -> None:
        """Open an account with this much money."""
        self.accounts.add(account)
        self.send(OpenAccount(OPERATOR, self.new_id(), account))
        self.deposit(account, "USD", usd)
        self.deposit(account, "XBT", xbt)

    def deposit(self, account: str, currency: str, amount: int) -> None:
        """Pay in."""
        if amount:
            self.send(Deposit(account, self.new_id(), currency, amount))

    def send(self, command: AnyCommand) -> tuple[AnyOutcome, list[Trade]]:
        """Apply one command in an entry of its own, through the bytes of the log. Return its outcome, and the trades in
        which a new order is the taker.
        """
        applied = self.engine.apply(decode_batch(encode_batch(Batch(self.commands, [command]))))
        self.engine.check()
        trades = []
        for event in applied.events:
            if isinstance(event, OrderMatched):
                trades.append((self.numbers[event.maker_order_id], event.price, event.size))
            elif isinstance(event, OrderReceived) and event.order_id in self.waiting:
                self.triggered.append(self.numbers[event.order_id])
        return applied.outcomes[0], trades

    def place(
        self,
        number: int,
        side: str,
        price: int,
        size: int,
        force: str = "gtc",
        *,
        account: str = "",
        stop: int = 0,
    ) -> Result:
        """Place order `number`. Price 0: a market order. `stop`: it enters when a trade comes to this price; a market
        buy then is one by funds.
        """
        owner = account or f"owner-{number}"
        if owner not in self.accounts:
            self.open(owner)
        order_id, by_funds = self.next_order_id, bool(stop) and not price and side == "bid"
        self.numbers[order_id], self.order_ids[number], self.owners[number] = number, order_id, owner
        outcome, trades = self.send(
            PlaceOrder(
                owner,
                self.new_id(),
                PRODUCT,
                Side.BUY if side == "bid" else Side.SELL,
                OrderType.LIMIT if price else OrderType.MARKET,
                price,
                0 if by_funds else size,
                size if by_funds else 0,
                TimeInForce[force.upper()] if price else TimeInForce.GTC,
                False,
                SelfTradePrevention.DC,
                "",
                (StopType.ENTRY if side == "bid" else StopType.LOSS) if stop else StopType.NONE,
                stop,
            )
        )
        if isinstance(outcome, Rejected):
            return Result([], 0, False, outcome.reason.name)
        assert isinstance(outcome, Placed)
        assert outcome.order.order_id == order_id
        self.next_order_id += 1
        if stop:
            self.waiting.add(order_id)
        return Result(trades, outcome.order.remaining, self.rests(number), "")

    def rests(self, number: int) -> bool:
        """Return whether the order is in the book."""
        order_id = self.order_ids[number]
        return any(order_id == row[2] for side in (Side.BUY, Side.SELL) for row in self.engine.book_orders(PRODUCT, side))

    def cancel(self, number: int, *, account: str = "") -> str:
        """Cancel order `number`. Return why that is not possible, else an empty string."""
        owner = account or self.owners.get(number, f"owner-{number}")
        if owner not in self.accounts:
            self.open(owner)
        outcome, _ = self.send(CancelOrder(owner, self.new_id(), self.order_ids.get(number, 10**9 + number)))
        return outcome.reason.name if isinstance(outcome, Rejected) else ""

    def levels(self, side: str) -> list[Level]:
        """Return the levels of a side of the book, best price first."""
        found: dict[int, list[int]] = {}
        for price, size, _ in self.engine.book_orders(PRODUCT, Side.BUY if side == "bid" else Side.SELL):
            level = found.setdefault(price, [0, 0])
            level[0] += size
            level[1] += 1
        return [(price, size, count) for price, (size, count) in found.items()]

    def balance(self, account: str, currency: str) -> tuple[int, int]:
        """(available, on hold)."""
        row = next((row for row in self.engine.balances(account) if row.currency == currency), None)
        return (row.available, row.hold) if row is not None else (0, 0)
