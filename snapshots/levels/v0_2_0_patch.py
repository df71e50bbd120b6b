"""Puts single rows into a live state of version 0.2.0, as `statemachine/patching.py` does for this software's state.
The core of 0.2.0 was frozen before that module existed; every later one has it.

`Patch` takes the changes of one freeze (`statemachine/freezing.py`) of a state of this software, row by row converted
by `v0_2_0_back.Lowering`. After each freeze the state equals the conversion of all rows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from typing import Any

import msgspec

from snapshots.errors import SnapshotError
from snapshots.levels.v0_2_0_back import Lowering, outcome_row
from statemachine.freezing import RowChunk
from statemachine.limits import OPERATOR
from statemachine.tables import OutcomeRow, PackedOutcomeRow

from snapshots.levels.released.core_0_2_0 import changes as core_changes  # type: ignore[import-not-found]  # isort: skip  # in the archive
from snapshots.levels.released.core_0_2_0 import events as core_events  # isort: skip
from snapshots.levels.released.core_0_2_0 import invariants as core_invariants  # isort: skip
from snapshots.levels.released.core_0_2_0 import limits as core_limits  # isort: skip
from snapshots.levels.released.core_0_2_0 import remember as core_remember  # isort: skip
from snapshots.levels.released.core_0_2_0 import state as core_state  # isort: skip
from snapshots.levels.released.core_0_2_0 import tables as core_tables  # isort: skip
from snapshots.levels.released.core_0_2_0 import types as core_types  # isort: skip

_ACTIVE = core_types.OrderStatus.ACTIVE
_decode = {name: msgspec.msgpack.Decoder(row).decode for name, row in core_tables.TABLES.items()}
_numbered_key = msgspec.msgpack.Decoder(tuple[str, int]).decode
_key = msgspec.msgpack.Decoder(list[Any]).decode
_packed_outcome = msgspec.msgpack.Decoder(PackedOutcomeRow).decode
_FIELDS = core_events.OrderState.__struct_fields__
_IDENTITY = ("account_id", "product_id", "side", "client_oid")
_PLACE = ("status", "opened_sequence", "price", "stop", "stop_price")


class PatchError(SnapshotError):
    """A change that is not taken over. The whole state is converted instead."""


class Patch:
    """See the module. `lowering` has converted all rows of the state before. O(changes); O(k) for k entries of a reply
    cache from which an entry in the middle is dropped.
    """

    def __init__(self, state: Any, lowering: Lowering) -> None:
        self._state = state
        self._lowering = lowering
        self._begin()

    def _begin(self) -> None:
        """Begin a new set of changes."""
        self._orders: list[Any] = []
        self._done: list[Any] = []
        self._accounts: set[str] = set()
        self._unsorted_accounts: set[str] = set()
        self._unsorted: dict[int, Any] = {}

    def take(self, chunks: Iterable[RowChunk]) -> None:
        """Take over the changes of one freeze.

        Raises:
            PatchError: they cannot be taken over; the state is of no use then.
            AssertionError: what changed breaks an invariant of 0.2.0. If the lowering has noted obstacles, the state is
                of no use either.
        """
        self._begin()
        by_table: defaultdict[str, list[RowChunk]] = defaultdict(list)
        for chunk in chunks:
            by_table[chunk.table].append(chunk)
        for name in by_table.keys() - core_tables.TABLES.keys():
            for chunk in by_table[name]:
                self._lowering.refuse(name, chunk.rows)
        rows = {name: [row for chunk in found for row in chunk.rows] for name, found in by_table.items()}
        self._lowering.learn(rows.get("currency", ()), rows.get("product", ()))
        for name, put in (("currency", self._currency), ("product", self._product), ("account", self._account)):
            for row in self._converted(name, rows):
                put(row)
        self._api_keys(by_table["api_key"], rows)
        self._change_orders(by_table, rows)
        for row in self._converted("balance", rows):
            self._balance(row)
        self._outcomes(by_table["outcome"])
        if not self._lowering.obstacles:
            self._check()

    def finish(self, counter: tuple[bytes, bytes], first_hash: bytes) -> None:
        """Set the counters from their row, and check the whole. Raises AssertionError as `take`."""
        state = self._state
        row = _decode["counter"](self._lowering.row("counter", *counter, first_hash)[1])
        state.sequence, state.last_order_id, state.time, state.hash = row.sequence, row.last_order_id, row.time, row.state_hash
        state.changes = core_changes.Changes(state.last_order_id)
        core_invariants._check_counters(state)
        core_invariants._check_money(state)
        for product in state.products.values():
            core_invariants._check_product(state, product)
        if state.expiring:
            expires_at, order_id = state.expiring.peekitem(0)[0]
            assert expires_at > state.time, f"order {order_id}: leaves at {expires_at}"

    def _converted(self, name: str, rows: dict[str, list[tuple[bytes, bytes]]]) -> Iterable[Any]:
        """Yield the rows of a table, converted to version 0.2.0. Raises PatchError."""
        decode, lowering = _decode[name], self._lowering
        for key, payload in rows.get(name, ()):
            former = lowering.row(name, key, payload)[1]
            if lowering.obstacles:
                raise PatchError("something is in use that the earlier version lacks")
            yield decode(former)

    # ------------------------------------------------------------------ small tables

    def _currency(self, row: Any) -> None:
        currency = self._state.currencies.get(row.currency)
        if currency is None:
            currency = self._state.currencies[row.currency] = core_state.Currency(row.currency, row.scale)
        currency.deposited, currency.withdrawn, currency.fees = row.deposited, row.withdrawn, row.fees

    def _product(self, row: Any) -> None:
        """Add or change a product. Raises PatchError."""
        product = self._state.products.get(row.product_id)
        if product is None:
            unit = 10 ** self._state.currencies[row.base].scale
            self._state.products[row.product_id] = core_state.Product(row, unit)
            return
        if (product.base, product.quote, product.tick, product.lot) != (row.base, row.quote, row.tick, row.lot):
            raise PatchError(f"product {row.product_id} is another one")
        product.min_size, product.max_size = row.min_size, row.max_size
        product.maker_fee_ppm, product.taker_fee_ppm = row.maker_fee_ppm, row.taker_fee_ppm
        product.status, product.sequence = row.status, row.product_sequence
        product.last_trade_id, product.last_price = row.last_trade_id, row.last_price

    def _account(self, row: Any) -> None:
        self._accounts.add(row.account_id)
        if row.account_id not in self._state.accounts:
            self._state.accounts[row.account_id] = core_state.Account(row.account_id, row.opened_at)

    def _api_keys(self, chunks: list[RowChunk], rows: dict[str, list[tuple[bytes, bytes]]]) -> None:
        """Add, change and remove API keys."""
        keys = self._state.api_keys
        for chunk in chunks:
            for key in chunk.deleted:
                keys.pop(_key(key)[0], None)
        for row in self._converted("api_key", rows):
            keys[row.key_id] = row

    def _balance(self, row: Any) -> None:
        """Put a balance. The account's orders must have been put before, because the amount on hold follows from them."""
        balance = self._state.balance(self._state.accounts[row.account_id], row.currency)
        balance.available = row.available + row.hold - balance.hold

    # ------------------------------------------------------------------ orders

    def _change_orders(self, by_table: dict[str, list[RowChunk]], rows: dict[str, list[tuple[bytes, bytes]]]) -> None:
        """Apply the changes of open and done orders."""
        for chunk in by_table["order"]:
            for key in chunk.deleted:
                self._close(_key(key)[0])
        numbers = [_numbered_key(key)[1] for key, _ in rows.get("done_order", ())]
        for chunk in by_table["done_order"]:
            for _, end in chunk.purged:
                self._forget_done(*_numbered_key(end))
        placed = [self._state.orders[row.order_id] for row in self._converted("order", rows) if self._open(row)]
        for order in sorted(placed, key=_time):
            self._put_on(order)
        for number, order in zip(numbers, self._converted("done_order", rows), strict=True):
            self._done_order(number, order)
        for level in self._unsorted.values():
            level.orders = OrderedDict((order.order_id, order) for order in sorted(level.orders.values(), key=_time))
        for account_id in self._unsorted_accounts:
            account = self._state.accounts[account_id]
            account.open = dict(sorted(account.open.items()))

    def _open(self, row: Any) -> bool:
        """Add or change an open order. Returns whether it must be put on its place."""
        state = self._state
        account = state.accounts[row.account_id]
        order = account.open.get(row.order_id)
        self._orders.append(row if order is None else order)
        if order is None:
            if account.open and next(reversed(account.open)) > row.order_id:
                self._unsorted_accounts.add(row.account_id)
            account.open[row.order_id] = state.orders[row.order_id] = row
            self._index(account, row)
            self._hold(row, row.hold)
            return True
        if any(getattr(order, name) != getattr(row, name) for name in _IDENTITY):
            raise PatchError(f"order {row.order_id} is another one")
        stays = all(getattr(order, name) == getattr(row, name) for name in _PLACE)
        if not stays:
            self._take_off(order)
        elif not order.stop or order.status is not _ACTIVE:
            self._side(order).reduce(order, order.remaining - row.remaining)
        self._hold(order, row.hold - order.hold)
        if order.expires_at != row.expires_at:
            self._unindex_expiry(order)
        for name in _FIELDS:
            setattr(order, name, getattr(row, name))
        self._index(account, order)
        if order.status is not _ACTIVE:
            self._lowering.collected.pop(order.order_id, None)
        return not stays

    def _index(self, account: Any, order: Any) -> None:
        """Index the order by its time of expiry and by its `client_oid`, unless a later order has that `client_oid`."""
        if order.expires_at and order.status is not core_types.OrderStatus.DONE:
            self._state.expiring[order.expires_at, order.order_id] = order
        if order.client_oid:
            known = account.by_client_oid.get(order.client_oid)
            if known is None or known.order_id <= order.order_id:
                account.by_client_oid[order.client_oid] = order

    def _unindex_expiry(self, order: Any) -> None:
        if order.expires_at:
            del self._state.expiring[order.expires_at, order.order_id]

    def _hold(self, order: Any, by: int) -> None:
        """Let the order's balance hold more, or less."""
        state = self._state
        product = state.products[order.product_id]
        currency = product.quote if order.side is core_types.Side.BUY else product.base
        state.balance(state.accounts[order.account_id], currency).hold += by

    def _close(self, order_id: int) -> None:
        """Remove an open order, if it is open here."""
        order = self._state.orders.get(order_id)
        if order is None or order.status is core_types.OrderStatus.DONE:
            return
        account = self._state.accounts[order.account_id]
        self._take_off(order)
        self._hold(order, -order.hold)
        self._unindex_expiry(order)
        del account.open[order_id]
        self._lowering.collected.pop(order_id, None)
        self._drop(account, order)

    def _drop(self, account: Any, order: Any) -> None:
        del self._state.orders[order.order_id]
        if account.by_client_oid.get(order.client_oid) is order:
            del account.by_client_oid[order.client_oid]

    def _done_order(self, number: int, order: Any) -> None:
        """Record that an order is done. Raises PatchError if a done order before it is missing."""
        state = self._state
        self._close(order.order_id)
        account = state.accounts[order.account_id]
        if account.done and number != account.done_count + 1:
            raise PatchError(f"done order {account.done_count + 1} of account {order.account_id} is missing")
        account.done_count = number
        state.add_done(account, order)
        self._index(account, order)
        self._done.append(order)

    def _forget_done(self, account_id: str, first: int) -> None:
        """Drop the account's done orders with smaller numbers."""
        account = self._state.accounts[account_id]
        while account.done and account.done_count - len(account.done) + 1 < first:
            self._drop(account, account.done.popleft())
            self._state.done_count -= 1

    def _side(self, order: Any) -> Any:
        """Return the side of the book on which an order rests, or on which an auction has collected it."""
        product = self._state.products[order.product_id]
        return (product.collected if order.status is _ACTIVE else product.book).side(order.side)

    def _take_off(self, order: Any) -> None:
        """Remove an order from the book, or from the waiting stop orders."""
        if order.status is _ACTIVE and order.stop:
            self._state.products[order.product_id].stops.remove(order)
        else:
            self._side(order).remove(order)

    def _put_on(self, order: Any) -> None:
        """Put an open order on its place, behind all others of its price. If some of them came later, the price is
        sorted at the end.
        """
        if order.status is _ACTIVE and order.stop:
            self._state.products[order.product_id].stops.add(order)
            return
        side = self._side(order)
        side.add(order)
        level = side.levels[order.price * side.direction]
        others = reversed(level.orders.values())
        next(others)
        before = next(others, None)
        if before is not None and _time(before) > _time(order):
            self._unsorted[id(level)] = level

    # ------------------------------------------------------------------ reply caches

    def _outcomes(self, chunks: list[RowChunk]) -> None:
        """Apply the changes of the reply caches."""
        added: defaultdict[str, list[OutcomeRow]] = defaultdict(list)
        removed: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        moved = self._lowering.moved
        for chunk in chunks:
            for _, payload in chunk.rows:
                row = outcome_row(payload)
                added[row.account_id.partition("/")[0]].append(row)
            for _, end in chunk.purged:
                owner, first = _numbered_key(end)
                entries = moved.get(owner, deque())
                while entries and entries[0][0] < first:
                    removed[owner.partition("/")[0]].append(entries.popleft())
        for account_id in added.keys() | removed.keys():
            new = sorted(added[account_id], key=_sequence)
            for row in new:
                self._lowering.remember_moved(row)
            self._remember(account_id, new, removed[account_id])

    def _remember(self, account_id: str, new: list[OutcomeRow], removed: list[tuple[int, str]]) -> None:
        """Add entries to an account's reply cache, and remove others. Its oldest ones leave when there are too many."""
        state = self._state
        memory = state.operator_memory if account_id == OPERATOR else state.accounts[account_id].memory
        packed: list[tuple[str, bytes]] = []
        for row in new:
            lowered = self._lowering.outcome(account_id, row)
            if lowered is None or self._lowering.obstacles:
                raise PatchError("an answer that the earlier version lacks")
            packed_row = _packed_outcome(lowered[1])
            packed.append((packed_row.command_id, core_remember.pack(packed_row.fingerprint, packed_row.outcome)))
        before = len(memory)
        dropped = {command_id for sequence, command_id in removed if _has(memory, command_id, sequence)}
        ids = {command_id for command_id, _ in packed}
        if not dropped and len(ids) == len(packed) and not any(map(memory.find, ids)):
            for command_id, entry in packed:
                memory.remember(command_id, entry)
        else:
            kept = [(command_id, entry) for command_id, entry in memory.newest(before) if command_id not in dropped]
            entries = (kept + packed)[-core_limits.OUTCOMES_PER_ACCOUNT :]
            memory = core_remember.OutcomeMemory()
            memory.fill([command_id for command_id, _ in entries], [entry for _, entry in entries])
            if len(memory) != len(entries):
                self._lowering.refuse_id(account_id, Counter(command_id for command_id, _ in entries).most_common(1)[0][0])
            if account_id == OPERATOR:
                state.operator_memory = memory
            else:
                state.accounts[account_id].memory = memory
        state.outcome_count += len(memory) - before

    # ------------------------------------------------------------------ invariants

    def _check(self) -> None:
        """Check what changed by the invariants of 0.2.0. Raises AssertionError."""
        state = self._state
        for account_id in self._accounts:
            core_invariants._check_account(state.accounts[account_id])
        for order in self._orders:
            if order.status is _ACTIVE:
                core_invariants._check_active(order, state.products[order.product_id], state.time)
                continue
            try:
                fault = core_invariants._fault(order, state.products[order.product_id], state.time)
            except StopIteration:
                continue
            raise AssertionError(f"order {order.order_id}: {fault}")
        for order in self._done:
            assert order.done_reason is not core_types.DoneReason.NONE, f"order {order.order_id}: done without a reason"
            assert order.hold == 0, f"order {order.order_id}: done, but holds {order.hold}"


def _time(order: Any) -> tuple[int, int]:
    """Return the place of an order among those of its price."""
    return order.opened_sequence, order.order_id


def _sequence(row: OutcomeRow) -> int:
    return row.outcome.sequence


def _has(memory: Any, command_id: str, sequence: int) -> bool:
    """Return whether a reply cache has the entry of a command with this sequence."""
    packed = memory.find(command_id)
    return packed is not None and core_remember.sequence_of(packed) == sequence
