"""Puts single rows into a live state: the opposite of an incremental snapshot.

`loading` builds a state from whole tables. `Patch` changes an existing state, one row at a time. So a copy of a state
can follow the original, whose changes come as rows (`snapshots/levels/shadow.py`).

It handles the tables and fields of version 0.2.0, which has no unfinished work and no options of orders. The version
after 0.3.0 adds what 0.3.0 added, because its level follows that of 0.3.0.

Between two calls the state may contradict itself: a balance may be of a later moment than an order. After every changed
row was put, the state equals the one that `loading` builds from all rows. Rows are not checked, because they come from
an engine.
"""

from __future__ import annotations

from typing import Any

from statemachine import persistence
from statemachine.book import BookSide
from statemachine.changes import Changes
from statemachine.commands import REPLY_CACHE_KINDS, TRANSFER_KINDS
from statemachine.entities import Account, Balance, Currency, Order, order_of_row
from statemachine.events import OrderState
from statemachine.limits import OPERATOR, REJECTS_CACHED, TRANSFERS_CACHED
from statemachine.reply_cache import ReplyCache
from statemachine.state import State
from statemachine.tables import AccountRow, BalanceRow, CounterRow, CurrencyRow, ProductRow
from statemachine.types import OrderStatus

_ACTIVE: int = OrderStatus.ACTIVE
_REPLY_CACHE_KINDS = {str(kind): kind for kind in REPLY_CACHE_KINDS}
_CHANGING = (
    *("size", "funds", "remaining", "hold", "filled_size", "executed_value", "fill_fees"),
    *("opened_sequence", "fee_credit"),
)
"""Numbers of an open order that commands change."""


class Patch:
    """Puts rows into a state. O(1) for a row, O(log n) for an order, unless the docstring says otherwise.

    A row comes after the rows to which it refers, in the order of `tables.SCHEMA`.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table. O(tables)."""
        return persistence.counts(self._state)

    def counters(self, row: CounterRow) -> None:
        """Set the counters. Changes are recorded from here on, so the next snapshot has to be whole."""
        state = self._state
        state.sequence, state.last_order_id, state.time, state.hash = row.sequence, row.last_order_id, row.time, row.state_hash
        state.last_queued, state.turn = row.last_queued, row.turn
        state.changes = Changes(state.last_order_id)

    def currency(self, row: CurrencyRow) -> None:
        """Add or change a currency."""
        currency = self._state.currencies.get(row.currency)
        if currency is None:
            currency = self._state.currencies[row.currency] = Currency(row.currency, row.scale)
        currency.deposited, currency.withdrawn, currency.fees = row.deposited, row.withdrawn, row.fees

    def product(self, row: ProductRow) -> None:
        """Add or change a product."""
        product = self._state.products.get(row.product_id)
        if product is None:
            self._state.new_product(row)
            return
        product.min_size, product.max_size = row.min_size, row.max_size
        product.maker_fee_ppm, product.taker_fee_ppm = row.maker_fee_ppm, row.taker_fee_ppm
        product.status, product.version, product.sequence = int(row.status), row.version, row.product_sequence
        product.last_trade_id, product.last_price = row.last_trade_id, row.last_price

    def account(self, row: AccountRow) -> None:
        """Add an account if it does not exist."""
        if row.account_id not in self._state.accounts:
            self._state.accounts[row.account_id] = Account(row.account_id, row.opened_at)

    def record(self, table: str, row: Any) -> None:
        """Add or change a row of a table whose rows are kept."""
        self._state.records[table].put(row)

    def balance(self, row: BalanceRow) -> None:
        """Add or change a balance."""
        state = self._state
        balances = state.accounts[row.account_id].balances
        balance = balances.get(row.currency)
        if balance is None:
            balances[row.currency] = Balance(row.available, row.hold)
            state.balance_count += 1
        else:
            balance.available, balance.hold = row.available, row.hold

    # ------------------------------------------------------------------ orders

    def open_order(self, row: OrderState) -> None:
        """Add or change an open order, on the book or waiting. It goes to its place in the queue of its price. O(k) for
        k orders that are behind it and were put before.
        """
        state = self._state
        order = state.orders.find(row.order_id)
        if order is None:
            account = state.accounts[row.account_id]
            order = order_of_row(row, account, state.products[row.product_id])
            state.orders.put(order)
            _list(account, order)
            _name(account, order)
            if order.expires_at:
                order.product.expiring[order.expires_at, order.order_id] = order
                if not 0 < state.next_expiry <= order.expires_at:
                    state.next_expiry = order.expires_at
            _put_on(order)
        elif _stays(order, row):
            side = _side(order)
            if side is not None:
                side.reduce(order, order.remaining - row.remaining)
            _change(order, row)
        else:
            _take_off(order)
            _change(order, row)
            _put_on(order)

    def close_order(self, order_id: int) -> None:
        """Remove an order that is no longer open, if it is open here. O(1)."""
        order = self._state.orders.find(order_id)
        if order is None or not order.listed:
            return
        _take_off(order)
        order.account.unlist_order(order)
        if order.expires_at:
            del order.product.expiring[order.expires_at, order_id]
        self._forget(order)

    def done_order(self, number: int, row: OrderState) -> None:
        """Add the account's next done order."""
        state = self._state
        self.close_order(row.order_id)
        account = state.accounts[row.account_id]
        account.done_count = number
        order = order_of_row(row, account, state.products[row.product_id])
        state.orders.put(order)
        account.done.append(order)
        state.done_count += 1
        _name(account, order)

    def done_count(self, account_id: str) -> int:
        """Return the number of orders of an account that were ever done, which is the number of its latest done order."""
        return int(self._state.accounts[account_id].done_count)

    def forget_done(self, account_id: str, first: int) -> None:
        """Drop the account's done orders with numbers below `first`. O(dropped)."""
        account = self._state.accounts[account_id]
        while account.done and account.done_count - len(account.done) + 1 < first:
            self._forget(account.done.popleft())
            self._state.done_count -= 1

    def _forget(self, order: Order) -> None:
        self._state.orders.drop(order)
        if order.client_oid:
            order.account.by_client_oid.drop(order)

    # ------------------------------------------------------------------ reply caches

    def outcome(self, owner: str, command_id: str, packed: bytes) -> None:
        """Add the newest entry of a reply cache. `owner` names it as in the table `outcome`; see `reply_cache.pack`."""
        self._state.outcome_count += self._reply_cache(owner).add(command_id, packed)

    def forget_outcomes(self, account_id: str, first_sequence: int) -> None:
        """Drop the entries with sequences below `first_sequence` from all reply caches of an account, or from the
        operator's. O(dropped).
        """
        state = self._state
        if account_id == OPERATOR:
            state.outcome_count -= state.operator_replies.forget_before(first_sequence)
            return
        account = state.accounts[account_id]
        for replies in (account.replies, *account.other_replies.values()):
            state.outcome_count -= replies.forget_before(first_sequence)

    def _reply_cache(self, owner: str) -> ReplyCache:
        """Return the reply cache that a row of the table `outcome` names; it is created on first use."""
        if owner == OPERATOR:
            return self._state.operator_replies
        account_id, _, kind = owner.partition("/")
        account = self._state.accounts[account_id]
        if not kind:
            return account.replies
        number = _REPLY_CACHE_KINDS[kind]
        replies = account.other_replies.get(number)
        if replies is None:
            replies = ReplyCache(TRANSFERS_CACHED if number in TRANSFER_KINDS else REJECTS_CACHED)
            account.other_replies[number] = replies
        return replies


def _stays(order: Order, row: OrderState) -> bool:
    """Return whether the order keeps its place in its queue."""
    return bool(order.status == row.status and order.opened_sequence == row.opened_sequence)


def _change(order: Order, row: OrderState) -> None:
    for name in _CHANGING:
        setattr(order, name, getattr(row, name))
    order.status = int(row.status)


def _side(order: Order) -> BookSide | None:
    """Return the side of the book, or of the auction book, on which an order lies; None for a stop order that waits."""
    product = order.product
    if order.status == _ACTIVE and order.stop:
        return None
    found: BookSide = product.collected(order.side) if order.status == _ACTIVE else product.side(order.side)
    return found


def _take_off(order: Order) -> None:
    """Remove an open order from the place where it waits or rests."""
    side, product = _side(order), order.product
    if side is None:
        product.stops.remove(order)
        return
    side.remove(order)
    if order.status == _ACTIVE:
        product.collection.remove(order)


def _put_on(order: Order) -> None:
    """Add an open order to the place where it waits or rests, behind those that came before it."""
    side, product = _side(order), order.product
    if side is None:
        product.stops.add(order)
        return
    side.add(order)
    later: list[Order] = []
    ahead = order.ahead
    while ahead is not None and _place(ahead) > _place(order):
        later.append(ahead)
        ahead = ahead.ahead
    for each in reversed(later):
        side.remove(each)
        side.add(each)
    if order.status == _ACTIVE:
        orders = product.collection.orders
        product.collection.add(order)
        for each in _later(orders, order):
            orders.move_to_end(each.order_id)


def _later(orders: Any, order: Order) -> list[Order]:
    """Return the orders of an auction book that came after this one, which was put last."""
    later: list[Order] = []
    for each in reversed(orders.values()):
        if each is order:
            continue
        if _place(each) < _place(order):
            break
        later.append(each)
    return later[::-1]


def _place(order: Order) -> tuple[int, int]:
    """Return the sort key of an order among those of its price."""
    return order.opened_sequence, order.order_id


def _list(account: Account, order: Order) -> None:
    """Add an order to its account's open ones, which are in the order of ids."""
    account.list_order(order)
    later: list[Order] = []
    older = order.older
    while older is not None and older.order_id > order.order_id:
        later.append(older)
        older = older.older
    for each in reversed(later):
        account.unlist_order(each)
        account.list_order(each)


def _name(account: Account, order: Order) -> None:
    """Index the order by its `client_oid`, unless a later order has it."""
    if order.client_oid:
        known = account.by_client_oid.find(order.client_oid)
        if known is None or known.order_id <= order.order_id:
            account.by_client_oid.put(order)
