"""What changed since the last freeze: the rows that an incremental snapshot writes (`freezing`).

The engine calls `Changes` before it changes an account or an open order. The changes are relative to the freeze before,
or to the tables from which the engine was restored, or to an empty engine. Their memory is bounded by that of the
state: an order that was added and removed between two freezes leaves no record. Tables whose rows are kept record their
changes themselves (`records`).
"""

from __future__ import annotations

from typing import Protocol

from statemachine.entities import Account, Order
from statemachine.limits import OPERATOR
from statemachine.reply_cache import ReplyCache
from statemachine.teardown import clear
from statemachine.types import OrderStatus

_DONE: int = OrderStatus.DONE
_SPARE = 64
"""Entries of done orders that an account's list of changes may always have."""


class FrozenView(Protocol):
    """A view of an earlier moment that is not fully encoded yet: see `freezing.Frozen`."""

    def keep_account(self, account_id: str) -> None:
        """Record that the account is about to change."""

    def keep_order(self, order: Order) -> None:
        """Record that the open order is about to change."""


class AccountChanges:
    """What changed of an account. `done_count`, `added` and `by_kind` (like `added`, for each kind of transfer) have
    the values before the first change.

    `came`: orders that were added or changed; those that are done by now do not count. `left`: the ids of orders that
    were open at the freeze before, and are not open now. `all_orders`: every order that is open at the freeze counts.
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
        """Record an order that was added or is about to change. O(1) on average: done orders are removed from the list
        when it is twice as long as needed.
        """
        came = self.came
        came.append(order)
        if len(came) > 2 * order.account.open_count + _SPARE:
            self.came = [each for each in came if each.status != _DONE]


class Changes:
    """What changed since the last freeze. All O(1), on average.

    The engine calls: `touch`, `touch_operator`, `touch_order`, `order_came`, `order_left`
    A freeze calls:   `accounts`, `start_over`; see `freezing`

    Attributes:
        epoch: the number of the latest freeze, starting with 1. An account or order with the same number in `touched`
            is recorded already.
        last_order_id: the last order id at the latest freeze.
    """

    __slots__ = ("_accounts", "_frozen", "_operator", "epoch", "last_order_id")

    def __init__(self, last_order_id: int = 0) -> None:
        self._accounts: dict[str, AccountChanges] = {}
        self._frozen: FrozenView | None = None
        self._operator = False
        self.epoch = 1
        self.last_order_id = last_order_id

    def touch(self, account: Account) -> None:
        """Record an account before it changes."""
        if account.touched != self.epoch:
            account.touched = self.epoch
            by_kind = {kind: replies.added for kind, replies in account.other_replies.items()}
            changes = account.changes = AccountChanges(account.done_count, account.replies.added, by_kind)
            self._accounts[account.account_id] = changes
            frozen = self._frozen  # the thread that iterates the view may end it at any time
            if frozen is not None:
                frozen.keep_account(account.account_id)

    def touch_operator(self, replies: ReplyCache) -> None:
        """Record the operator before its reply cache changes."""
        if not self._operator:
            self._operator = True
            self._accounts[OPERATOR] = AccountChanges(0, replies.added, {})
            frozen = self._frozen
            if frozen is not None:
                frozen.keep_account(OPERATOR)

    def touch_order(self, order: Order) -> None:
        """Record an open order before it changes. The caller has recorded its account (`touch`)."""
        if order.touched != self.epoch:
            frozen = self._frozen
            if frozen is not None:
                frozen.keep_order(order)
            order.touched = self.epoch
            self.order_came(order)

    def order_came(self, order: Order) -> None:
        """Record an order that becomes open."""
        order.touched = self.epoch
        changes = order.account.changes
        assert changes is not None, "the caller has recorded the account"
        changes.note(order)

    def order_left(self, order: Order) -> None:
        """Record that an open order is no longer open. The caller has recorded it (`touch_order`)."""
        if order.order_id <= self.last_order_id:
            changes = order.account.changes
            assert changes is not None, "the caller has recorded the account"
            changes.left.append(order.order_id)

    def view_is_over(self, frozen: FrozenView) -> None:
        """Record that a frozen view is fully encoded."""
        if self._frozen is frozen:
            self._frozen = None

    def clear(self) -> None:
        """Empty the object in small steps (`teardown`). This also drops the latest frozen view, which refers to the
        state and may not be iterated afterwards.
        """
        self._frozen = None
        while self._accounts:
            changes = self._accounts.popitem()[1]
            clear(changes.came, changes.left)

    def accounts(self) -> dict[str, AccountChanges]:
        """Return the accounts that changed since the last freeze. After `start_over` the list belongs to the caller."""
        return self._accounts

    def start_over(self, frozen: FrozenView, last_order_id: int) -> None:
        """Begin a new epoch: later changes are relative to this freeze, whose view is `frozen`. O(1)."""
        self._frozen = frozen
        self._accounts = {}
        self._operator = False
        self.epoch += 1
        self.last_order_id = last_order_id
