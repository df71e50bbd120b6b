"""The state of the exchange in memory, and the few ways in which money and orders move.

Every other module changes the state through the methods here, so the invariants have one place to hold:

- money moves only in `deposit`, `withdraw`, `transfer`, `Balance.lock`, `Balance.release` and `matching.trade`;
- an order becomes known when it rests, waits off the book, or is done, never before, and is forgotten in the order of leaving.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sortedcontainers import SortedDict

from statemachine.book import Book, StopBook
from statemachine.changes import Changes
from statemachine.draining import drain
from statemachine.events import AnyEvent, OrderState
from statemachine.limits import DONE_ORDERS_PER_ACCOUNT, PPM
from statemachine.remember import OutcomeMemory
from statemachine.tables import ApiKeyRow, BalanceRow, CurrencyRow, ProductRow
from statemachine.types import DoneReason, OrderStatus, OrderType, ProductStatus, Side

# Looked up once: a member of an enumeration costs ten times as much when it is looked up in its class.
_BUY, _SELL, _MARKET, _DONE = Side.BUY, Side.SELL, OrderType.MARKET, OrderStatus.DONE


@dataclass(slots=True)
class Balance:
    """An account's money in one currency. Neither number is ever negative."""

    available: int = 0
    hold: int = 0

    def lock(self, amount: int) -> None:
        """Move from available to hold."""
        self.available -= amount
        self.hold += amount

    def release(self, amount: int) -> None:
        """Move from hold to available."""
        self.hold -= amount
        self.available += amount


@dataclass(slots=True)
class Currency:
    """A currency. After every command: the sum of all balances in it + `fees` == `deposited` - `withdrawn`."""

    name: str
    scale: int
    deposited: int = 0
    withdrawn: int = 0
    fees: int = 0

    def row(self) -> CurrencyRow:
        """As it is stored and shown."""
        return CurrencyRow(self.name, self.scale, self.deposited, self.withdrawn, self.fees)


class Product:
    """A product, its counters, its book, the orders that an auction collected, and its waiting stop orders.

    `unit` is one whole base coin in base units: what prices are per.
    """

    __slots__ = (
        "base",
        "book",
        "collected",
        "last_price",
        "last_trade_id",
        "lot",
        "maker_fee_ppm",
        "max_size",
        "min_size",
        "product_id",
        "quote",
        "sequence",
        "status",
        "stops",
        "taker_fee_ppm",
        "tick",
        "unit",
        "version",
    )

    def __init__(self, row: ProductRow, unit: int) -> None:
        self.product_id = row.product_id
        self.base = row.base
        self.quote = row.quote
        self.tick = row.tick
        self.lot = row.lot
        self.unit = unit
        self.sequence = row.product_sequence
        self.last_trade_id = row.last_trade_id
        self.last_price = row.last_price
        self.book = Book()
        self.collected = Book()
        self.stops = StopBook()
        self.min_size = row.min_size
        self.max_size = row.max_size
        self.maker_fee_ppm = row.maker_fee_ppm
        self.taker_fee_ppm = row.taker_fee_ppm
        self.status: ProductStatus = row.status
        self.version = row.version

    def notional(self, price: int, size: int) -> int:
        """What `size` costs at `price`, without fees. Exact: tick * lot is a whole multiple of `unit`."""
        return price * size // self.unit

    def hold_for(self, order: OrderState) -> int:
        """What a limit order must hold for what remains of it.

        A sell holds the size. A buy holds the notional at its own price and the larger of its two fees on that, rounded down. It
        suffices: parts of a whole, each rounded down, never sum to more than the whole rounded down, and nobody buys above his price.
        """
        if order.side is _SELL:
            return order.remaining
        notional = order.price * order.remaining // self.unit
        return notional + notional * max(order.maker_fee_ppm, order.taker_fee_ppm) // PPM

    def row(self) -> ProductRow:
        """As it is stored and shown."""
        return ProductRow(
            self.product_id,
            self.base,
            self.quote,
            self.tick,
            self.lot,
            self.min_size,
            self.max_size,
            self.maker_fee_ppm,
            self.taker_fee_ppm,
            self.status,
            self.sequence,
            self.last_trade_id,
            self.last_price,
            self.version,
        )


@dataclass(slots=True)
class Account:
    """An account: money, open orders, recently done ones, remembered commands."""

    account_id: str
    opened_at: int
    balances: dict[str, Balance] = field(default_factory=dict)
    open: dict[int, OrderState] = field(default_factory=dict)
    """Open orders by id, those included that wait off the book. Ids only grow, so this is oldest first, also after a restore."""
    done: deque[OrderState] = field(default_factory=deque)
    """The latest done orders in the order of leaving, bounded by `limits.DONE_ORDERS_PER_ACCOUNT`."""
    done_count: int = 0
    """Orders ever done; the last of `done` has the number `done_count`."""
    by_client_oid: dict[str, OrderState] = field(default_factory=dict)
    """The latest known order of each `client_oid`. At most one open order has it, so an open one is the latest."""
    memory: OutcomeMemory = field(default_factory=OutcomeMemory)

    def available(self, currency: str) -> int:
        """What can be spent now."""
        balance = self.balances.get(currency)
        return balance.available if balance is not None else 0

    def balance_rows(self) -> list[BalanceRow]:
        """All balances, by currency."""
        return [BalanceRow(self.account_id, name, b.available, b.hold) for name, b in sorted(self.balances.items())]


class State:
    """All that the engine knows: what is in the tables, arranged for speed.

    `orders` holds every known order, open or recently done, of which `done_count` are done; `balance_count` and `outcome_count` are summed over
    all accounts, the operator included; `expiring` has the open orders whose time is limited, by (expires_at, order_id); `events` are those of the
    batch under way. `changes` is no part of the state: it serves snapshots.

    `former`: which version wrote the batch under way, as in `Batch.former`. Some nodes have what came of it in a snapshot of that version; so
    whoever applies it now must come to the same rows: the rules of that version hold, and columns that are newer have their defaults.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.last_order_id = 0
        self.time = 0
        self.hash = bytes(16)
        self.currencies: dict[str, Currency] = {}
        self.products: dict[str, Product] = {}
        self.accounts: dict[str, Account] = {}
        self.api_keys: dict[str, ApiKeyRow] = {}
        self.orders: dict[int, OrderState] = {}
        self.expiring: SortedDict = SortedDict()
        self.operator_memory = OutcomeMemory()
        self.done_count = 0
        self.balance_count = 0
        self.outcome_count = 0
        self.events: list[AnyEvent] = []
        self.former = 0
        self.changes = Changes()

    def balance(self, account: Account, currency: str) -> Balance:
        """An account's balance in a currency, made when it is touched first."""
        balance = account.balances.get(currency)
        if balance is None:
            balance = account.balances[currency] = Balance()
            self.balance_count += 1
        return balance

    def paying(self, order: OrderState) -> Balance:
        """The balance in which an order holds: quote for a buy, base for a sell."""
        product = self.products[order.product_id]
        return self.accounts[order.account_id].balances[product.quote if order.side is _BUY else product.base]

    def set_hold(self, order: OrderState, hold: int) -> None:
        """Lower what an order holds to `hold`; the rest is available again."""
        self.paying(order).release(order.hold - hold)
        order.hold = hold

    def wait(self, order: OrderState) -> None:
        """Keep a new order that is accepted and does not go on the book yet."""
        order.status = OrderStatus.ACTIVE
        self.keep(order)

    def keep(self, order: OrderState) -> None:
        """An order, on the book or waiting, is among its account's open ones from now on, if it was not before."""
        self.accounts[order.account_id].open[order.order_id] = order
        self.orders[order.order_id] = order
        self.changes.order_came(order)
        if order.expires_at:
            self.expiring[order.expires_at, order.order_id] = order

    def touch(self, order: OrderState) -> None:
        """Before an open order of any account, or the account's money, changes."""
        account = self.accounts[order.account_id]
        self.changes.touch(order.account_id, account, account.memory)
        self.changes.touch_order(order)

    def finish(self, order: OrderState, reason: DoneReason) -> None:
        """An order leaves for good: nothing stays on hold, and it joins the account's done ones. It must be off the book."""
        account = self.accounts[order.account_id]
        if order.order_id in account.open:
            self.changes.touch_order(order)
            del account.open[order.order_id]
            self.changes.order_left(order)
            if order.expires_at:
                del self.expiring[order.expires_at, order.order_id]
        if order.hold:
            self.set_hold(order, 0)
        order.status = _DONE
        order.done_reason = reason
        order.done_at = self.time
        account.done_count += 1
        self.add_done(account, order)
        if len(account.done) > DONE_ORDERS_PER_ACCOUNT:
            self._forget(account, account.done.popleft())

    def add_done(self, account: Account, order: OrderState) -> None:
        """Put an order in its places as a done one."""
        self.orders[order.order_id] = order
        account.done.append(order)
        self.done_count += 1

    def release(self) -> None:
        """Empty it in small steps (`draining`): it is of no use any more. O(everything).

        It and the view frozen of it last refer to each other, so without this only the garbage collector would let go of them.
        """
        self.changes.release()
        self.operator_memory.release()
        while self.products:
            product = self.products.popitem()[1]
            for side in (product.book.bids, product.book.asks, product.collected.bids, product.collected.asks):
                side.release()
            product.stops.release()
        while self.accounts:
            account = self.accounts.popitem()[1]
            drain(account.open, account.by_client_oid, account.done)
            account.memory.release()
        drain(self.expiring, self.api_keys, self.orders)

    def _forget(self, account: Account, order: OrderState) -> None:
        """Let go of an old done order."""
        del self.orders[order.order_id]
        self.done_count -= 1
        if account.by_client_oid.get(order.client_oid) is order:
            del account.by_client_oid[order.client_oid]


def is_by_funds(order: OrderState) -> bool:
    """Is it a market order without a size?"""
    return order.order_type is _MARKET and order.size == 0
