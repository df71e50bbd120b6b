"""A frozen view of the state, which a snapshot writes while the engine continues.

A snapshot holds the state after one command, and the engine must not wait while it is encoded. So `freeze` only takes
the lists of what changed (`changes`, `records`), O(currencies, products and changed keys). The rows are encoded later,
when a thread iterates over `Frozen`. A row that is about to change before it is encoded is copied first:

- the engine calls `Changes.touch` and `Changes.touch_order` *before* it changes an account or an open order; at the
  first call after a freeze they save what the frozen view still needs. All other calls cost one dictionary lookup;
- the encoder reads the live object, and *then* checks whether the engine saved a copy in the meantime. If so, the copy
  is used, because the live object may be of a later moment. This relies only on single list and dict operations being
  atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from statemachine import persistence
from statemachine.changes import AccountChanges
from statemachine.entities import Order
from statemachine.limits import OPERATOR
from statemachine.persistence import Row
from statemachine.reply_cache import CacheView
from statemachine.state import State
from statemachine.tables import BalanceRow
from statemachine.types import OrderStatus

_DONE: int = OrderStatus.DONE


class RowChunk(NamedTuple):
    """Changes of one table: rows to write, keys to delete, and ranges of keys (the end excluded) to delete."""

    table: str
    rows: list[Row]
    deleted: list[bytes]
    purged: list[tuple[bytes, bytes]]


class AccountView(NamedTuple):
    """An account at one moment, without its open orders. Of the done orders and outcomes it has only the new ones."""

    opened_at: int
    balances: list[BalanceRow]
    done: list[Order]
    done_count: int
    done_kept: int
    outcomes: CacheView
    reply_caches: dict[int, CacheView]


def freeze(state: State, *, whole: bool) -> Frozen:
    """See `engine.Engine.freeze`."""
    changes = state.changes
    frozen = Frozen(state, _everything(state) if whole else changes.accounts(), whole=whole)
    changes.start_over(frozen, state.last_order_id)
    return frozen


def changes_since_freeze(state: State) -> Frozen:
    """See `engine.Engine.changes_since_freeze`."""
    return Frozen(state, dict(state.changes.accounts()), whole=False, taken=False)


def _everything(state: State) -> dict[str, AccountChanges]:
    """Return changes in which every account counts as changed. O(accounts)."""
    replies = state.operator_replies
    everything = {OPERATOR: AccountChanges(0, replies.added - len(replies), {})}
    for name, account in state.accounts.items():
        forgotten = account.replies.added - len(account.replies)
        by_kind = {kind: each.added - len(each) for kind, each in account.other_replies.items()}
        everything[name] = AccountChanges(account.done_count - len(account.done), forgotten, by_kind, True)
    return everything


class Frozen:
    """The changes at a freeze. They can be iterated once, also in another thread.

    Args:
        taken: whether kept tables count their changes from here on, as at a freeze.

    Attributes:
        counts: the number of rows of each table with the changes.
        seen: called with each chunk that is iterated.
        complete: whether all chunks were iterated.
    """

    def __init__(self, state: State, accounts: dict[str, AccountChanges], *, whole: bool, taken: bool = True) -> None:
        self.seen: Callable[[RowChunk], object] | None = None
        self.complete = False
        self.counts = persistence.counts(state)
        self._state = state
        self._pending = accounts
        self._epoch = state.changes.epoch
        self._small = [
            RowChunk("counter", [persistence.counter(state)], [], []),
            RowChunk("currency", [persistence.row("currency", currency.row()) for currency in state.currencies.values()], [], []),
            RowChunk("product", [persistence.row("product", product.row()) for product in state.products.values()], [], []),
            RowChunk("stream", [persistence.row("stream", stream.row()) for stream in state.streams.values()], [], []),
        ]
        self._records = {
            name: records.take_changes(whole=whole) if taken else records.changes() for name, records in state.records.items()
        }
        self._kept_accounts: dict[str, AccountView] = {}
        self._kept_orders: dict[str, dict[int, Row]] = {}
        self._kept_open: dict[str, list[Order]] = {}
        self._last_order_id = state.last_order_id

    def keep_account(self, account_id: str) -> None:
        """Save the account before it changes, if it is not encoded yet."""
        changes = self._pending.get(account_id)
        if changes is not None:
            self._kept_accounts[account_id] = self._view(account_id, changes)
            if changes.all_orders:
                self._kept_open[account_id] = self._open_orders(account_id)

    def keep_order(self, order: Order) -> None:
        """Save the order's row before the order changes, if it is not encoded yet."""
        account_id = order.account.account_id
        changes = self._pending.get(account_id)
        if changes is None:
            return
        if order.touched == self._epoch or (changes.all_orders and order.order_id <= self._last_order_id):
            self._kept_orders.setdefault(account_id, {})[order.order_id] = persistence.order(order)

    def __iter__(self) -> Iterator[RowChunk]:
        for chunk in self._chunks():
            if self.seen is not None:
                self.seen(chunk)
            yield chunk
        self.complete = True

    def _chunks(self) -> Iterator[RowChunk]:
        """Yield the rows of the view: the small tables first, then account by account."""
        yield from self._small
        for name, (changed, deleted) in self._records.items():
            yield RowChunk(
                name, [persistence.row(name, row) for row in changed], [persistence.encode(key) for key in deleted], []
            )
        while self._pending:
            account_id = next(reversed(self._pending))
            changes = self._pending[account_id]
            yield from _account_chunks(account_id, self._account(account_id, changes))
            yield self._orders(account_id, changes)
            self._pending.popitem()
            self._kept_orders.pop(account_id, None)
            self._kept_open.pop(account_id, None)
        self._state.changes.view_is_over(self)

    def _account(self, account_id: str, changes: AccountChanges) -> AccountView:
        """Return the account at the freeze: the saved view, or else the live account if it is not saved meanwhile."""
        found = self._kept_accounts.get(account_id)
        if found is None:
            with suppress(IndexError):  # a reply cache that changes while it is read; then the account was saved
                found = self._view(account_id, changes)
            found = self._kept_accounts.get(account_id, found)
        assert found is not None, "an account that changes is saved before"
        self._kept_accounts.pop(account_id, None)
        return found

    def _view(self, account_id: str, changes: AccountChanges) -> AccountView:
        """Return what changed in an account since the freeze before."""
        account = self._state.accounts.get(account_id)
        if account is None:
            replies = self._state.operator_replies
            return AccountView(0, [], [], 0, 0, replies.newest(replies.added - changes.added), {})
        done = list(account.done)
        new = min(account.done_count - changes.done_count, len(done))
        outcomes = account.replies.newest(account.replies.added - changes.added)
        reply_caches = {
            kind: each.newest(each.added - changes.by_kind.get(kind, 0)) for kind, each in list(account.other_replies.items())
        }
        return AccountView(
            account.opened_at,
            account.balance_rows(),
            done[len(done) - new :],
            account.done_count,
            len(done),
            outcomes,
            reply_caches,
        )

    def _orders(self, account_id: str, changes: AccountChanges) -> RowChunk:
        """Return the rows of an account's orders. An order that is done by now was open at the freeze if and only if
        its row was kept.
        """
        encoded: dict[int, Row] = {}
        candidates = self._all_orders(account_id) if changes.all_orders else list(changes.came)
        for order in candidates:
            row = persistence.order(order) if order.status != _DONE else None
            kept = self._kept_orders.get(account_id, {}).get(order.order_id)
            if kept is not None:
                encoded[order.order_id] = kept
            elif row is not None:
                encoded[order.order_id] = row
        # The rows of orders that left before the loop above reached them.
        encoded = {**self._kept_orders.get(account_id, {}), **encoded}
        return RowChunk("order", list(encoded.values()), [persistence.order_key(order_id) for order_id in changes.left], [])

    def _all_orders(self, account_id: str) -> list[Order]:
        """Return the account's open orders at the freeze. If their queue changes while it is read, the list that was
        kept before the change counts (`keep_account`).
        """
        found = self._open_orders(account_id)
        found = self._kept_open.get(account_id, found)
        return [order for order in found if order.order_id <= self._last_order_id]

    def _open_orders(self, account_id: str) -> list[Order]:
        account = self._state.accounts.get(account_id)
        return [] if account is None else account.open_orders()


def _account_chunks(account_id: str, view: AccountView) -> Iterator[RowChunk]:
    """Yield the rows of an account without its open orders. Rows that the account dropped are deleted."""
    if account_id != OPERATOR:
        yield RowChunk("account", [persistence.account(account_id, view.opened_at)], [], [])
        yield RowChunk("balance", [persistence.row("balance", row) for row in view.balances], [], [])
        first = view.done_count - len(view.done) + 1
        done = [persistence.done_order(number, order) for number, order in enumerate(view.done, first)]
        oldest = view.done_count - view.done_kept + 1
        yield RowChunk("done_order", done, [], [_before(account_id, oldest)])
    reply_caches = [(account_id, view.outcomes)]
    reply_caches += [(persistence.reply_cache_owner(account_id, kind), each) for kind, each in view.reply_caches.items()]
    for owner, replies in reply_caches:
        outcomes = [persistence.outcome(owner, command_id, packed) for command_id, packed in replies]
        yield RowChunk("outcome", outcomes, [], [_before(owner, replies.first_sequence)])


def _before(account_id: str, number: int) -> tuple[bytes, bytes]:
    """Return the range of an account's keys with numbers below this one."""
    return persistence.numbered_key(account_id, 0), persistence.numbered_key(account_id, number)
