"""Takes the changes of an engine of version 0.2.0 over into a state of version 0.3.0.

The frozen core calls its `Changes` before it changes an account or an open order, for incremental snapshots. `Journal`
replaces this object, and also records the ids. `Follower` reads the recorded rows from the live state and puts them
into a state of the next level. It reads the present values, not those at the time of the record. So recording too much
does no harm, and the two states are equal whenever nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from snapshots.levels import v0_2_0_rows as rows
from snapshots.levels.v0_2_0 import FormerEngine
from statemachine.engine import Engine
from statemachine.events import OrderState
from statemachine.limits import OPERATOR
from statemachine.reply_cache import ANY_CONTENTS, pack, packed_outcome, sequence_of
from statemachine.tables import AccountRow, ApiKeyRow, BalanceRow, CounterRow, CurrencyRow, ProductRow

from snapshots.levels.released.core_0_2_0 import changes as core_changes  # type: ignore[import-not-found]  # isort: skip  # in the archive

NOTED_MAX = 1_000_000
"""Orders that may be recorded: as many as arrive at 20,000 a second while a state of a million orders is converted.
Beyond this number the state is converted at the entry that changes the level."""

_encode = msgspec.msgpack.Encoder().encode
_order = msgspec.msgpack.Decoder(OrderState).decode
_product = msgspec.msgpack.Decoder(ProductRow).decode
_api_key = msgspec.msgpack.Decoder(ApiKeyRow).decode


class Noted:
    """The ids of what changed, in no order. `full`: not everything could be recorded."""

    def __init__(self) -> None:
        self.accounts: dict[str, None] = {}
        self.orders: dict[int, Any] = {}
        self.keys: dict[str, None] = {}
        self.products: dict[str, None] = {}
        self.full = False

    def __bool__(self) -> bool:
        return bool(self.accounts or self.orders or self.keys or self.products)


class Journal(core_changes.Changes):  # type: ignore[misc]  # the frozen core is not seen by the type checker
    """The core's record of changes, which also records them in `noted`. It continues the core's own record."""

    noted: Noted
    _of: Any

    @classmethod
    def of(cls, state: Any) -> Journal:
        """Replace the state's record of changes by a journal."""
        journal = cls()
        journal.__dict__.update(vars(state.changes))
        journal.noted, journal._of = Noted(), state
        state.changes = journal
        return journal

    def stop(self) -> None:
        """Restore the core's own record of changes. Nothing is recorded from then on."""
        if self._of.changes is self:
            changes = core_changes.Changes()
            changes.__dict__.update({name: value for name, value in vars(self).items() if name not in ("noted", "_of")})
            self._of.changes = changes
        self.noted = Noted()

    def touch(self, account_id: str, account: Any, memory: Any) -> None:
        """See `Changes`."""
        super().touch(account_id, account, memory)
        self.noted.accounts[account_id] = None

    def touch_order(self, order: Any) -> None:
        """See `Changes`."""
        super().touch_order(order)
        self._note(order)

    def order_came(self, order: Any) -> None:
        """See `Changes`."""
        super().order_came(order)
        self._note(order)

    def api_key_put(self, key_id: str) -> None:
        """See `Changes`."""
        super().api_key_put(key_id)
        self.noted.keys[key_id] = None

    def _note(self, order: Any) -> None:
        """Record an order that changed. Beyond a bound the record is full, and the second state is of no use."""
        noted = self.noted
        if len(noted.orders) < NOTED_MAX:
            noted.orders[order.order_id] = order
        else:
            noted.full = True

    def take(self) -> Noted:
        """Return what was recorded, and begin a new record."""
        noted, self.noted = self.noted, Noted()
        return noted


class Follower:
    """Updates a state of the next level to the present state of an engine of 0.2.0.

    Args:
        engine: the state of the next level, at a moment after the journal began.
    """

    def __init__(self, former: FormerEngine, journal: Journal, engine: Engine) -> None:
        self._core = former.core_state
        self._journal = journal
        self._patch = engine.patch()
        self._sequence = engine.sequence
        """Every reply cache has the outcomes up to this sequence, and those in `_upto` up to theirs."""
        self._upto: dict[str, int] = {}
        self._products = {row.product_id for row in engine.products()}

    @property
    def is_behind(self) -> bool:
        """Whether a change was not taken over yet."""
        return bool(self._journal.noted)

    @property
    def has_failed(self) -> bool:
        """Whether more changed than could be recorded."""
        return self._journal.noted.full

    def steps(self) -> Iterator[None]:
        """Take over what changed until now. The engine may apply entries between two steps; their changes are recorded
        again. Each step is O(1), but for an account's first one: O(its new done orders and outcomes).
        """
        noted, core, patch = self._journal.take(), self._core, self._patch
        self._currencies()
        for product_id in noted.products:
            self._product(product_id)
        for account_id in noted.accounts:
            self._account(account_id)
            yield
        for key_id in noted.keys:
            patch.record("api_key", _api_key(_encode(core.api_keys[key_id])))
            yield
        for order_id in sorted(noted.orders):
            order = noted.orders[order_id]
            if order_id in core.accounts[order.account_id].open:
                unit = core.products[order.product_id].unit
                patch.open_order(rows.open_order(self._order(order), unit))
            else:
                patch.close_order(order_id)
            yield

    def finish(self, first_hash: bytes) -> None:
        """Set what changes with each entry. No change may be left to take over."""
        core = self._core
        assert not self.is_behind
        self._patch.counters(CounterRow(core.sequence, core.last_order_id, core.time, first_hash))

    def _currencies(self) -> None:
        for currency in self._core.currencies.values():
            self._patch.currency(CurrencyRow(*msgspec.structs.astuple(currency.row())))

    def _product(self, product_id: str) -> None:
        self._patch.product(rows.product(_product(_encode(self._core.products[product_id].row()))))
        self._products.add(product_id)

    def _order(self, order: Any) -> OrderState:
        """Return an order in the present struct. Its product is put first if it was added after this round began."""
        if order.product_id not in self._products:
            self._currencies()
            self._product(order.product_id)
        return _order(_encode(order))

    def _account(self, account_id: str) -> None:
        """Take over what changed in an account."""
        core, patch = self._core, self._patch
        account = core.accounts.get(account_id)
        if account is None:
            assert account_id == OPERATOR
            self._outcomes(OPERATOR, core.operator_memory)
            return
        patch.account(AccountRow(account_id, account.opened_at))
        for name, balance in account.balances.items():
            patch.balance(BalanceRow(account_id, name, balance.available, balance.hold))
        self._done(account_id, account)
        self._outcomes(account_id, account.memory)

    def _done(self, account_id: str, account: Any) -> None:
        """Take over the account's done orders. An order that is done and already dropped is in neither state."""
        first = account.done_count - len(account.done) + 1
        self._patch.forget_done(account_id, first)
        start = max(first, self._patch.done_count(account_id) + 1)
        for number, order in enumerate(list(islice(account.done, start - first, None)), start):
            self._patch.done_order(number, self._order(order))

    def _outcomes(self, owner: str, memory: Any) -> None:
        """Take over the new entries of a reply cache."""
        upto = self._upto.get(owner, self._sequence)
        count = 4
        while True:
            view = memory.newest(count)
            found = list(view)
            if len(found) < count or sequence_of(found[0][1]) <= upto:
                break
            count *= 4
        for command_id, packed in found:
            sequence = sequence_of(packed)
            if sequence <= upto:
                continue
            self._upto[owner] = sequence
            encoded, others = rows.outcome(owner, packed_outcome(packed))
            for each in (owner, *others):
                self._patch.outcome(each, command_id, pack(ANY_CONTENTS, encoded))
        self._patch.forget_outcomes(owner, view.first_sequence)
