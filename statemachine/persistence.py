"""The state as tables, and back.

Everything that the engine knows is in the tables, and nothing else is needed to go on exactly as before:

- a level's time priority is the order of the order ids, since an order rests in the command that gave it its id;
- the queue of done orders is the order of their numbers, which are the second part of their key;
- the queue of remembered commands is the order of their sequences, likewise.

Keys are msgpack arrays. Rows are sorted by the key's bytes, the order in which a key-value store keeps them; loading does not
depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import msgspec

from statemachine import invariants, rows
from statemachine.changes import Changes
from statemachine.errors import StateError
from statemachine.events import OrderState
from statemachine.limits import OPERATOR, OUTCOMES_PER_ACCOUNT, SCALE_MAX
from statemachine.relations import KEYS
from statemachine.remember import FINGERPRINT_SIZE
from statemachine.rows import Row
from statemachine.state import Account, Balance, Currency, Product, State
from statemachine.tables import (
    TABLES,
    AccountRow,
    ApiKeyRow,
    BalanceRow,
    CounterRow,
    CurrencyRow,
    OutcomeRow,
    ProductRow,
)

_key_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


def dump(state: State) -> Iterator[tuple[str, list[Row]]]:
    """Every table in the order of `TABLES`, rows sorted by the key's bytes."""
    for name in TABLES:
        yield name, sorted(_DUMPERS[name](state))


def full_hash(state: State) -> bytes:
    """blake2b, 32 bytes, over the names, keys and rows of all tables."""
    digest = blake2b(digest_size=32)
    for name, pairs in dump(state):
        digest.update(rows.encode([name, len(pairs)]))
        for key, row in pairs:
            digest.update(key)
            digest.update(row)
    return digest.digest()


def load(tables: Mapping[str, Iterable[Row]]) -> State:
    """The state that the tables describe, checked whole. Fastest when the rows come sorted.

    Raises:
        StateError: a table is missing or unknown, a row is malformed, or together they break an invariant.
    """
    if sorted(tables) != sorted(TABLES):
        raise StateError(f"expected the tables {', '.join(TABLES)}, not {', '.join(sorted(tables))}")
    state = State()
    for name, row_type in TABLES.items():
        try:
            _LOADERS[name](state, _decoded(name, row_type, tables[name]))
        except KeyError as error:
            raise StateError(f"table {name}: a row refers to {error}, which does not exist") from error
    for account in state.accounts.values():
        _index_client_oids(account)
    state.changes = Changes(state.last_order_id)
    try:
        invariants.check(state)
    except AssertionError as error:
        raise StateError(f"the tables contradict each other: {error}") from error
    return state


def _decoded(name: str, row_type: type[msgspec.Struct], pairs: Iterable[Row]) -> Iterator[tuple[bytes, Any]]:
    """Keys and rows, sorted by key, each key once and belonging to its row where it is made of the row's fields."""
    decode = msgspec.msgpack.Decoder(row_type).decode
    key_of = _key_of(name)
    before = b""
    for position, (key, payload) in enumerate(sorted(pairs)):
        try:
            row = decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError(f"table {name}, row {position}: {error}") from error
        if key == before or (key_of is not None and key != key_of(row)):
            raise StateError(f"table {name}, row {position}: the key {key!r} is not that of its row, or comes twice")
        before = key
        yield key, row


def _key_of(name: str) -> Callable[[Any], bytes] | None:
    """What makes the key that belongs to a row; None for done orders, whose number stands in the key only."""
    fields = KEYS[name]
    if name == "done_order":
        return None
    if not fields:
        return lambda _row: rows.encode(fields)
    get = attrgetter(*fields)
    return (lambda row: rows.encode([get(row)])) if len(fields) == 1 else (lambda row: rows.encode(get(row)))


def _done_number(key: bytes, order: OrderState) -> int:
    """The number in a done order's key."""
    try:
        parts = _key_decoder.decode(key)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(f"table done_order: the key {key!r}: {error}") from error
    if isinstance(parts, list) and len(parts) == 2 and type(parts[1]) is int and parts[1] >= 0:
        number: int = parts[1]
        if key == rows.numbered_key(order.account_id, number):
            return number
    raise StateError(f"table done_order: the key {parts!r} is not that of order {order.order_id}")


def _load_counter(state: State, pairs: Iterable[tuple[bytes, CounterRow]]) -> None:
    found = [row for _, row in pairs]
    if len(found) != 1:
        raise StateError(f"table counter: expected one row, not {len(found)}")
    row = found[0]
    state.sequence, state.last_order_id, state.time, state.hash = row.sequence, row.last_order_id, row.time, row.state_hash


def _load_currency(state: State, pairs: Iterable[tuple[bytes, CurrencyRow]]) -> None:
    for _, row in pairs:
        if not 0 <= row.scale <= SCALE_MAX:
            raise StateError(f"table currency: {row.currency} has the scale {row.scale}, expected 0 to {SCALE_MAX}")
        state.currencies[row.currency] = Currency(row.currency, row.scale, row.deposited, row.withdrawn, row.fees)


def _load_product(state: State, pairs: Iterable[tuple[bytes, ProductRow]]) -> None:
    for _, row in pairs:
        state.products[row.product_id] = Product(row, 10 ** state.currencies[row.base].scale)


def _load_account(state: State, pairs: Iterable[tuple[bytes, AccountRow]]) -> None:
    for _, row in pairs:
        state.accounts[row.account_id] = Account(row.account_id, row.opened_at)


def _load_api_key(state: State, pairs: Iterable[tuple[bytes, ApiKeyRow]]) -> None:
    for _, row in pairs:
        state.api_keys[row.key_id] = row


def _load_balance(state: State, pairs: Iterable[tuple[bytes, BalanceRow]]) -> None:
    for _, row in pairs:
        state.accounts[row.account_id].balances[row.currency] = Balance(row.available, row.hold)
        state.balance_count += 1


def _load_order(state: State, pairs: Iterable[tuple[bytes, OrderState]]) -> None:
    for _, order in pairs:
        state.add_open(order)


def _load_done_order(state: State, pairs: Iterable[tuple[bytes, OrderState]]) -> None:
    for key, order in pairs:
        account, number = state.accounts[order.account_id], _done_number(key, order)
        if account.done and number != account.done_count + 1:
            raise StateError(f"table done_order: number {account.done_count + 1} of account {order.account_id} is missing")
        if order.order_id in state.orders:
            raise StateError(f"table done_order: order {order.order_id} comes twice")
        account.done_count = number
        state.add_done(account, order)


def _load_outcome(state: State, pairs: Iterable[tuple[bytes, OutcomeRow]]) -> None:
    for _, row in pairs:
        account_id, sequence = row.account_id, row.outcome.sequence
        memory = state.operator_memory if account_id == OPERATOR else state.accounts[account_id].memory
        if sequence < 0 or len(row.fingerprint) != FINGERPRINT_SIZE:
            raise StateError(f"table outcome: the sequence or the fingerprint of command {row.command_id} is none")
        if memory.find(row.command_id) is not None:
            raise StateError(f"table outcome: command {row.command_id} of account {account_id} comes twice")
        if len(memory) == OUTCOMES_PER_ACCOUNT:
            raise StateError(f"table outcome: more than {OUTCOMES_PER_ACCOUNT} rows of account {account_id}")
        state.outcome_count += memory.remember(sequence, row.command_id, row.fingerprint, rows.encode(row.outcome))


_LOADERS: dict[str, Callable[[State, Iterable[tuple[bytes, Any]]], None]] = {
    "counter": _load_counter,
    "currency": _load_currency,
    "product": _load_product,
    "account": _load_account,
    "api_key": _load_api_key,
    "balance": _load_balance,
    "order": _load_order,
    "done_order": _load_done_order,
    "outcome": _load_outcome,
}


def _index_client_oids(account: Account) -> None:
    """The latest known order of each client_oid. An open one is later than all that are done."""
    for order in sorted(account.done, key=lambda order: order.order_id):
        if order.client_oid:
            account.by_client_oid[order.client_oid] = order
    for order in account.open.values():
        if order.client_oid:
            account.by_client_oid[order.client_oid] = order


def _done_orders(state: State) -> Iterator[Row]:
    for account in state.accounts.values():
        for number, order in enumerate(account.done, account.done_count - len(account.done) + 1):
            yield rows.done_order(number, order)


def _outcomes(state: State) -> Iterator[Row]:
    memories = [(OPERATOR, state.operator_memory), *((name, account.memory) for name, account in state.accounts.items())]
    for name, memory in memories:
        for command_id, packed in memory.newest(len(memory)):
            yield rows.outcome(name, command_id, packed)


_DUMPERS: dict[str, Callable[[State], Iterable[Row]]] = {
    "counter": lambda state: [rows.counter(state)],
    "currency": lambda state: (rows.currency(currency.row()) for currency in state.currencies.values()),
    "product": lambda state: (rows.product(product.row()) for product in state.products.values()),
    "account": lambda state: (rows.account(name, account.opened_at) for name, account in state.accounts.items()),
    "api_key": lambda state: map(rows.api_key, state.api_keys.values()),
    "balance": lambda state: (rows.balance(row) for account in state.accounts.values() for row in account.balance_rows()),
    "order": lambda state: (rows.order(order) for account in state.accounts.values() for order in account.open.values()),
    "done_order": _done_orders,
    "outcome": _outcomes,
}
"""All rows of a table, in any order."""
