"""Orders, accounts, products and price levels in memory, and their references to each other.

The fields of an order are those of `events.OrderState`, which is how an order is shown, sent and stored. In memory an
order refers to its account and its product, and it is an element of two linked queues: that of its price level, and
that of its account's open orders. So moving or removing it needs no look-up. Choices (side, status, ...) are plain
integers with the values of the enumerations: compare them with `==`.

Orders refer to each other. The garbage collector does not track them, so a million of them do not slow it down.
`State.clear` breaks the reference cycles.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
from sortedcontainers import SortedDict

from statemachine.commands import AmendOrder, CancelOrder, NewOrder, PlaceOrder, ReplaceOrder
from statemachine.events import OrderState, OrderTerms
from statemachine.exact import fee, notional
from statemachine.limits import AMOUNT_MAX, CANCEL_AFTER_MIN
from statemachine.reply_cache import ReplyCache
from statemachine.tables import BalanceRow, CurrencyRow, ProductLimitsRow, ProductRow
from statemachine.types import (
    DoneReason,
    Opening,
    OrderStatus,
    OrderType,
    ProductStatus,
    SelfTradePrevention,
    Side,
    StatusCause,
    StopType,
    TimeInForce,
)
from statemachine.writer import Writer

if TYPE_CHECKING:
    from statemachine.book import BookSide, Collection, StopBook
    from statemachine.changes import AccountChanges
    from statemachine.order_index import OrdersByOid
    from statemachine.streams import Stream

_TURN = 2**62
"""The amount that is subtracted from both counters of a currency at a time."""

_encode = msgspec.msgpack.Encoder().encode
_FIELDS = len(OrderState.__struct_fields__)
_MARKET: int = OrderType.MARKET
_BUY: int = Side.BUY
_SELL: int = Side.SELL


class Balance:
    """An account's money in one currency. Neither number is ever negative."""

    __slots__ = ("available", "hold")

    def __init__(self, available: int = 0, hold: int = 0) -> None:
        self.available = available
        self.hold = hold

    def lock(self, amount: int) -> None:
        """Move from available to hold."""
        self.available -= amount
        self.hold += amount

    def unhold(self, amount: int) -> None:
        """Move from hold to available."""
        self.hold -= amount
        self.available += amount


_NO_BALANCE = Balance()
"""What an account has in place of a pair of balances before its first order."""


class Currency:
    """A currency. After every command: the sum of all balances in it + `fees` == `deposited` - `withdrawn`."""

    __slots__ = ("deposited", "fees", "name", "scale", "turnover", "withdrawn")

    def __init__(self, name: str, scale: int, deposited: int = 0, withdrawn: int = 0, fees: int = 0, turnover: int = 0) -> None:
        self.name = name
        self.scale = scale
        self.deposited = deposited
        self.withdrawn = withdrawn
        self.fees = fees
        self.turnover = turnover

    def withdraw(self, amount: int) -> None:
        """Count money that is withdrawn. The counters stay below 2**63: see `tables.CurrencyRow.turnover`."""
        self.withdrawn += amount
        if self.withdrawn >= _TURN:
            self.withdrawn -= _TURN
            self.deposited -= _TURN
            self.turnover += 1

    def row(self) -> CurrencyRow:
        """Return the row as it is stored and shown."""
        return CurrencyRow(self.name, self.scale, self.deposited, self.withdrawn, self.fees, self.turnover)


class PriceLevel:
    """The resting orders at one price, first come, first served: a queue that begins with `first`.

    `total` is the sum of their remaining sizes, `hidden` that of the reserves of icebergs. A level in a book is never
    empty.
    """

    __slots__ = ("count", "first", "hidden", "key", "last", "price", "total")

    def __init__(self, price: int, key: int) -> None:
        self.price = price
        self.key = key
        self.total = 0
        self.hidden = 0
        self.count = 0
        self.first: Order | None = None
        self.last: Order | None = None

    def append(self, order: Order) -> None:
        """Put an order at the end of the queue. O(1)."""
        last = self.last
        if last is None:
            self.first = order
        else:
            last.behind = order
            order.ahead = last
        self.last = order
        order.level = self
        self.total += order.remaining
        self.hidden += order.reserve
        self.count += 1

    def unlink(self, order: Order) -> None:
        """Remove an order from the queue, with all that remains of it. O(1)."""
        ahead, behind = order.ahead, order.behind
        if ahead is None:
            self.first = behind
        else:
            ahead.behind = behind
            order.ahead = None
        if behind is None:
            self.last = ahead
        else:
            behind.ahead = ahead
            order.behind = None
        order.level = None
        self.total -= order.remaining
        self.hidden -= order.reserve
        self.count -= 1

    def orders(self) -> list[Order]:
        """Return the queue."""
        found: list[Order] = []
        order = self.first
        while order is not None:
            found.append(order)
            order = order.behind
        return found


class Product:
    """A product, its counters, its book, the orders that an auction collected, its waiting stop orders, and its
    unfinished work.

    `unit` is one whole base coin in base units; prices are for that amount. `bids` and `asks` are its book, `buys` and
    `sells` what an auction collected, which `collection` finds by order id and account. `expiring` has its open orders
    whose time is limited, by (expires_at, order_id). `triggered` has stop orders that trades triggered, `arrivals` new
    orders that are accepted, each in the order in which they enter; `busy` says that later log entries continue any of
    this, an order that has expired, or the opening of an auction (`pending`). `cause` and `until`: see
    `events.StatusChanged`; `controls` are its limits, None where it has none. `band` are the lowest and the highest
    price of its collar in a limit state, else None. `collar` are those for the order that matches now, None if it may
    trade at any price; it is not part of the state.
    """

    __slots__ = (
        "arrivals",
        "asks",
        "band",
        "base",
        "bids",
        "busy",
        "buys",
        "cause",
        "collar",
        "collection",
        "controls",
        "currency",
        "expiring",
        "last_price",
        "last_trade_id",
        "lot",
        "maker_fee_ppm",
        "max_size",
        "min_size",
        "opening",
        "opening_price",
        "opening_size",
        "product_id",
        "quote",
        "sells",
        "sequence",
        "status",
        "stops",
        "taker_fee_ppm",
        "tick",
        "trigger_high",
        "trigger_low",
        "triggered",
        "unit",
        "until",
        "version",
    )

    def __init__(
        self,
        row: ProductRow,
        currency: Currency,
        unit: int,
        sides: tuple[BookSide, ...],
        stops: StopBook,
        collection: Collection,
    ) -> None:
        self.product_id = row.product_id
        self.base = row.base
        self.quote = row.quote
        self.currency = currency
        self.tick = row.tick
        self.lot = row.lot
        self.unit = unit
        self.sequence = row.product_sequence
        self.last_trade_id = row.last_trade_id
        self.last_price = row.last_price
        self.bids, self.asks, self.buys, self.sells = sides
        self.stops = stops
        self.min_size = row.min_size
        self.max_size = row.max_size
        self.maker_fee_ppm = row.maker_fee_ppm
        self.taker_fee_ppm = row.taker_fee_ppm
        self.status: int = row.status
        self.version = row.version
        self.collection = collection
        self.expiring: SortedDict = SortedDict()
        self.triggered: OrderedDict[int, Order] = OrderedDict()
        self.arrivals: OrderedDict[int, Order] = OrderedDict()
        self.trigger_low = row.trigger_low
        self.trigger_high = row.trigger_high
        self.opening: int = row.opening
        self.opening_price = row.opening_price
        self.opening_size = row.opening_size
        self.busy = False
        self.cause: int = row.cause
        self.until = row.until
        self.controls: ProductLimitsRow | None = None
        self.band: tuple[int, int] | None = None
        self.collar: tuple[int, int] | None = None

    def notional(self, price: int, size: int) -> int:
        """Return the notional of `size` at `price`, in quote units. It is exact, because tick * lot is a whole multiple
        of `unit`.
        """
        return notional(price, size, self.unit)

    def hold_for(self, order: Order) -> int:
        """Return the hold that a limit order needs for its remaining size."""
        return self.hold_at(order, order.price, order.remaining + order.reserve)

    def hold_at(self, order: Order, price: int, remaining: int) -> int:
        """Return the hold that a limit order would need with this price and remaining size. The order does not change.

        A sell holds the size. A buy holds the notional at its own price and the larger of its two fees on that, less
        its credit, rounded up. It suffices exactly: what a fill pays above the exact rate is the credit of later fills,
        and a buy never trades above its price.
        """
        if order.side == _SELL:
            return remaining
        cost = notional(price, remaining, self.unit)
        return cost + self.highest_fee(cost, max(order.maker_fee_ppm, order.taker_fee_ppm), order.fee_credit)

    def highest_fee(self, cost: int, ppm: int, credit: int) -> int:
        """Return the part of a hold for the fees on a notional."""
        return fee(cost, ppm, credit)

    def side(self, side: int) -> BookSide:
        """Return the book side on which orders of `side` rest."""
        return self.bids if side == _BUY else self.asks

    def opposite(self, side: int) -> BookSide:
        """Return the book side with which orders of `side` trade."""
        return self.asks if side == _BUY else self.bids

    def collected(self, side: int) -> BookSide:
        """Return the side of the auction book for orders of `side`."""
        return self.buys if side == _BUY else self.sells

    def row(self) -> ProductRow:
        """Return the row as it is stored and shown."""
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
            ProductStatus(self.status),
            self.sequence,
            self.last_trade_id,
            self.last_price,
            self.version,
            self.trigger_low,
            self.trigger_high,
            Opening(self.opening),
            self.opening_price,
            self.opening_size,
            StatusCause(self.cause),
            self.until,
        )


def _orders_by_oid() -> OrdersByOid:
    from statemachine.order_index import OrdersByOid  # which imports this module

    return OrdersByOid()


class DoneOrders:
    """The done orders of an account that can still be read: a queue in the order of leaving, linked by `Order.newer`."""

    __slots__ = ("_newest", "_oldest", "count")

    def __init__(self) -> None:
        self.count = 0
        self._oldest: Order | None = None
        self._newest: Order | None = None

    def append(self, order: Order) -> None:
        """Put an order that is done at the end. O(1)."""
        newest = self._newest
        if newest is None:
            self._oldest = order
        else:
            newest.newer = order
        self._newest = order
        self.count += 1

    def popleft(self) -> Order:
        """Remove the oldest order. There is one. O(1)."""
        order = self._oldest
        assert order is not None, "there is a done order"
        self._oldest = order.newer
        order.newer = None
        if self._oldest is None:
            self._newest = None
        self.count -= 1
        return order

    def clear_some(self, most: int) -> bool:
        """Remove at most `most` orders. Returns whether orders are left. `teardown.clear` calls it."""
        while most and self._oldest is not None:
            self.popleft()
            most -= 1
        return self._oldest is not None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Order]:
        order = self._oldest
        while order is not None:
            yield order
            order = order.newer


class Account:
    """An account: money, open orders, recently done orders, reply caches.

    Attributes:
        oldest, newest: the ends of the queue of open orders, including those that wait off the book. Ids only grow, so
            the queue is in the order of ids, even after a restore.
        open_count: the number of open orders.
        done: the latest done orders in the order of leaving, bounded by `limits.DONE_ORDERS_PER_ACCOUNT`.
        done_count: orders ever done; the last of `done` has the number `done_count`.
        by_client_oid: the latest known order of each `client_oid`. At most one open order has it, so an open one is the
            latest.
        changes: its changes since the last freeze; see `changes`.
        replies: the reply cache of its orders.
        other_replies: the reply caches of its deposits, withdrawals and transfers, by the tag of the command, and of
            rejected commands; see `commands.REPLY_CACHE_KINDS`.
        streams: its active report streams, by name; None where it has none.
        paired: the product whose currencies `base` and `quote` are in; see `State.pair`.
    """

    __slots__ = (
        "account_id",
        "balances",
        "base",
        "by_client_oid",
        "changes",
        "done",
        "done_count",
        "newest",
        "oldest",
        "open_count",
        "opened_at",
        "other_replies",
        "paired",
        "quote",
        "replies",
        "streams",
        "touched",
    )

    def __init__(self, account_id: str, opened_at: int) -> None:
        self.account_id = account_id
        self.opened_at = opened_at
        self.balances: dict[str, Balance] = {}
        self.oldest: Order | None = None
        self.newest: Order | None = None
        self.open_count = 0
        self.done = DoneOrders()
        self.done_count = 0
        self.by_client_oid: OrdersByOid = _orders_by_oid()
        self.replies = ReplyCache()
        self.changes: AccountChanges | None = None
        self.other_replies: dict[int, ReplyCache] = {}
        self.streams: list[Stream] | None = None
        self.touched = 0
        self.paired: Product | None = None
        self.base = self.quote = _NO_BALANCE

    def available(self, currency: str) -> int:
        """Return the available amount of a currency."""
        balance = self.balances.get(currency)
        return balance.available if balance is not None else 0

    def balance_rows(self) -> list[BalanceRow]:
        """Return all balances, by currency."""
        return [BalanceRow(self.account_id, name, b.available, b.hold) for name, b in sorted(self.balances.items())]

    def list_order(self, order: Order) -> None:
        """Append a new open order. O(1)."""
        newest = self.newest
        if newest is None:
            self.oldest = order
        else:
            newest.newer = order
            order.older = newest
        self.newest = order
        order.listed = True
        self.open_count += 1

    def unlist_order(self, order: Order) -> None:
        """Remove an order that is no longer open. O(1)."""
        older, newer = order.older, order.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
            order.older = None
        if newer is None:
            self.newest = older
        else:
            newer.older = older
            order.newer = None
        order.listed = False
        self.open_count -= 1

    def newest_first(self) -> Iterator[Order]:
        """Yield the open orders, newest first. None may be added or removed during the iteration."""
        order = self.newest
        while order is not None:
            yield order
            order = order.older

    def open_orders(self) -> list[Order]:
        """Return the open orders, oldest first."""
        found: list[Order] = []
        order = self.oldest
        while order is not None:
            found.append(order)
            order = order.newer
        return found


class Placing:
    """The fields of a `commands.PlaceOrder`, by the same names, before validation. Numbers may be of any size.
    Validation adds the product, and the fee rates that the order gets. `life_min` is the shortest `cancel_after` that is
    valid.
    """

    __slots__ = (
        "cancel_after",
        "client_oid",
        "funds",
        "life_min",
        "maker_fee_ppm",
        "order_type",
        "post_only",
        "price",
        "product",
        "product_id",
        "side",
        "size",
        "stop",
        "stop_price",
        "stp",
        "taker_fee_ppm",
        "time_in_force",
    )

    def __init__(self) -> None:
        self.product: Product | None = None
        self.product_id = ""
        self.side: int = 0
        self.order_type: int = 0
        self.price = 0
        self.size = 0
        self.funds = 0
        self.time_in_force: int = 0
        self.post_only = False
        self.stp: int = 0
        self.client_oid = ""
        self.stop: int = 0
        self.stop_price = 0
        self.cancel_after = 0
        self.life_min = CANCEL_AFTER_MIN
        self.maker_fee_ppm = 0
        self.taker_fee_ppm = 0

    def take(self, command: PlaceOrder | NewOrder) -> None:
        """Set the fields to those of a command."""
        self.product_id = command.product_id
        self.side = int(command.side)
        self.order_type = int(command.order_type)
        self.price = command.price
        self.size = command.size
        self.funds = command.funds
        self.time_in_force = int(command.time_in_force)
        self.post_only = command.post_only
        self.stp = int(command.stp)
        self.client_oid = command.client_oid
        self.stop = int(command.stop)
        self.stop_price = command.stop_price
        self.cancel_after = command.cancel_after


class Cancelling:
    """The fields of a `commands.CancelOrder`, by the same names. An impossible order id is stored as -1."""

    __slots__ = ("client_oid", "command_id", "order_id", "product_id")

    def __init__(self) -> None:
        self.command_id = ""
        self.order_id = 0
        self.client_oid = ""
        self.product_id = ""

    def take(self, command: CancelOrder | AmendOrder | ReplaceOrder) -> None:
        """Set the fields to those of a command."""
        self.command_id = command.command_id
        self.order_id = command.order_id if command.order_id <= AMOUNT_MAX else -1
        self.client_oid = command.client_oid
        self.product_id = command.product_id


class Order:
    """See the module, and `events.OrderState` for the fields.

    Attributes:
        level: its price level, on the order book or the auction book; None elsewhere.
        ahead, behind: its neighbours in the level's queue.
        older, newer: its neighbours among its account's open orders; for a done order, newer is the next one of its
            account's done orders.
        listed: whether it is in the queue of open orders.
        terms: its options, see `options`; None for a plain order.
        reserve: the hidden size of an iceberg on the book; `remaining` is the slice that it shows then (`icebergs`).
        touched: the epoch in which its change was recorded; see `changes`.
    """

    __slots__ = (
        "account",
        "ahead",
        "behind",
        "client_oid",
        "created_at",
        "done_at",
        "done_reason",
        "executed_value",
        "expires_at",
        "fee_credit",
        "fill_fees",
        "filled_size",
        "funds",
        "hold",
        "level",
        "listed",
        "maker_fee_ppm",
        "newer",
        "older",
        "opened_sequence",
        "order_id",
        "order_type",
        "post_only",
        "price",
        "product",
        "queued",
        "remaining",
        "reserve",
        "side",
        "size",
        "status",
        "stop",
        "stop_price",
        "stp",
        "taker_fee_ppm",
        "terms",
        "time_in_force",
        "touched",
    )

    def __init__(self, order_id: int, account: Account, product: Product) -> None:
        self.order_id = order_id
        self.account = account
        self.product = product
        self.client_oid = ""
        self.side: int = 0
        self.order_type: int = 0
        self.price = 0
        self.size = 0
        self.funds = 0
        self.time_in_force: int = 0
        self.post_only = False
        self.stp: int = 0
        self.created_at = 0
        self.maker_fee_ppm = 0
        self.taker_fee_ppm = 0
        self.remaining = 0
        self.hold = 0
        self.filled_size = 0
        self.executed_value = 0
        self.fill_fees = 0
        self.status: int = 1
        self.done_reason: int = 0
        self.done_at = 0
        self.stop: int = 0
        self.stop_price = 0
        self.expires_at = 0
        self.opened_sequence = 0
        self.queued = 0
        self.fee_credit = 0
        self.terms: OrderTerms | None = None
        self.reserve = 0
        self.level: PriceLevel | None = None
        self.ahead: Order | None = None
        self.behind: Order | None = None
        self.older: Order | None = None
        self.newer: Order | None = None
        self.listed = False
        self.touched = 0

    @property
    def account_id(self) -> str:
        """The id of its account."""
        return self.account.account_id

    @property
    def product_id(self) -> str:
        """The id of its product."""
        return self.product.product_id

    def is_by_funds(self) -> bool:
        """Return whether it is a market order without a size."""
        return self.order_type == _MARKET and self.size == 0

    def write(self, writer: Writer) -> None:
        """Append it as `events.OrderState` is encoded."""
        writer.array(_FIELDS)
        writer.number(self.order_id)
        writer.text(self.account.account_id)
        writer.text(self.client_oid)
        writer.text(self.product.product_id)
        writer.number(self.side)
        writer.number(self.order_type)
        writer.number(self.price)
        writer.number(self.size)
        writer.number(self.funds)
        writer.number(self.time_in_force)
        writer.flag(self.post_only)
        writer.number(self.stp)
        writer.number(self.created_at)
        writer.number(self.maker_fee_ppm)
        writer.number(self.taker_fee_ppm)
        writer.number(self.remaining + self.reserve)
        writer.number(self.hold)
        writer.number(self.filled_size)
        writer.number(self.executed_value)
        writer.number(self.fill_fees)
        writer.number(self.status)
        writer.number(self.done_reason)
        writer.number(self.done_at)
        writer.number(self.stop)
        writer.number(self.stop_price)
        writer.number(self.expires_at)
        writer.number(self.opened_sequence)
        writer.number(self.queued)
        writer.number(self.fee_credit)
        if self.terms is None:
            writer.nothing()
        else:
            writer.raw(_encode(self.shown_terms()))

    def shown_terms(self) -> OrderTerms | None:
        """Return the terms as they are stored, with the slice of an iceberg."""
        if self.terms is None or not self.reserve:
            return self.terms
        return msgspec.structs.replace(self.terms, visible=self.remaining)

    def row(self) -> OrderState:
        """Return the row as it is stored and shown: a copy."""
        return OrderState(
            self.order_id,
            self.account.account_id,
            self.client_oid,
            self.product.product_id,
            Side(self.side),
            OrderType(self.order_type),
            self.price,
            self.size,
            self.funds,
            TimeInForce(self.time_in_force),
            bool(self.post_only),
            SelfTradePrevention(self.stp),
            self.created_at,
            self.maker_fee_ppm,
            self.taker_fee_ppm,
            self.remaining + self.reserve,
            self.hold,
            self.filled_size,
            self.executed_value,
            self.fill_fees,
            OrderStatus(self.status),
            DoneReason(self.done_reason),
            self.done_at,
            StopType(self.stop),
            self.stop_price,
            self.expires_at,
            self.opened_sequence,
            self.queued,
            self.fee_credit,
            self.shown_terms(),
        )


def order_of_row(row: OrderState, account: Account, product: Product) -> Order:
    """Return the order of a row. It is not in any queue yet."""
    order = Order(row.order_id, account, product)
    order.client_oid = row.client_oid
    order.side = int(row.side)
    order.order_type = int(row.order_type)
    order.price = row.price
    order.size = row.size
    order.funds = row.funds
    order.time_in_force = int(row.time_in_force)
    order.post_only = row.post_only
    order.stp = int(row.stp)
    order.created_at = row.created_at
    order.maker_fee_ppm = row.maker_fee_ppm
    order.taker_fee_ppm = row.taker_fee_ppm
    order.remaining = row.remaining
    order.hold = row.hold
    order.filled_size = row.filled_size
    order.executed_value = row.executed_value
    order.fill_fees = row.fill_fees
    order.status = int(row.status)
    order.done_reason = int(row.done_reason)
    order.done_at = row.done_at
    order.stop = int(row.stop)
    order.stop_price = row.stop_price
    order.expires_at = row.expires_at
    order.opened_sequence = row.opened_sequence
    order.queued = row.queued
    order.fee_credit = row.fee_credit
    if row.terms is not None:
        order.terms = row.terms
        if row.terms.visible:
            order.terms = msgspec.structs.replace(row.terms, visible=0)
            order.reserve, order.remaining = row.remaining - row.terms.visible, row.terms.visible
    return order
