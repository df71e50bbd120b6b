"""The state of the exchange in memory, and the operations that move money and orders.

All other modules change the state through the methods here and those of `entities`, which maintain the invariants:

- money moves only in `deposit`, `withdraw`, `transfer`, `Balance.lock`, `Balance.unhold` and `matching.trade`;
- an order becomes readable when it rests, waits off the book, or is done. Done orders are dropped in the order in which
  they were done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sortedcontainers import SortedDict, SortedList

from statemachine.book import BookSide, Collection, StopBook
from statemachine.changes import Changes
from statemachine.entities import Account, Balance, Cancelling, Currency, Order, Placing, Product
from statemachine.limits import DONE_ORDERS_PER_ACCOUNT, MAKERS_PER_ORDER, WORK_PER_ENTRY
from statemachine.order_index import OrdersById
from statemachine.records import Records
from statemachine.reply_cache import ReplyCache
from statemachine.tables import KEPT, ApiKeyRow, CalendarRow, MassCancelRow, ProductRow
from statemachine.teardown import clear
from statemachine.turns import turn
from statemachine.types import OrderStatus, Scope, Side
from statemachine.writer import Writer

if TYPE_CHECKING:
    from statemachine.streams import Stream

_BUY: int = Side.BUY
_ACTIVE: int = OrderStatus.ACTIVE
_DONE: int = OrderStatus.DONE


class Requested(NamedTuple):
    """The order that a client's command cancels or amends, the id of that command, and the order's `client_oid`
    before it.
    """

    order: Order
    command_id: str
    client_oid: str


class State:
    """The contents of all tables, in the engine's data structures, and the work of the current batch.

    The tables:
        orders: every known order, open or recently done. `done_count` of them are done.
        balance_count, outcome_count: sums over all accounts, the operator included.
        next_expiry: a time before which no order expires; 0 if no order has an expiry time.
        busy: the products with unfinished work.
        mass_cancels: the unfinished `CancelAll`s (`pending`).
        records: the tables whose rows are kept as structs.
        streams: all report streams, by name.
        guarded: whether the operator has set controls.
        limited: the products in a limit state.
        fee_rules: whether there are fee tiers or overrides.
        fee_currencies: the currencies with tiers.
        fee_floors: the makers' and the takers' rates of all overrides by product, the lowest first (`fees`).
        user_keys: the ids of the users' keys that are not revoked.
        cancel_afters: the number of timers of `CancelAllAfter` of each account that has one.
        changes: what changed since the last freeze, for snapshots.

    The current batch, which is not part of the state:
        events: its events, encoded, each with a mark at its end.
        event_products: the product of each.
        outcomes: its outcomes, encoded.
        keys_put: the API keys whose permissions it may have changed.
        moment: the time up to which orders expire: that of the timer that fires, else that of the batch (`timers`).
        work: its units of work so far. It begins no more than `work_max`, and an order meets at most `makers_max`
            resting orders (`limits`).

    The current command, which is not part of the state either:
        outcome: its outcome.
        placing, cancelling: its fields.
        unchanged: whether it changed nothing.
        lowest, highest: the prices between which it traded.
        noted: orders with options that traded or left (`linked`). The partners of the first `unlinked` of them have
            left.
        requested: the order that it cancels or amends, if the order's account has report streams.
        sender: the sender of a command of the operator.
        by_venue: whether the sender has the permission for the whole venue.
    """

    def __init__(self) -> None:
        self.sequence = 0
        self.last_order_id = 0
        self.time = 0
        self.moment = 0
        self.hash = bytes(16)
        self.currencies: dict[str, Currency] = {}
        self.products: dict[str, Product] = {}
        self.accounts: dict[str, Account] = {}
        self.records: dict[str, Records[Any]] = {table.name: Records(table) for table in KEPT}
        self.api_keys: Records[ApiKeyRow] = self.records["api_key"]
        self.mass_cancels: Records[MassCancelRow] = self.records["mass_cancel"]
        self.orders = OrdersById()
        self.last_queued = 0
        self.turn = 0
        self.next_expiry = 0
        self.busy: dict[str, Product] = {}
        self.streams: dict[str, Stream] = {}
        self.killing: dict[tuple[int, str], None] = {}
        self.members: dict[str, dict[str, None]] = {}
        self.user_keys: dict[str, dict[str, None]] = {}
        self.guarded = False
        self.limited: dict[str, Product] = {}
        self.fee_rules = False
        self.fee_currencies: dict[str, None] = {}
        self.fee_floors: dict[str, tuple[SortedList, SortedList]] = {}
        self.timers: SortedDict = SortedDict()
        self.cancel_afters: dict[str, int] = {}
        self.unchanged = False
        self.requested: Requested | None = None
        self.work = 0
        self.work_max = WORK_PER_ENTRY
        self.makers_max = MAKERS_PER_ORDER
        self.operator_replies = ReplyCache()
        self.done_count = 0
        self.balance_count = 0
        self.outcome_count = 0
        self.events = Writer()
        self.event_products: list[str] = []
        self.outcome = Writer()
        self.placing = Placing()
        self.cancelling = Cancelling()
        self.outcomes = Writer()
        self.keys_put: list[str] = []
        self.sender = ""
        self.by_venue = True
        self.noted: list[Order] = []
        self.unlinked = 0
        self.lowest = 0
        self.highest = 0
        self.changes = Changes()

    def guard(self) -> None:
        """Update `guarded`, `fee_rules` and `fee_currencies` after the operator's controls or fee rules changed."""
        self.fee_currencies = dict.fromkeys(row.currency for row in self.records["fee_tiers"])
        self.fee_rules = bool(self.fee_currencies or len(self.records["fee_override"]))
        self.guarded = any(len(self.records[table]) for table in ("switch", "product_limits", "risk"))

    def calendar_of_venue(self) -> CalendarRow | None:
        """Return the trading calendar of the whole venue."""
        row = self.records["follows"].get(Scope.VENUE, "")
        found: CalendarRow | None = self.records["calendar"].get(row.calendar_id) if row is not None else None
        return found

    def new_product(self, row: ProductRow) -> Product:
        """Return a product from its row, with an empty book."""
        sides = (BookSide(-1), BookSide(+1), BookSide(-1), BookSide(+1))
        unit = 10 ** self.currencies[row.base].scale
        product = self.products[row.product_id] = Product(row, self.currencies[row.quote], unit, sides, StopBook(), Collection())
        return product

    def balance(self, account: Account, currency: str) -> Balance:
        """Return an account's balance in a currency. It is created on first use."""
        balance = account.balances.get(currency)
        if balance is None:
            balance = account.balances[currency] = Balance()
            self.balance_count += 1
        return balance

    def pair(self, account: Account, product: Product) -> None:
        """Let `base` and `quote` of an account be its balances in the currencies of a product. They are created on
        first use.

        An account mostly trades the product that it traded last, so most orders need no look-up. A balance is never
        replaced by another object, so the pair stays right.
        """
        if account.paired is not product:
            account.base, account.quote = self.balance(account, product.base), self.balance(account, product.quote)
            account.paired = product

    def paying(self, order: Order) -> Balance:
        """Return the balance in which an order holds: quote for a buy, base for a sell."""
        account = order.account
        self.pair(account, order.product)
        return account.quote if order.side == _BUY else account.base

    def set_hold(self, order: Order, hold: int) -> None:
        """Reduce the hold of an order to `hold`; the difference becomes available."""
        self.paying(order).unhold(order.hold - hold)
        order.hold = hold

    def wait(self, order: Order) -> None:
        """Store a new order that is accepted and does not go on the book yet."""
        order.status = _ACTIVE
        self.keep(order)

    def keep(self, order: Order) -> None:
        """Add an order, on the book or waiting, to its account's open orders, if it is not among them."""
        if not order.listed:
            order.account.list_order(order)
            self.orders.put(order)
            self.changes.order_came(order)
            if order.expires_at:
                order.product.expiring[order.expires_at, order.order_id] = order
                if not 0 < self.next_expiry <= order.expires_at:
                    self.next_expiry = order.expires_at

    def place_in_queue(self) -> int:
        """Return the place of the next queued order."""
        self.last_queued += 1
        return self.last_queued

    def set_busy(self, product: Product) -> None:
        """Mark the product as having unfinished work."""
        product.busy = True
        self.busy[product.product_id] = product

    def touch(self, order: Order) -> None:
        """Record an account before its money or one of its open orders changes."""
        self.changes.touch(order.account)
        self.changes.touch_order(order)

    def finish(self, order: Order, reason: int) -> None:
        """Finish an order that is off the book: unhold its money, and add it to the account's done orders."""
        account = order.account
        if order.listed:
            self.changes.touch_order(order)
            account.unlist_order(order)
            self.changes.order_left(order)
            if order.expires_at:
                del order.product.expiring[order.expires_at, order.order_id]
        else:
            self.orders.put(order)
        if order.hold:
            self.set_hold(order, 0)
        if order.terms is not None:
            self.noted.append(order)
        order.status = _DONE
        order.done_reason = reason
        order.done_at = self.time
        account.done_count += 1
        done = account.done
        done.append(order)
        self.done_count += 1
        if done.count > DONE_ORDERS_PER_ACCOUNT:
            self._forget(account, done.popleft())

    def clear(self) -> None:
        """Empty the state in small steps (`teardown`). It may not be used afterwards. O(everything).

        Orders refer to each other, so without this they would never be freed.
        """
        self.changes.clear()
        self.operator_replies.clear()
        for writer in (self.events, self.outcomes, self.outcome):
            writer.clear()
        while self.products:
            product = self.products.popitem()[1]
            for side in (product.bids, product.asks, product.buys, product.sells):
                side.clear()
            product.stops.clear()
            product.collection.clear()
            clear(product.expiring, product.triggered, product.arrivals)
        while self.accounts:
            turn()
            account = self.accounts.popitem()[1]
            while account.oldest is not None:
                account.unlist_order(account.oldest)
            account.by_client_oid.clear()
            clear(account.done)
            account.replies.clear()
            for memory in account.other_replies.values():
                memory.clear()
            changes = account.changes
            if changes is not None:  # they may be those of the freeze before, to which nothing else refers
                clear(changes.came, changes.left)
            account.changes = account.streams = None
        clear(
            self.busy, self.limited, self.streams, *(part for each in self.records.values() for part in each.parts), self.orders
        )

    def __del__(self) -> None:
        """Break the reference cycles of orders; see `clear`. At the interpreter's end there is nothing to do, and the
        names of this module are None already.
        """
        if turn is not None:
            self.clear()

    def _forget(self, account: Account, order: Order) -> None:
        """Drop an old done order."""
        self.orders.drop(order)
        self.done_count -= 1
        if order.client_oid:
            by_oid = account.by_client_oid
            by_oid.drop(order)
