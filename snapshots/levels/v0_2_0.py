"""The exchange of version 0.2.0: its frozen core behind the interface of the present engine.

The frozen core makes everything that is in the log, in a snapshot or in the result of an entry, in its
encoding. The schema is append-only, so the present structs read what it wrote: fields that came later have their
defaults. Only reads are this module's own work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from snapshots.levels.level import V0_2_0
from snapshots.levels.narrowing import Narrowing
from statemachine import access
from statemachine.applied import AppliedBatch
from statemachine.auctions import Indication
from statemachine.commands import AnyCommand, Batch
from statemachine.engine import Engine
from statemachine.errors import StateError
from statemachine.events import OrderState
from statemachine.fees import Fees
from statemachine.freezing import Frozen
from statemachine.limits import OPERATOR
from statemachine.order_lists import Wanted
from statemachine.tables import AccessRow, ApiKeyRow, BalanceRow, CurrencyRow, ProductRow
from statemachine.types import Permission, Scope, Side

from snapshots.levels.released.core_0_2_0 import changes as core_changes  # type: ignore[import-not-found]  # isort: skip  # in the archive
from snapshots.levels.released.core_0_2_0 import commands as core_commands  # isort: skip
from snapshots.levels.released.core_0_2_0 import engine as core_engine  # isort: skip
from snapshots.levels.released.core_0_2_0 import errors as core_errors  # isort: skip
from snapshots.levels.released.core_0_2_0 import handlers as core_handlers  # isort: skip
from snapshots.levels.released.core_0_2_0 import matching as core_matching  # isort: skip
from snapshots.levels.released.core_0_2_0 import rows as core_rows  # isort: skip
from snapshots.levels.released.core_0_2_0 import types as core_types  # isort: skip

Row = TypeVar("Row")
_encode = msgspec.msgpack.Encoder().encode

_CURRENCIES: msgspec.msgpack.Decoder[list[CurrencyRow]] = msgspec.msgpack.Decoder(list[CurrencyRow])
_CURRENCY: msgspec.msgpack.Decoder[CurrencyRow | None] = msgspec.msgpack.Decoder(CurrencyRow | None)
_PRODUCTS: msgspec.msgpack.Decoder[list[ProductRow]] = msgspec.msgpack.Decoder(list[ProductRow])
_PRODUCT: msgspec.msgpack.Decoder[ProductRow | None] = msgspec.msgpack.Decoder(ProductRow | None)
_BALANCES: msgspec.msgpack.Decoder[list[BalanceRow]] = msgspec.msgpack.Decoder(list[BalanceRow])
_API_KEY: msgspec.msgpack.Decoder[ApiKeyRow | None] = msgspec.msgpack.Decoder(ApiKeyRow | None)
_API_KEYS: msgspec.msgpack.Decoder[list[ApiKeyRow]] = msgspec.msgpack.Decoder(list[ApiKeyRow])
_ORDER: msgspec.msgpack.Decoder[OrderState | None] = msgspec.msgpack.Decoder(OrderState | None)
_ORDERS: msgspec.msgpack.Decoder[list[OrderState]] = msgspec.msgpack.Decoder(list[OrderState])

NARROWING = Narrowing(V0_2_0.version, core_commands.AnyCommand.__args__, core_commands.command_decoder.decode)


def encode_batch(time: int, commands: Iterable[AnyCommand], *, migrated: bool = False) -> bytes:
    """Return the log entry of these commands, as version 0.2.0 writes it. `migrated`: they were applied by 0.1.0's
    rules.

    Raises:
        NotAtLevelError: a command has a value that version 0.2.0 does not know.
    """
    entry: bytes = core_commands.encode_batch(core_commands.Batch(time, [NARROWING.command(each) for each in commands], migrated))
    return entry


_of_0_1_0 = False
"""The entry under way is of version 0.1.0, and was brought to this level with its snapshot (`level.BROUGHT_TO`).

Some nodes have its results in a snapshot that 0.1.0 wrote. So whoever applies it must get the same rows: the place of
an order in time, the last price and the event of a status, which 0.2.0 added, are left out. 0.2.0 itself does not leave
them out.
"""

_rest, _status_changed = core_matching._rest, core_handlers._status_changed


def _rest_at(state: Any, product: Any, order: Any) -> None:
    """Let an order rest; under the rules of 0.1.0 it has no sequence."""
    _rest(state, product, order)
    if _of_0_1_0:
        order.opened_sequence = 0


def _status_changed_at(state: Any, product: Any) -> None:
    """Emit a change of status; version 0.1.0 did not emit it."""
    if not _of_0_1_0:
        _status_changed(state, product)


core_matching._rest, core_handlers._status_changed = _rest_at, _status_changed_at


class _Core(core_engine.Engine):  # type: ignore[misc]  # the frozen core is not seen by the type checker
    """The frozen engine. It also records the number of events before the first command of a batch, and after each
    command."""

    ends: list[int]

    def apply(self, batch: Any) -> Any:
        """Apply a batch; one of version 0.1.0 by the rules of that version."""
        if not batch.migrated:
            return super().apply(batch)
        global _of_0_1_0
        prices = {name: product.last_price for name, product in self._state.products.items()}
        _of_0_1_0 = True
        try:
            return super().apply(batch)
        finally:
            _of_0_1_0 = False
            for name, product in self._state.products.items():
                product.last_price = prices.get(name, 0)

    def _answer(self, *arguments: Any) -> Any:
        """Answer a command, and record where its events end."""
        if not self.ends:
            self.ends.append(len(self._state.events))
        answer = super()._answer(*arguments)
        self.ends.append(len(self._state.events))
        return answer


class FormerEngine(Engine):
    """See `Engine`."""

    def __init__(self, core: _Core | None = None) -> None:
        super().__init__()
        self._core = core if core is not None else _Core()
        self.changed: Callable[[list[str]], None] | None = None
        """Called after each entry with the products that it may have changed."""

    @property
    def core_state(self) -> Any:
        """The state of the frozen core, for reading."""
        return self._core._state

    # ------------------------------------------------------------------ change

    @property
    def sequence(self) -> int:
        """See `Engine`."""
        return int(self._core.sequence)

    @property
    def time(self) -> int:
        """See `Engine`."""
        return int(self._core.time)

    @property
    def state_hash(self) -> bytes:
        """See `Engine`. That of version 0.2.0."""
        return bytes(self._core.state_hash)

    def apply(self, batch: Batch) -> AppliedBatch:
        """See `Engine`. Raises NotAtLevelError as `encode_batch`."""
        return self.apply_entry(encode_batch(batch.time, batch.commands))

    def apply_entry(self, payload: bytes) -> AppliedBatch:
        """See `Engine`. Outcomes and events are in the encoding of version 0.2.0."""
        batch = core_commands.decode_batch(payload)
        self._core.ends = []
        applied = self._core.apply(batch)
        outcomes = [_encode(outcome) for outcome in applied.outcomes]
        events = [_encode(event) for event in applied.events]
        keys = [command.key_id for command in batch.commands if type(command) is core_commands.PutApiKey]
        products = [event.product_id for event in applied.events]
        if self.changed is not None:
            # Sizes and fees of a product change without an event.
            put = [command.product_id for command in batch.commands if type(command) is core_commands.PutProduct]
            self.changed([name for name in products + put if name in self._core._state.products])
        return AppliedBatch(
            b"".join(outcomes),
            list(accumulate(map(len, outcomes))),
            b"".join(events),
            list(accumulate(map(len, events))),
            products,
            self._core.ends or [len(events)],
            keys,
        )

    # ------------------------------------------------------------------ whole

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        found: dict[str, int] = core_rows.counts(self._core._state)
        return found

    def check(self) -> None:
        """See `Engine`."""
        self._core.check()

    def tables(self) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
        """See `Engine`. Rows in the encoding of version 0.2.0."""
        yield from self._core.tables()

    def freeze(self, *, whole: bool = False) -> Frozen:
        """See `Engine`."""
        frozen: Frozen = self._core.freeze(whole=whole)
        return frozen

    def changes_since_freeze(self) -> Frozen:
        """See `Engine`."""
        state = self._core._state
        frozen: Frozen = core_changes.Frozen(state, dict(state.changes._accounts), dict(state.changes._api_keys))
        return frozen

    @classmethod
    def restore(cls, tables: Mapping[str, Iterable[tuple[bytes, bytes]]], *, verified: bool = False) -> FormerEngine:
        """See `Engine`."""
        try:
            return cls(_Core.restore(tables, verified=verified))
        except core_errors.StateError as error:
            raise StateError(str(error)) from error

    def release(self) -> None:
        """See `Engine`."""
        self._core.release()

    def full_hash(self) -> bytes:
        """See `Engine`."""
        return bytes(self._core.full_hash())

    # ------------------------------------------------------------------ reads

    @property
    def next_expiry(self) -> int:
        """See `Engine`."""
        return int(self._core.next_expiry)

    @property
    def has_pending_work(self) -> bool:
        """False: version 0.2.0 does all work of an entry at once."""
        return False

    def has_outcome(self, account_id: str, command_id: str) -> bool:
        """See `Engine`."""
        return bool(self._core.remembers(OPERATOR if access.is_sender(account_id) else account_id, command_id))

    def currencies(self) -> list[CurrencyRow]:
        """See `Engine`."""
        return _present(self._core.currencies(), _CURRENCIES)

    def currency(self, name: str) -> CurrencyRow | None:
        """See `Engine`."""
        return _present(self._core.currency(name), _CURRENCY)

    def products(self) -> list[ProductRow]:
        """See `Engine`."""
        return _present(self._core.products(), _PRODUCTS)

    def product(self, product_id: str) -> ProductRow | None:
        """See `Engine`."""
        return _present(self._core.product(product_id), _PRODUCT)

    def product_sequence(self, product_id: str) -> int:
        """See `Engine`."""
        return int(self._core.product_sequence(product_id))

    def stream(self, stream_id: str) -> None:
        """Return None, because version 0.2.0 has no report streams."""

    def records(self, table: str) -> list[Any]:  # noqa: ARG002 - as in `Engine`
        """Return no rows, because version 0.2.0 has no controls."""
        return []

    def phase(self, product_id: str) -> None:
        """Return None, because version 0.2.0 has no calendars."""

    def fees_of(self, account_id: str, product_id: str = "") -> Fees | None:
        """Return the rates of the products, because version 0.2.0 has no others and counts no volume."""
        products = [row for row in self._core.products() if row.product_id == product_id or not product_id]
        if not self.account_exists(account_id) or (product_id and not products):
            return None
        makers, takers = [row.maker_fee_ppm for row in products], [row.taker_fee_ppm for row in products]
        return Fees(max(makers, default=0), max(takers, default=0), [])

    def sequences(self) -> dict[str, int]:
        """See `Engine`."""
        return {row.product_id: row.product_sequence for row in self._core.products()}

    def account_exists(self, account_id: str) -> bool:
        """See `Engine`."""
        return bool(self._core.account_exists(account_id))

    def balances(self, account_id: str) -> list[BalanceRow]:
        """See `Engine`."""
        return _present(self._core.balances(account_id), _BALANCES)

    def api_key(self, key_id: str) -> ApiKeyRow | None:
        """See `Engine`."""
        return _present(self._core.api_key(key_id), _API_KEY)

    def api_keys(self) -> list[ApiKeyRow]:
        """See `Engine`."""
        rows = self._core._state.api_keys
        return _present([rows[key_id] for key_id in sorted(rows)], _API_KEYS)

    def usable_key(self, key_id: str) -> ApiKeyRow | None:
        """See `Engine`. Version 0.2.0 has no users."""
        return self.api_key(key_id)

    def held_by(self, sender: str, scope: Scope, name: str) -> int:  # noqa: ARG002 - as in `Engine`
        """See `Engine`."""
        if sender == OPERATOR:
            return sum(Permission)
        key = self.api_key(access.key_of(sender))
        return access.widened(key.permissions) & access.OF_OPERATOR if key is not None else 0

    def sees(self, sender: str, table: str, row: Any) -> bool:  # noqa: ARG002 - as in `Engine`
        """See `Engine`."""
        return bool(self.held_by(sender, Scope.VENUE, "") & access.OF_OPERATOR)

    def visible(self, sender: str, table: str, first: int, limit: int) -> list[Any]:  # noqa: ARG002 - as in `Engine`
        """Return no rows, because version 0.2.0 has no controls."""
        return []

    def visible_keys(self, sender: str, after: str, limit: int) -> list[ApiKeyRow]:
        """See `Engine`."""
        if not self.sees(sender, "api_key", None):
            return []
        return [row for row in self.api_keys() if row.key_id > after][:limit]

    def proposed_permission(self, proposal_id: int) -> None:
        """Return None, because version 0.2.0 has no proposals."""

    @property
    def access(self) -> AccessRow:
        """See `Engine`."""
        return AccessRow(Scope.VENUE, "")

    def order(self, order_id: int) -> OrderState | None:
        """See `Engine`."""
        return _present(self._core.order(order_id), _ORDER)

    def order_by_client_oid(self, account_id: str, client_oid: str) -> OrderState | None:
        """See `Engine`."""
        return _present(self._core.order_by_client_oid(account_id, client_oid), _ORDER)

    def order_list(self, account_id: str, wanted: Wanted, limit: int) -> list[OrderState]:
        """See `Engine`. O(n log n) in the orders of the account."""
        account = self._core._state.accounts.get(account_id)
        if account is None:
            return []
        sources = ((account.open.values(), wanted.open), (account.done, wanted.done))
        orders = [order for source, is_wanted in sources if is_wanted for order in source if self._wanted(order, wanted)]
        orders.sort(key=lambda order: order.order_id, reverse=True)
        return _present(orders[:limit], _ORDERS)

    def encoded_orders(self, account_id: str, wanted: Wanted, limit: int) -> bytes:
        """See `Engine`."""
        return msgspec.msgpack.encode(self.order_list(account_id, wanted, limit))

    def _wanted(self, order: Any, wanted: Wanted) -> bool:
        """Return whether an order belongs to the wanted list."""
        if wanted.holds:
            product = self._core._state.products[order.product_id]
            held = product.quote if order.side is core_types.Side.BUY else product.base
            if not order.hold or held != wanted.holds:
                return False
        return (
            (not wanted.product_id or order.product_id == wanted.product_id)
            and (not wanted.before_id or order.order_id < wanted.before_id)
            and order.order_id > wanted.above_id
            and (not wanted.statuses or bool(wanted.statuses >> order.status & 1))
            and order.created_at >= wanted.created_from
            and (not wanted.created_to or order.created_at < wanted.created_to)
        )

    def orders_kept(self, account_id: str) -> int:
        """See `Engine`."""
        account = self._core._state.accounts.get(account_id)
        return len(account.open) + len(account.done) if account is not None else 0

    def levels(self, product_id: str, side: Side, depth: int) -> list[tuple[int, int, int]]:
        """See `Engine`."""
        return list(self._core.levels(product_id, core_types.Side(side), depth))

    def auction(self, product_id: str) -> Indication | None:
        """See `Engine`."""
        found = self._core.auction(product_id)
        return None if found is None else Indication(*found)

    def book_orders(self, product_id: str, side: Side) -> list[tuple[int, int, int]]:
        """See `Engine`."""
        return list(self._core.book_orders(product_id, core_types.Side(side)))

    def book_page(self, product_id: str, side: Side, after: tuple[int, int, int], limit: int) -> list[tuple[int, int, int, int]]:
        """See `Engine`. Passes over the whole level that `after` is at."""
        product = self._core._state.products.get(product_id)
        if product is None:
            return []
        book = product.book.side(core_types.Side(side))
        price, opened, order_id = after
        page: list[tuple[int, int, int, int]] = []
        for key in book.levels.irange(minimum=price * book.direction if price else None):
            for order in book.levels[key].orders.values():
                if order.price == price and (order.opened_sequence, order.order_id) <= (opened, order_id):
                    continue
                page.append((order.price, order.remaining, order.order_id, order.opened_sequence))
                if len(page) == limit:
                    return page
        return page

    def book_page_skips(self, product_id: str, side: Side, after: tuple[int, int, int]) -> int:
        """See `Engine`."""
        product = self._core._state.products.get(product_id)
        if product is None or not after[0]:
            return 0
        book = product.book.side(core_types.Side(side))
        level = book.levels.get(after[0] * book.direction)
        return 0 if level is None else len(level.orders)


def _present(found: Any, decoder: msgspec.msgpack.Decoder[Row]) -> Row:
    """Return the rows of version 0.2.0 as the present ones: later fields have their defaults."""
    return decoder.decode(_encode(found))
