"""What changed since the last freeze, and a frozen view of it that stays as it is while the engine goes on.

A snapshot holds the state after one command, and the engine must not wait while it is encoded. So `Changes.freeze` only exchanges a
dictionary, O(changed currencies, products and keys), and the rows are encoded later, by whoever iterates over `Frozen`, which may be another
thread. Whatever is about to change and is still to be encoded is copied first:

- the engine calls `touch` and `touch_order` *before* it changes an account or an open order; at the first call after a freeze they keep
  what the frozen view still needs. One lookup in a dictionary otherwise;
- the encoder takes what it finds, and *then* looks whether something was kept meanwhile. If so, that is the row: what it found may be of
  another moment. Both sides rely only on single operations of lists and dictionaries being whole.

The changes are relative to the freeze before, or to the tables that the engine was restored from; for an engine that began empty, to nothing.
What is remembered of them is bounded by the state: an order that came and left in between leaves no trace here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from statemachine import rows
from statemachine.draining import drain
from statemachine.events import OrderState
from statemachine.limits import OPERATOR
from statemachine.remember import MemoryView, OutcomeMemory
from statemachine.rows import Row
from statemachine.tables import BalanceRow

if TYPE_CHECKING:
    from statemachine.state import Account, State


class Piece(NamedTuple):
    """Changes of one table: rows that are there from now on, keys that are not, and ranges of keys (the end excluded) that are empty."""

    table: str
    rows: list[Row]
    deleted: list[bytes]
    purged: list[tuple[bytes, bytes]]


class AccountChanges:
    """What changed of an account. `done_count` and `remembered` are those before the first change.

    `orders`: open orders that came or changed, None for those that left. `all_orders`: every order that is open at the freeze counts.
    """

    __slots__ = ("all_orders", "done_count", "orders", "remembered")

    def __init__(self, done_count: int, remembered: int, *, all_orders: bool = False) -> None:
        self.done_count = done_count
        self.remembered = remembered
        self.orders: dict[int, OrderState | None] = {}
        self.all_orders = all_orders


class AccountView(NamedTuple):
    """An account at one moment, without its open orders; done orders and outcomes only as far as they are new."""

    opened_at: int
    balances: list[BalanceRow]
    done: list[OrderState]
    done_count: int
    done_kept: int
    outcomes: MemoryView


class Changes:
    """What changed since the last freeze. All but `freeze` O(1).

    The engine tells:  `touch`, `touch_order`, `order_came`, `order_left`, `api_key_put`
    A snapshot takes:  `freeze`
    """

    def __init__(self, last_order_id: int = 0) -> None:
        self._accounts: dict[str, AccountChanges] = {}
        self._api_keys: dict[str, None] = {}
        self._last_order_id = last_order_id
        self._frozen: Frozen | None = None

    def touch(self, account_id: str, account: Account | None, memory: OutcomeMemory) -> None:
        """Before anything of an account changes. Without an account: the operator's memory."""
        if account_id not in self._accounts:
            done_count = 0 if account is None else account.done_count
            self._accounts[account_id] = AccountChanges(done_count, memory.remembered)
            if self._frozen is not None:
                self._frozen.keep_account(account_id)

    def touch_order(self, order: OrderState) -> None:
        """Before an open order changes. Its account was touched."""
        orders = self._accounts[order.account_id].orders
        if order.order_id not in orders:
            orders[order.order_id] = order
            if self._frozen is not None:
                self._frozen.keep_order(order)

    def order_came(self, order: OrderState) -> None:
        """An order is open from now on."""
        self._accounts[order.account_id].orders[order.order_id] = order

    def order_left(self, order: OrderState) -> None:
        """An open order, touched before, is open no more."""
        orders = self._accounts[order.account_id].orders
        if order.order_id > self._last_order_id:
            del orders[order.order_id]
        else:
            orders[order.order_id] = None

    def api_key_put(self, key_id: str) -> None:
        """A key came or changed."""
        self._api_keys[key_id] = None

    def release(self) -> None:
        """Empty it in small steps (`draining`). The view frozen last refers to the state, and is let go too: nobody may iterate it any more."""
        self._frozen = None
        while self._accounts:
            drain(self._accounts.popitem()[1].orders)

    def freeze(self, state: State, *, whole: bool) -> Frozen:
        """See `Engine.freeze`."""
        accounts, api_keys = (_everything(state), dict.fromkeys(state.api_keys)) if whole else (self._accounts, self._api_keys)
        self._frozen = Frozen(state, accounts, api_keys)
        self._accounts, self._api_keys = {}, {}
        self._last_order_id = state.last_order_id
        return self._frozen


def _everything(state: State) -> dict[str, AccountChanges]:
    """As if all had changed. O(accounts)."""
    memory = state.operator_memory
    everything = {OPERATOR: AccountChanges(0, memory.remembered - len(memory))}
    for name, account in state.accounts.items():
        forgotten = account.memory.remembered - len(account.memory)
        everything[name] = AccountChanges(account.done_count - len(account.done), forgotten, all_orders=True)
    return everything


class Frozen:
    """Changes as they were at a freeze, to be iterated once, in another thread if you like.

    Attributes:
        counts: how many rows each table has in all once the changes were made.
    """

    def __init__(self, state: State, accounts: dict[str, AccountChanges], api_keys: dict[str, None]) -> None:
        self.counts = rows.counts(state)
        self._state = state
        self._pending = accounts
        self._small = [
            Piece("counter", [rows.counter(state)], [], []),
            Piece("currency", [rows.currency(currency.row()) for currency in state.currencies.values()], [], []),
            Piece("product", [rows.product(product.row()) for product in state.products.values()], [], []),
        ]
        self._api_keys = [state.api_keys[key_id] for key_id in api_keys]
        self._kept_accounts: dict[str, AccountView] = {}
        self._kept_orders: dict[str, dict[int, OrderState]] = {}
        self._last_order_id = state.last_order_id

    def keep_account(self, account_id: str) -> None:
        """The account is about to change: keep it as it is, if it is still to be encoded."""
        changes = self._pending.get(account_id)
        if changes is not None:
            self._kept_accounts[account_id] = self._view(account_id, changes)

    def keep_order(self, order: OrderState) -> None:
        """The order is about to change: keep it as it is, if it is still to be encoded."""
        changes = self._pending.get(order.account_id)
        if changes is None:
            return
        if order.order_id in changes.orders or (changes.all_orders and order.order_id <= self._last_order_id):
            self._kept_orders.setdefault(order.account_id, {})[order.order_id] = copy.copy(order)

    def __iter__(self) -> Iterator[Piece]:
        yield from self._small
        yield Piece("api_key", [rows.api_key(row) for row in self._api_keys], [], [])
        while self._pending:
            account_id = next(reversed(self._pending))
            changes = self._pending[account_id]
            found = self._view(account_id, changes)
            yield from _account_pieces(account_id, self._kept_accounts.pop(account_id, found))
            yield self._orders(account_id, changes)
            self._pending.popitem()
            self._kept_orders.pop(account_id, None)

    def _view(self, account_id: str, changes: AccountChanges) -> AccountView:
        account = self._state.accounts.get(account_id)
        if account is None:
            memory = self._state.operator_memory
            return AccountView(0, [], [], 0, 0, memory.newest(memory.remembered - changes.remembered))
        done = list(account.done)
        new = min(account.done_count - changes.done_count, len(done))
        outcomes = account.memory.newest(account.memory.remembered - changes.remembered)
        return AccountView(
            account.opened_at, account.balance_rows(), done[len(done) - new :], account.done_count, len(done), outcomes
        )

    def _orders(self, account_id: str, changes: AccountChanges) -> Piece:
        encoded: list[Row] = []
        deleted: list[bytes] = []
        orders = self._all_orders(account_id) if changes.all_orders else changes.orders
        for order_id, order in orders.items():
            if order is None:
                deleted.append(rows.order_key(order_id))
                continue
            row = rows.order(order)
            kept = self._kept_orders.get(account_id, {}).get(order_id)
            encoded.append(row if kept is None else rows.order(kept))
        if changes.all_orders:
            # Those that left before they were looked for.
            kept_ones = list(self._kept_orders.get(account_id, {}).values())
            encoded += [rows.order(order) for order in kept_ones if order.order_id not in orders]
        return Piece("order", encoded, deleted, [])

    def _all_orders(self, account_id: str) -> dict[int, OrderState | None]:
        account = self._state.accounts.get(account_id)
        found = [] if account is None else list(account.open.values())
        return {order.order_id: order for order in found if order.order_id <= self._last_order_id}


def _account_pieces(account_id: str, view: AccountView) -> Iterator[Piece]:
    """The rows of an account but for its open orders. Those that it has let go are purged."""
    if account_id != OPERATOR:
        yield Piece("account", [rows.account(account_id, view.opened_at)], [], [])
        yield Piece("balance", [rows.balance(row) for row in view.balances], [], [])
        first = view.done_count - len(view.done) + 1
        done = [rows.done_order(number, order) for number, order in enumerate(view.done, first)]
        oldest = view.done_count - view.done_kept + 1
        yield Piece("done_order", done, [], [_before(account_id, oldest)])
    outcomes = [rows.outcome(account_id, command_id, packed) for command_id, packed in view.outcomes]
    yield Piece("outcome", outcomes, [], [_before(account_id, view.outcomes.first_sequence)])


def _before(account_id: str, number: int) -> tuple[bytes, bytes]:
    """The range of an account's keys with smaller numbers."""
    return rows.numbered_key(account_id, 0), rows.numbered_key(account_id, number)
