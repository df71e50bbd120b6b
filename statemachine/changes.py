"""What changed since the last freeze, and a frozen view of it that stays as it is while the engine goes on.

A snapshot holds the state after one command, and the engine must not wait while it is encoded. So `Changes.freeze` only exchanges a
dictionary, O(currencies, products, unfinished `CancelAll`s and changed keys), and the rows are encoded later, by whoever iterates over
`Frozen`, which may be another thread. Whatever is about to change and is still to be encoded is copied first:

- the engine calls `touch` and `touch_order` *before* it changes an account or an open order; at the first call after a freeze they keep
  what the frozen view still needs. One lookup in a dictionary otherwise;
- the encoder takes what it finds, and *then* looks whether something was kept meanwhile. If so, that is the row: what it found may be of
  another moment. Both sides rely only on single operations of lists and dictionaries being whole.

The changes are relative to the freeze before, or to the tables that the engine was restored from; for an engine that began empty, to nothing.
What is remembered of them is bounded by the state: an order that came and left in between leaves no trace here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from statemachine import rows
from statemachine.entities import Account, Order
from statemachine.limits import OPERATOR
from statemachine.reply_cache import CacheView, ReplyCache
from statemachine.rows import Row
from statemachine.tables import BalanceRow
from statemachine.teardown import clear
from statemachine.types import OrderStatus

if TYPE_CHECKING:
    from statemachine.state import State

_DONE: int = OrderStatus.DONE
_SPARE = 64
"""Entries of done orders that an account's list of changes may have in any case."""


class Piece(NamedTuple):
    """Changes of one table: rows that are there from now on, keys that are not, and ranges of keys (the end excluded) that are empty."""

    table: str
    rows: list[Row]
    deleted: list[bytes]
    purged: list[tuple[bytes, bytes]]


class AccountChanges:
    """What changed of an account. `done_count`, `added` and `by_kind` (as `added`, of each kind of transfer) are those before the first
    change.

    `came`: orders that came or changed, of which those that are done by now do not count; `left`: the ids of those that were open at the freeze
    before, and left. `all_orders`: every order that is open at the freeze counts.
    """

    __slots__ = ("added", "all_orders", "by_kind", "came", "done_count", "left")

    def __init__(self, done_count: int, added: int, by_kind: dict[int, int], all_orders: bool = False) -> None:
        self.done_count = done_count
        self.added = added
        self.by_kind = by_kind
        self.came: list[Order] = []
        self.left: list[int] = []
        self.all_orders = all_orders

    def note(self, order: Order) -> None:
        """An order came or is about to change. O(1) on average: the list is cleared of done orders when it has become twice as long as needed."""
        came = self.came
        came.append(order)
        if len(came) > 2 * order.account.open_count + _SPARE:
            self.came = [each for each in came if each.status != _DONE]


class AccountView(NamedTuple):
    """An account at one moment, without its open orders; done orders and outcomes only as far as they are new."""

    opened_at: int
    balances: list[BalanceRow]
    done: list[Order]
    done_count: int
    done_kept: int
    outcomes: CacheView
    memories: dict[int, CacheView]


class Changes:
    """What changed since the last freeze. All but `freeze` O(1), on average.

    The engine tells:  `touch`, `touch_operator`, `touch_order`, `order_came`, `order_left`, `api_key_put`
    A snapshot takes:  `freeze`

    Attributes:
        epoch: the number of the latest freeze, from 1 on. An account or order that says the same number was touched since then.
        last_order_id: the last order id at the latest freeze.
    """

    __slots__ = ("_accounts", "_api_keys", "_frozen", "_operator", "epoch", "last_order_id")

    def __init__(self, last_order_id: int = 0) -> None:
        self._accounts: dict[str, AccountChanges] = {}
        self._api_keys: dict[str, None] = {}
        self._frozen: Frozen | None = None
        self._operator = False
        self.epoch = 1
        self.last_order_id = last_order_id

    def touch(self, account: Account) -> None:
        """Before anything of an account changes."""
        if account.touched != self.epoch:
            account.touched = self.epoch
            by_kind = {kind: memory.added for kind, memory in account.other_replies.items()}
            changes = account.changes = AccountChanges(account.done_count, account.replies.added, by_kind)
            self._accounts[account.account_id] = changes
            if self._frozen is not None:
                self._frozen.keep_account(account.account_id)

    def touch_operator(self, memory: ReplyCache) -> None:
        """Before the operator's memory changes."""
        if not self._operator:
            self._operator = True
            self._accounts[OPERATOR] = AccountChanges(0, memory.added, {})
            if self._frozen is not None:
                self._frozen.keep_account(OPERATOR)

    def touch_order(self, order: Order) -> None:
        """Before an open order changes. Its account was touched."""
        if order.touched != self.epoch:
            frozen = self._frozen
            if frozen is not None:
                frozen.keep_order(order)
            order.touched = self.epoch
            self.order_came(order)

    def order_came(self, order: Order) -> None:
        """An order is open from now on."""
        order.touched = self.epoch
        changes = order.account.changes
        assert changes is not None, "the account was touched"
        changes.note(order)

    def order_left(self, order: Order) -> None:
        """An open order, touched before, is open no more."""
        if order.order_id <= self.last_order_id:
            changes = order.account.changes
            assert changes is not None, "the account was touched"
            changes.left.append(order.order_id)

    def api_key_put(self, key_id: str) -> None:
        """A key came or changed."""
        self._api_keys[key_id] = None

    def view_is_over(self, frozen: Frozen) -> None:
        """Everything of a frozen view was encoded."""
        if self._frozen is frozen:
            self._frozen = None

    def clear(self) -> None:
        """Empty it in small steps (`teardown`). The view frozen last refers to the state, and is let go too: nobody may iterate it any more."""
        self._frozen = None
        while self._accounts:
            changes = self._accounts.popitem()[1]
            clear(changes.came, changes.left)

    def freeze(self, state: State, *, whole: bool) -> Frozen:
        """See `Engine.freeze`."""
        accounts, api_keys = (_everything(state), dict.fromkeys(state.api_keys)) if whole else (self._accounts, self._api_keys)
        self._frozen = Frozen(state, accounts, api_keys, self.epoch)
        self._accounts, self._api_keys = {}, {}
        self._operator = False
        self.epoch += 1
        self.last_order_id = state.last_order_id
        return self._frozen


def _everything(state: State) -> dict[str, AccountChanges]:
    """As if all had changed. O(accounts)."""
    memory = state.operator_replies
    everything = {OPERATOR: AccountChanges(0, memory.added - len(memory), {})}
    for name, account in state.accounts.items():
        forgotten = account.replies.added - len(account.replies)
        by_kind = {kind: each.added - len(each) for kind, each in account.other_replies.items()}
        everything[name] = AccountChanges(account.done_count - len(account.done), forgotten, by_kind, True)
    return everything


class Frozen:
    """Changes as they were at a freeze, to be iterated once, in another thread if you like.

    Attributes:
        counts: how many rows each table has in all once the changes were made.
    """

    def __init__(self, state: State, accounts: dict[str, AccountChanges], api_keys: dict[str, None], epoch: int) -> None:
        self.counts = rows.counts(state)
        self._state = state
        self._pending = accounts
        self._epoch = epoch
        self._small = [
            Piece("counter", [rows.counter(state)], [], []),
            Piece("currency", [rows.currency(currency.row()) for currency in state.currencies.values()], [], []),
            Piece("product", [rows.product(product.row()) for product in state.products.values()], [], []),
            Piece("mass_cancel", rows.mass_cancels(state), [], [rows.ALL_MASS_CANCELS]),
        ]
        self._api_keys = [state.api_keys[key_id] for key_id in api_keys]
        self._kept_accounts: dict[str, AccountView] = {}
        self._kept_orders: dict[str, dict[int, Row]] = {}
        self._last_order_id = state.last_order_id

    def keep_account(self, account_id: str) -> None:
        """The account is about to change: keep it as it is, if it is still to be encoded."""
        changes = self._pending.get(account_id)
        if changes is not None:
            self._kept_accounts[account_id] = self._view(account_id, changes)

    def keep_order(self, order: Order) -> None:
        """The order is about to change: keep its row as it is, if it is still to be encoded."""
        account_id = order.account.account_id
        changes = self._pending.get(account_id)
        if changes is None:
            return
        if order.touched == self._epoch or (changes.all_orders and order.order_id <= self._last_order_id):
            self._kept_orders.setdefault(account_id, {})[order.order_id] = rows.order(order)

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
        self._state.changes.view_is_over(self)

    def _view(self, account_id: str, changes: AccountChanges) -> AccountView:
        account = self._state.accounts.get(account_id)
        if account is None:
            memory = self._state.operator_replies
            return AccountView(0, [], [], 0, 0, memory.newest(memory.added - changes.added), {})
        done = list(account.done)
        new = min(account.done_count - changes.done_count, len(done))
        outcomes = account.replies.newest(account.replies.added - changes.added)
        memories = {
            kind: each.newest(each.added - changes.by_kind.get(kind, 0)) for kind, each in list(account.other_replies.items())
        }
        return AccountView(
            account.opened_at,
            account.balance_rows(),
            done[len(done) - new :],
            account.done_count,
            len(done),
            outcomes,
            memories,
        )

    def _orders(self, account_id: str, changes: AccountChanges) -> Piece:
        """The rows of an account's orders. An order that is done by now was open at the freeze if and only if its row was kept."""
        encoded: dict[int, Row] = {}
        candidates = self._all_orders(account_id) if changes.all_orders else list(changes.came)
        for order in candidates:
            row = rows.order(order) if order.status != _DONE else None
            kept = self._kept_orders.get(account_id, {}).get(order.order_id)
            if kept is not None:
                encoded[order.order_id] = kept
            elif row is not None:
                encoded[order.order_id] = row
        # Those that left before they were looked for.
        encoded = {**self._kept_orders.get(account_id, {}), **encoded}
        return Piece("order", list(encoded.values()), [rows.order_key(order_id) for order_id in changes.left], [])

    def _all_orders(self, account_id: str) -> list[Order]:
        account = self._state.accounts.get(account_id)
        found = [] if account is None else account.open_orders()
        return [order for order in found if order.order_id <= self._last_order_id]


def _account_pieces(account_id: str, view: AccountView) -> Iterator[Piece]:
    """The rows of an account but for its open orders. Those that it has let go are purged."""
    if account_id != OPERATOR:
        yield Piece("account", [rows.account(account_id, view.opened_at)], [], [])
        yield Piece("balance", [rows.balance(row) for row in view.balances], [], [])
        first = view.done_count - len(view.done) + 1
        done = [rows.done_order(number, order) for number, order in enumerate(view.done, first)]
        oldest = view.done_count - view.done_kept + 1
        yield Piece("done_order", done, [], [_before(account_id, oldest)])
    memories = [(account_id, view.outcomes)]
    memories += [(rows.memory_owner(account_id, kind), each) for kind, each in view.memories.items()]
    for owner, memory in memories:
        outcomes = [rows.outcome(owner, command_id, packed) for command_id, packed in memory]
        yield Piece("outcome", outcomes, [], [_before(owner, memory.first_sequence)])


def _before(account_id: str, number: int) -> tuple[bytes, bytes]:
    """The range of an account's keys with smaller numbers."""
    return rows.numbered_key(account_id, 0), rows.numbered_key(account_id, number)
