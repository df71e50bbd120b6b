"""Rebuilds the state from its tables.

A million resting orders must be back within seconds, so a table's rows are decoded all at once, and levels, queues and
indexes are built whole from rows in key order instead of entry by entry:

- order ids and sequences are msgpack integers, whose bytes sort as they do: rows in key order are in time order;
- orders in the order of their ids are nearly in the order in which they came to the book: only stop orders and those of
  an auction came later. Sorting a nearly sorted list is O(n);
- rows whose keys begin with the same account are adjacent in key order.

Loops over a whole table let other threads run (`turns`), and no single step takes long: a received snapshot is loaded
while the node continues its work (`node/engine/snapshot_port.py`).

Queues, levels and indexes are correct by construction. The contents of the rows are checked: each row by itself, and
whether the rows fit together (`invariants.check_contents`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from statemachine import controls, invariants, pending, streams
from statemachine.book import BookSide
from statemachine.changes import Changes
from statemachine.commands import REPLY_CACHE_KINDS, TRANSFER_KINDS
from statemachine.entities import Account, Balance, Currency, Order, order_of_row
from statemachine.errors import StateError
from statemachine.events import AnyOutcome, OrderState
from statemachine.limits import OPERATOR, REJECTS_CACHED, SCALE_MAX, TRANSFERS_CACHED
from statemachine.order_rows import OrderReader, OutcomeReader
from statemachine.persistence import Row, encode, numbered_key
from statemachine.reply_cache import ReplyCache, packed_outcome
from statemachine.state import State
from statemachine.streams import Stream
from statemachine.tables import (
    KEYS,
    SCHEMA,
    TABLES,
    AccountRow,
    BalanceRow,
    CounterRow,
    CurrencyRow,
    ProductRow,
    StreamRow,
    Table,
)
from statemachine.teardown import clear
from statemachine.turns import parts, turn
from statemachine.types import OrderStatus, Side

_order_id, _opened_sequence = attrgetter("order_id"), attrgetter("opened_sequence")
_owner, _command_id, _packed = itemgetter(0), itemgetter(1), itemgetter(2)
_queued = attrgetter("queued")
_REPLY_CACHE_KINDS = {str(kind): kind for kind in REPLY_CACHE_KINDS}
_ACTIVE: int = OrderStatus.ACTIVE
_BUY: int = Side.BUY


_outcome = msgspec.msgpack.Decoder(AnyOutcome).decode
_numbered_key = msgspec.msgpack.Decoder(tuple[str, int]).decode


def load(tables: Mapping[str, Iterable[Row]], *, verified: bool = False) -> State:
    """Return the state that the tables describe, checked. It is fastest if the rows come sorted.

    Args:
        verified: the rows are byte for byte those that an engine of this schema gave. Then the outcomes in the reply
            caches are neither decoded nor compared with their keys; a running engine decodes an outcome only when a
            command repeats its id, too.

    Raises:
        StateError: a table is missing or unknown, a row is malformed, or together they break an invariant.
    """
    if sorted(tables) != sorted(TABLES):
        raise StateError(f"expected the tables {', '.join(TABLES)}, not {', '.join(sorted(tables))}")
    state = State()
    for table in SCHEMA:
        name = table.name
        pairs, keys = _in_key_order(name, tables[name])
        try:
            found = _read(name, _reader(state, table), pairs)
            if name == "outcome" and not verified:
                _check_outcomes(state.sequence, keys, found)
            if table.kept:
                _load_kept(state, table, keys, found)
            else:
                _LOADERS[name](state, keys, found)
        except KeyError as error:
            raise StateError(f"table {name}: a row refers to {error}, which does not exist") from error
        except OverflowError as error:  # from the compiled core, whose numbers have 64 bits
            raise StateError(f"table {name}: a row has a number out of range: {error}") from error
        clear(pairs, keys, found)
    for account in state.accounts.values():
        turn()
        _index_done(account)
    controls.arrange(state)
    state.changes = Changes(state.last_order_id)
    try:
        invariants.check_contents(state)
    except AssertionError as error:
        raise StateError(f"the tables contradict each other: {error}") from error
    return state


def _in_key_order(name: str, found: Iterable[Row]) -> tuple[list[Row], list[bytes]]:
    """Return the rows of a table by key, and their keys."""
    pairs = list(found)
    keys = [key for part in parts(pairs) for key, _ in part]
    if not _rise(keys):
        pairs.sort()
        keys = [key for part in parts(pairs) for key, _ in part]
        if not _rise(keys):
            raise StateError(f"table {name}: a key comes twice")
    return pairs, keys


def _rise(keys: list[bytes]) -> bool:
    """Return whether the keys are sorted and different."""
    last = b""
    for part in parts(keys):
        for key in part:
            if key <= last:
                return False
            last = key
    return True


def _reader(state: State, table: Table) -> Callable[[bytes], Any]:
    """Return the decoder of a table's rows: orders as objects of the state, outcomes packed, others as their rows."""
    if table.name == "order":
        return OrderReader(state.accounts, state.products).read
    if table.name == "outcome":
        return OutcomeReader().read
    return msgspec.msgpack.Decoder(table.row).decode


def _read(name: str, read: Callable[[bytes], Any], pairs: list[Row]) -> list[Any]:
    """Return the rows of a table, decoded by `read`."""
    found: list[Any] = []
    try:
        for part in parts(pairs):
            for _, payload in part:
                found.append(read(payload))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"table {name}, row {len(found)}: {error}") from error
    return found


def _check_outcomes(last_sequence: int, keys: list[bytes], found: list[tuple[str, str, bytes]]) -> None:
    """Check that each outcome can be decoded, and that its key has its sequence."""
    numbered: list[bytes] = []
    for part in parts(found):
        for owner, command_id, packed in part:
            try:
                sequence = _outcome(packed_outcome(packed)).sequence
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise StateError(f"table outcome, row {len(numbered)}: {error}") from error
            if not 1 <= sequence <= last_sequence:
                raise StateError(f"table outcome: the sequence {sequence} of command {command_id} is invalid")
            numbered.append(numbered_key(owner, sequence))
    _check_keys("outcome", keys, numbered)


def _check_keys(name: str, keys: list[bytes], expected: list[bytes]) -> None:
    """Check that each key is the one that the row's fields make."""
    if keys != expected:
        place = next(place for place, key in enumerate(keys) if key != expected[place])
        raise StateError(f"table {name}, row {place}: the key {keys[place]!r} is not that of its row")
    clear(expected)


def _check_field_keys(name: str, keys: list[bytes], found: list[Any]) -> None:
    fields = KEYS[name]
    _check_keys(name, keys, [encode([getattr(row, field) for field in fields]) for part in parts(found) for row in part])


def _load_counter(state: State, keys: list[bytes], found: list[CounterRow]) -> None:
    """Load the one row of counters."""
    _check_field_keys("counter", keys, found)
    if len(found) != 1:
        raise StateError(f"table counter: expected one row, not {len(found)}")
    row = found[0]
    state.sequence, state.last_order_id, state.time, state.hash = row.sequence, row.last_order_id, row.time, row.state_hash
    state.last_queued, state.turn = row.last_queued, row.turn


def _load_currency(state: State, keys: list[bytes], found: list[CurrencyRow]) -> None:
    _check_field_keys("currency", keys, found)
    for row in found:
        if not 0 <= row.scale <= SCALE_MAX:
            raise StateError(f"table currency: {row.currency} has the scale {row.scale}, expected 0 to {SCALE_MAX}")
        state.currencies[row.currency] = Currency(row.currency, row.scale, row.deposited, row.withdrawn, row.fees, row.turnover)


def _load_product(state: State, keys: list[bytes], found: list[ProductRow]) -> None:
    _check_field_keys("product", keys, found)
    for row in found:
        state.new_product(row)


def _load_account(state: State, keys: list[bytes], found: list[AccountRow]) -> None:
    _check_field_keys("account", keys, found)
    for part in parts(found):
        for row in part:
            state.accounts[row.account_id] = Account(row.account_id, row.opened_at)


def _load_balance(state: State, keys: list[bytes], found: list[BalanceRow]) -> None:
    _check_field_keys("balance", keys, found)
    for part in parts(found):
        for row in part:
            state.accounts[row.account_id].balances[row.currency] = Balance(row.available, row.hold)
    state.balance_count = len(found)


def _load_order(state: State, keys: list[bytes], orders: list[Order]) -> None:
    """Load the open orders into the books and queues that their rows name."""
    ids = _ids(orders)
    _check_keys("order", keys, [encode((order_id,)) for part in parts(ids) for order_id in part])
    if ids and (ids[0] < 1 or ids[-1] != max(ids)):
        raise StateError("table order: an order id is below 1")
    products = state.products
    resting: dict[BookSide, list[Order]] = {}
    collected: list[Order] = []
    stops: dict[str, list[Order]] = {name: [] for name in products}
    queued: dict[str, list[Order]] = {name: [] for name in products}
    expiring: dict[str, dict[tuple[int, int], Order]] = {name: {} for name in products}
    for part in parts(orders):
        for order in part:
            _index_open(state, order)
            product = order.product
            if order.expires_at:
                expiring[product.product_id][order.expires_at, order.order_id] = order
            if order.queued:
                queued[product.product_id].append(order)
            elif order.status != _ACTIVE:
                resting.setdefault(product.side(order.side), []).append(order)
            elif order.stop:
                stops[product.product_id].append(order)
            else:
                collected.append(order)
    for part in parts(sorted(collected, key=_opened_sequence)):
        for order in part:
            resting.setdefault(order.product.collected(order.side), []).append(order)
            order.product.collection.add(order)
    for side, its_orders in resting.items():
        side.fill(sorted(its_orders, key=_opened_sequence))
    for name, product in products.items():
        product.stops.fill(stops[name])
        for order in sorted(queued[name], key=_queued):
            turn()
            (product.triggered if order.stop else product.arrivals)[order.order_id] = order
        product.expiring.update(expiring[name])
        if expiring[name]:
            first = product.expiring.peekitem(0)[0][0]
            state.next_expiry = min(state.next_expiry or first, first)
        if pending.is_unfinished(state, product):
            state.set_busy(product)


def _ids(orders: list[Order]) -> list[int]:
    """Return the ids of orders."""
    ids: list[int] = []
    for part in parts(orders):
        for order in part:
            ids.append(order.order_id)  # noqa: PERF401 - Cython does not type the variable of a comprehension
    return ids


def _index_open(state: State, order: Order) -> None:
    """Add an open order to the indexes."""
    account = order.account
    state.orders.put(order)
    account.list_order(order)
    if order.client_oid:
        by_oid = account.by_client_oid
        if by_oid.find(order.client_oid) is not None:
            raise StateError(f"table order: account {account.account_id} has client_oid {order.client_oid} open twice")
        by_oid.put(order)


def _load_done_order(state: State, keys: list[bytes], found: list[OrderState]) -> None:
    for part in parts(list(zip(keys, found, strict=True))):
        for key, row in part:
            _load_done(state, key, row)


def _load_done(state: State, key: bytes, row: OrderState) -> None:
    """Load a done order, which follows the done order with the number before."""
    account, number = state.accounts[row.account_id], _done_number(key, row)
    if account.done and number != account.done_count + 1:
        raise StateError(f"table done_order: number {account.done_count + 1} of account {row.account_id} is missing")
    if row.order_id in state.orders:
        raise StateError(f"table done_order: order {row.order_id} comes twice")
    account.done_count = number
    order = order_of_row(row, account, state.products[row.product_id])
    state.orders.put(order)
    account.done.append(order)
    state.done_count += 1


def _done_number(key: bytes, order: OrderState) -> int:
    """Return the number in a done order's key."""
    try:
        number = _numbered_key(key)[1]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"table done_order: the key {key!r}: {error}") from error
    if number < 0 or key != numbered_key(order.account_id, number):
        raise StateError(f"table done_order: the key {key!r} is not that of order {order.order_id}")
    return number


def _reply_cache(state: State, owner: str) -> ReplyCache:
    """Return the reply cache that rows of the table `outcome` name. Raises KeyError, StateError."""
    if owner == OPERATOR:
        return state.operator_replies
    account_id, slash, kind = owner.partition("/")
    account = state.accounts[account_id]
    if not slash:
        return account.replies
    number = _REPLY_CACHE_KINDS.get(kind)
    if number is None:
        raise StateError(f"table outcome: {owner} names no reply cache")
    replies = ReplyCache(TRANSFERS_CACHED if number in TRANSFER_KINDS else REJECTS_CACHED)
    account.other_replies[number] = replies
    return replies


def _load_outcome(state: State, _keys: list[bytes], found: list[tuple[str, str, bytes]]) -> None:
    """Load the reply caches. Their rows are sorted by account."""
    for account_id, group in groupby(found, _owner):
        turn()
        replies = _reply_cache(state, account_id)
        of_account = list(group)
        if len(of_account) > replies.bound:
            raise StateError(f"table outcome: more than {replies.bound} rows of account {account_id}")
        replies.fill(list(map(_command_id, of_account)), list(map(_packed, of_account)))
        if len(replies) != len(of_account):
            raise StateError(f"table outcome: a command of account {account_id} comes twice")
    state.outcome_count = len(found)


def _load_stream(state: State, keys: list[bytes], found: list[StreamRow]) -> None:
    """Load the report streams."""
    _check_field_keys("stream", keys, found)
    for row in found:
        if not (0 <= row.base <= row.sequence and row.taken >= 0 and row.account_id in state.accounts):
            raise StateError(f"table stream: the numbers or the account of {row.stream_id} are invalid")
        streams.add(state, Stream(row))


def _load_kept(state: State, table: Table, keys: list[bytes], found: list[Any]) -> None:
    """Load a table whose rows are kept in memory as structs."""
    _check_field_keys(table.name, keys, found)
    targets: dict[str, Mapping[str, object]] = {
        "account": state.accounts,
        "currency": state.currencies,
        "product": state.products,
    }
    for reference in table.references():
        known = targets.get(reference.target)
        if known is None:  # a table that is kept, with one field as its key
            known = {key[0]: None for key in state.records[reference.target].rows}
        for row in found:
            name = getattr(row, reference.field)
            if name not in known and name not in reference.others:
                raise StateError(f"table {table.name}: {reference.field} {name} is in no row of table {reference.target}")
    state.records[table.name].fill(found)


_LOADERS: dict[str, Callable[[State, list[bytes], list[Any]], None]] = {
    "counter": _load_counter,
    "currency": _load_currency,
    "product": _load_product,
    "account": _load_account,
    "balance": _load_balance,
    "order": _load_order,
    "done_order": _load_done_order,
    "outcome": _load_outcome,
    "stream": _load_stream,
}


def _index_done(account: Account) -> None:
    """Index the done orders by client_oid, after the open orders were indexed: an open order is later than all done
    orders with its client_oid.
    """
    for order in sorted(account.done, key=_order_id, reverse=True):
        if not order.client_oid:
            continue
        known = account.by_client_oid.find(order.client_oid)
        if known is None:
            account.by_client_oid.put(order)
        elif known.order_id < order.order_id:
            raise StateError(
                f"table done_order: order {order.order_id}, and the earlier {known.order_id} with its client_oid is open"
            )
