"""Rebuilds the state from its tables.

A million resting orders must be back within seconds. So the rows of the large tables are taken one after the other,
while they are read, and everything is done with a row at once, while it is in the processor's cache: it is checked, and
its order or outcome goes to its place in queues, levels and indexes. This works because of the order of the keys:

- order ids and sequences are msgpack integers, whose bytes sort as they do: rows in key order are in time order;
- orders in the order of their ids are nearly in the order in which they came to the book (`book.Filling`);
- rows whose keys begin with the same account are adjacent in key order.

Loops over a whole table let other threads run (`turns`), and no single step takes long: a received snapshot is loaded
while the node continues its work (`node/engine/snapshot_port.py`).

Queues, levels and indexes are correct by construction. The contents of the rows are checked: each row on its own, and
whether the rows fit together (`invariants.check_contents`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from statemachine import controls, invariants, pending, streams
from statemachine.book import Filling
from statemachine.changes import Changes
from statemachine.commands import REPLY_CACHE_KINDS, TRANSFER_KINDS
from statemachine.entities import Account, Balance, Currency, Order, Product
from statemachine.errors import StateError
from statemachine.events import AnyOutcome
from statemachine.invariants import OpenOrders
from statemachine.limits import OPERATOR, REJECTS_CACHED, SCALE_MAX, TRANSFERS_CACHED
from statemachine.order_rows import OrderReader, OutcomeReader, is_order_key
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
from statemachine.turns import parts, taken, turn
from statemachine.types import OrderStatus, Side

_order_id, _opened_sequence, _queued = attrgetter("order_id"), attrgetter("opened_sequence"), attrgetter("queued")
_REPLY_CACHE_KINDS = {str(kind): kind for kind in REPLY_CACHE_KINDS}
_ACTIVE: int = OrderStatus.ACTIVE
_BUY: int = Side.BUY


_outcome = msgspec.msgpack.Decoder(AnyOutcome).decode
_numbered_key = msgspec.msgpack.Decoder(tuple[str, int]).decode


def load(tables: Mapping[str, Iterable[Row]], *, verified: bool = False) -> State:
    """Return the state that the tables describe, checked.

    Args:
        tables: the rows of each table. The tables are read in the order of `tables.SCHEMA`, each once. The rows of an
            iterator are taken while the state is built, and must come in key order; those of a collection may come in
            any order.
        verified: the rows are byte for byte those that an engine of this schema gave. Then the outcomes in the reply
            caches are neither decoded nor compared with their keys; a running engine decodes an outcome only when a
            command repeats its id, too.

    Raises:
        StateError: a table is missing or unknown, a row is malformed, or together they break an invariant.
    """
    if sorted(tables) != sorted(TABLES):
        raise StateError(f"expected the tables {', '.join(TABLES)}, not {', '.join(sorted(tables))}")
    state = State()
    opened = OpenOrders(state)
    for table in SCHEMA:
        name = table.name
        rows = _in_parts(tables[name])
        try:
            if name == "order":
                _load_orders(state, opened, rows)
            elif name == "done_order":
                _load_done_orders(state, rows)
            elif name == "outcome":
                _load_outcomes(state, lambda owner: _reply_cache(state, owner), verified, rows)
            else:
                _load_small(state, table, rows)
        except KeyError as error:
            raise StateError(f"table {name}: a row refers to {error}, which does not exist") from error
        except OverflowError as error:  # from the compiled core, whose numbers have 64 bits
            raise StateError(f"table {name}: a row has a number out of range: {error}") from error
    for account in state.accounts.values():
        turn()
        _index_done(account)
    controls.arrange(state)
    state.changes = Changes(state.last_order_id)
    try:
        invariants.check_contents(state, opened)
    except AssertionError as error:
        raise StateError(f"the tables contradict each other: {error}") from error
    return state


def _in_parts(found: Iterable[Row]) -> Iterator[Sequence[Row]]:
    """Return the rows of a table in parts. The rows of a collection are sorted first."""
    if isinstance(found, Iterator):
        return taken(found)
    pairs = found if isinstance(found, list) else list(found)
    return parts(pairs if _rise(pairs) else sorted(pairs))


def _rise(pairs: list[Row]) -> bool:
    """Return whether the rows are in key order."""
    last = b""
    for part in parts(pairs):
        for key, _ in part:
            if key < last:
                return False
            last = key
    return True


def _misplaced(table: str, number: int, key: bytes, last: bytes) -> StateError:
    """Return the error of a row whose key is not larger than the key of the row before."""
    what = "comes twice" if key == last else "is smaller than the one before"
    return StateError(f"table {table}, row {number}: the key {key!r} {what}")


def _load_small(state: State, table: Table, rows: Iterator[Sequence[Row]]) -> None:
    """Load a table all of whose rows are decoded before the first is used."""
    keys: list[bytes] = []
    found: list[Any] = []
    read = msgspec.msgpack.Decoder(table.row).decode
    last = b""
    try:
        for part in rows:
            for key, payload in part:
                if key <= last:
                    raise _misplaced(table.name, len(found), key, last)
                last = key
                keys.append(key)
                found.append(read(payload))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"table {table.name}, row {len(found)}: {error}") from error
    if table.kept:
        _load_kept(state, table, keys, found)
    else:
        _LOADERS[table.name](state, keys, found)
    clear(keys, found)


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


class Places:
    """Puts the open orders of a product in their places: `add` each, in the order of their ids, then `finish`."""

    __slots__ = ("_asks", "_bids", "_collected", "_expiring", "_product", "_queued", "_stops")

    def __init__(self, product: Product) -> None:
        self._product = product
        self._bids = Filling(product.bids)
        self._asks = Filling(product.asks)
        self._stops: list[Order] = []
        self._queued: list[Order] = []
        self._collected: list[Order] = []
        self._expiring: dict[tuple[int, int], Order] = {}

    def add(self, order: Order) -> None:
        """Put an order on the book, or keep it for `finish`."""
        if order.expires_at:
            self._expiring[order.expires_at, order.order_id] = order
        if order.queued:
            self._queued.append(order)
        elif order.status != _ACTIVE:
            (self._bids if order.side == _BUY else self._asks).add(order)
        elif order.stop:
            self._stops.append(order)
        else:
            self._collected.append(order)

    def finish(self, state: State) -> None:
        """Complete the books, and put the other orders into their queues."""
        product = self._product
        self._bids.finish()
        self._asks.finish()
        for part in parts(sorted(self._collected, key=_opened_sequence)):
            for order in part:
                product.collected(order.side).add(order)
                product.collection.add(order)
        product.stops.fill(self._stops)
        for order in sorted(self._queued, key=_queued):
            turn()
            (product.triggered if order.stop else product.arrivals)[order.order_id] = order
        product.expiring.update(self._expiring)
        if self._expiring:
            first = product.expiring.peekitem(0)[0][0]
            state.next_expiry = min(state.next_expiry or first, first)
        if pending.is_unfinished(state, product):
            state.set_busy(product)


def _load_orders(state: State, opened: OpenOrders, rows: Iterator[Sequence[Row]]) -> None:
    """Load the open orders into the indexes, and into the books and queues that their rows name."""
    reader = OrderReader(state.accounts, state.products)
    places_of = {name: Places(product) for name, product in state.products.items()}
    last = number = 0
    try:
        for part in rows:
            for key, payload in part:
                order = reader.read(payload)
                if not is_order_key(key, order.order_id):
                    raise StateError(f"table order, row {number}: the key {key!r} is not that of its row")
                if order.order_id <= last:
                    raise StateError(f"table order, row {number}: the order id {order.order_id}, expected more than {last}")
                last = order.order_id
                _index_open(state, order)
                opened.add(order)
                places = places_of[order.product.product_id]
                places.add(order)
                number += 1
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"table order, row {number}: {error}") from error
    for places in places_of.values():
        places.finish(state)


def _index_open(state: State, order: Order) -> None:
    """Add an open order to the indexes."""
    account = order.account
    state.orders.put(order)
    account.list_order(order)
    if order.client_oid:
        by_oid = account.by_client_oid
        if not by_oid.put_new(order):
            raise StateError(f"table order: account {account.account_id} has client_oid {order.client_oid} open twice")


def _load_done_orders(state: State, rows: Iterator[Sequence[Row]]) -> None:
    """Load the table of done orders. Raises StateError."""
    reader = OrderReader(state.accounts, state.products)
    last = b""
    number = 0
    try:
        for part in rows:
            for key, payload in part:
                if key <= last:
                    raise _misplaced("done_order", number, key, last)
                last = key
                _load_done(state, key, reader.read(payload))
                number += 1
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"table done_order, row {number}: {error}") from error


def _load_done(state: State, key: bytes, order: Order) -> None:
    """Load a done order, which follows the done order with the number before."""
    account = order.account
    number = account.done_count + 1
    if key != numbered_key(account.account_id, number):
        number = _done_number(key, order)
        if account.done.count:
            raise StateError(f"table done_order: number {account.done_count + 1} of account {account.account_id} is missing")
    if state.orders.find(order.order_id) is not None:
        raise StateError(f"table done_order: order {order.order_id} comes twice")
    account.done_count = number
    state.orders.put(order)
    account.done.append(order)
    state.done_count += 1


def _done_number(key: bytes, order: Order) -> int:
    """Return the number in a done order's key."""
    try:
        number = _numbered_key(key)[1]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"table done_order: the key {key!r}: {error}") from error
    if number < 0 or key != numbered_key(order.account.account_id, number):
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
    replies = account.other_replies.get(number)
    if replies is None:
        replies = ReplyCache(TRANSFERS_CACHED if number in TRANSFER_KINDS else REJECTS_CACHED)
        account.other_replies[number] = replies
    return replies


def _load_outcomes(state: State, find: Callable[[str], ReplyCache], verified: bool, rows: Iterator[Sequence[Row]]) -> None:
    """Load the reply caches. Rows of a verified snapshot are not checked again. Raises StateError."""
    reader = OutcomeReader(find)
    last = b""
    number = 0
    try:
        for part in rows:
            for key, payload in part:
                if key <= last:
                    raise _misplaced("outcome", number, key, last)
                last = key
                if not verified:
                    _check_outcome(state.sequence, key, *reader.read(payload))
                reader.put(payload)
                number += 1
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"table outcome, row {number}: {error}") from error
    state.outcome_count = number


def _check_outcome(last_sequence: int, key: bytes, owner: str, command_id: str, packed: bytes) -> None:
    """Check that an outcome can be decoded, and that its key has its sequence."""
    sequence = _outcome(packed_outcome(packed)).sequence
    if not 1 <= sequence <= last_sequence:
        raise StateError(f"table outcome: the sequence {sequence} of command {command_id} is invalid")
    if key != numbered_key(owner, sequence):
        raise StateError(f"table outcome: the key {key!r} is not that of command {command_id} of {owner}")


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
