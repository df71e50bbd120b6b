"""The state as tables, and back.

Everything that the engine knows is in the tables, and nothing else is needed to go on exactly as before:

- a level's time priority is the order of the order ids, since an order rests in the command that gave it its id;
- the queue of done orders is the order of their numbers, which are the second part of their key;
- the queue of remembered commands is the order of their sequences, likewise.

Keys are msgpack arrays. Rows are sorted by the key's bytes, the order in which a key-value store keeps them; loading does not
depend on it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from statemachine import invariants
from statemachine.errors import StateError
from statemachine.events import OrderState
from statemachine.limits import OPERATOR, OUTCOMES_PER_ACCOUNT, SCALE_MAX
from statemachine.relations import KEYS
from statemachine.remember import FINGERPRINT_SIZE, fingerprint_of, packed_outcome, sequence_of
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

Row = tuple[bytes, bytes]

_encode = msgspec.msgpack.Encoder().encode
_key_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


class LaterRows(Collection[Row]):
    """The rows of a table that holds nothing that still changes: encoded as they are asked for, in the order of their keys.

    `groups` are the accounts' parts: the account, and two sequences with what `encode` needs for one row each. No pairs are made before
    they are asked for: some hundred thousand new tuples would have the garbage collector walk over the whole state.
    """

    def __init__(self, groups: list[tuple[str, Sequence[Any], Sequence[Any]]], encode: Callable[[str, Any, Any], Row]) -> None:
        self._groups = groups
        self._encode = encode

    def __len__(self) -> int:
        return sum(len(items) for _, _, items in self._groups)

    def __iter__(self) -> Iterator[Row]:
        for account_id, marks, items in self._groups:
            for mark, item in zip(marks, items, strict=True):
                yield self._encode(account_id, mark, item)

    def __contains__(self, row: object) -> bool:
        return any(row == known for known in self)


def freeze(state: State) -> dict[str, Collection[Row]]:
    """Every table in the order of `TABLES`, as it is now and stays whatever is applied later; rows in the order of their keys.

    What never changes once it is there (done orders, remembered commands: nearly all rows of a large state) is only referred to, about
    0.05 us a row, and open orders are copied, under 1 us each; such rows are encoded when they are iterated, which another thread may do.
    The rest is encoded now.
    """
    accounts = sorted(state.accounts.items(), key=lambda item: _encode(item[0]))
    memories = [(name, account.memory) for name, account in accounts] + [(OPERATOR, state.operator_memory)]
    memories.sort(key=lambda item: _encode(item[0]))
    tables: dict[str, Collection[Row]] = {name: sorted(encode_now(state)) for name, encode_now in _DUMPERS.items()}
    tables["order"] = _open_orders(state)
    tables["done_order"] = LaterRows([(name, *account.numbered_done()) for name, account in accounts], _done_order_row)
    tables["outcome"] = LaterRows([(name, *memory.frozen()) for name, memory in memories], _outcome_row)
    return {name: tables[name] for name in TABLES}


def dump(state: State) -> Iterator[tuple[str, list[Row]]]:
    """Every table in the order of `TABLES`, rows sorted by the key's bytes."""
    for name, rows in freeze(state).items():
        yield name, list(rows)


def full_hash(state: State) -> bytes:
    """blake2b, 32 bytes, over the names, keys and rows of all tables."""
    digest = blake2b(digest_size=32)
    for name, rows in dump(state):
        digest.update(_encode([name, len(rows)]))
        for key, row in rows:
            digest.update(key)
            digest.update(row)
    return digest.digest()


def load(tables: Mapping[str, Iterable[Row]]) -> State:
    """The state that the tables describe, checked whole.

    Raises:
        StateError: a table is missing or unknown, a row is malformed, or together they break an invariant.
    """
    if sorted(tables) != sorted(TABLES):
        raise StateError(f"expected the tables {', '.join(TABLES)}, not {', '.join(sorted(tables))}")
    state = State()
    for name, row_type in TABLES.items():
        rows = sorted(_decoded(name, row_type, tables[name]), key=lambda item: item[0])
        try:
            _LOADERS[name](state, rows)
        except KeyError as error:
            raise StateError(f"table {name}: a row refers to {error}, which does not exist") from error
    _index_client_oids(state)
    try:
        invariants.check(state)
    except AssertionError as error:
        raise StateError(f"the tables contradict each other: {error}") from error
    return state


def _decoded(name: str, row_type: type[msgspec.Struct], rows: Iterable[Row]) -> Iterator[tuple[list[Any], Any]]:
    """Keys and rows, each key seen once and belonging to its row."""
    decoder = msgspec.msgpack.Decoder(row_type)
    known: dict[bytes, None] = {}
    for position, (key, payload) in enumerate(rows):
        try:
            parts, row = _key_decoder.decode(key), decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError(f"table {name}, row {position}: {error}") from error
        if key in known or not _key_fits(name, key, parts, row):
            raise StateError(f"table {name}, row {position}: the key {parts!r} is not that of its row, or comes twice")
        known[key] = None
        yield parts, row


def _key_fits(name: str, key: bytes, parts: Any, row: Any) -> bool:
    """Is the key, byte for byte, the one that belongs to the row? A done order's number stands in the key only."""
    if name == "outcome":
        return key == _encode([row.account_id, row.outcome.sequence])
    if name == "done_order":
        return (
            isinstance(parts, list) and len(parts) == 2 and type(parts[1]) is int and key == _encode([row.account_id, parts[1]])
        )
    return key == _encode([getattr(row, field) for field in KEYS[name]])


def _counter(state: State) -> Iterator[Row]:
    yield _encode([]), _encode(CounterRow(state.sequence, state.last_order_id, state.time, state.hash))


def _currency(state: State) -> Iterator[Row]:
    return ((_encode([name]), _encode(currency.row())) for name, currency in state.currencies.items())


def _product(state: State) -> Iterator[Row]:
    return ((_encode([name]), _encode(product.row())) for name, product in state.products.items())


def _account(state: State) -> Iterator[Row]:
    return ((_encode([name]), _encode(AccountRow(name, account.opened_at))) for name, account in state.accounts.items())


def _api_key(state: State) -> Iterator[Row]:
    return ((_encode([name]), _encode(row)) for name, row in state.api_keys.items())


def _balance(state: State) -> Iterator[Row]:
    for account in state.accounts.values():
        for row in account.balance_rows():
            yield _encode([row.account_id, row.currency]), _encode(row)


def _open_orders(state: State) -> LaterRows:
    """Copies of all open orders, by id."""
    orders = [copy.copy(order) for account in state.accounts.values() for order in account.open.values()]
    orders.sort(key=lambda order: order.order_id)
    return LaterRows([("", range(len(orders)), orders)], _order_row)


def _order_row(_account_id: str, _position: int, order: OrderState) -> Row:
    return _encode([order.order_id]), _encode(order)


def _done_order_row(account_id: str, number: int, order: OrderState) -> Row:
    return _encode([account_id, number]), _encode(order)


def _outcome_row(account_id: str, command_id: str, packed: bytes) -> Row:
    row = (account_id, command_id, fingerprint_of(packed), msgspec.Raw(packed_outcome(packed)))
    return _encode([account_id, sequence_of(packed)]), _encode(row)


_DUMPERS: dict[str, Callable[[State], Iterator[Row]]] = {
    "counter": _counter,
    "currency": _currency,
    "product": _product,
    "account": _account,
    "api_key": _api_key,
    "balance": _balance,
}
"""Tables that are encoded when they are frozen."""


def _load_counter(state: State, rows: list[tuple[list[Any], CounterRow]]) -> None:
    if len(rows) != 1:
        raise StateError(f"table counter: expected one row, not {len(rows)}")
    row = rows[0][1]
    state.sequence, state.last_order_id, state.time, state.hash = row.sequence, row.last_order_id, row.time, row.state_hash


def _load_currency(state: State, rows: list[tuple[list[Any], CurrencyRow]]) -> None:
    for _, row in rows:
        if not 0 <= row.scale <= SCALE_MAX:
            raise StateError(f"table currency: {row.currency} has the scale {row.scale}, expected 0 to {SCALE_MAX}")
        state.currencies[row.currency] = Currency(row.currency, row.scale, row.deposited, row.withdrawn, row.fees)


def _load_product(state: State, rows: list[tuple[list[Any], ProductRow]]) -> None:
    for _, row in rows:
        state.products[row.product_id] = Product(row, 10 ** state.currencies[row.base].scale)


def _load_account(state: State, rows: list[tuple[list[Any], AccountRow]]) -> None:
    for _, row in rows:
        state.accounts[row.account_id] = Account(row.account_id, row.opened_at)


def _load_api_key(state: State, rows: list[tuple[list[Any], ApiKeyRow]]) -> None:
    for _, row in rows:
        state.api_keys[row.key_id] = row


def _load_balance(state: State, rows: list[tuple[list[Any], BalanceRow]]) -> None:
    for _, row in rows:
        state.accounts[row.account_id].balances[row.currency] = Balance(row.available, row.hold)


def _load_order(state: State, rows: list[tuple[list[Any], OrderState]]) -> None:
    for _, order in rows:
        state.rest(order)


def _load_done_order(state: State, rows: list[tuple[list[Any], OrderState]]) -> None:
    for (_, number), order in rows:
        account = state.accounts[order.account_id]
        if account.done and number != account.done_count + 1:
            raise StateError(f"table done_order: number {account.done_count + 1} of account {order.account_id} is missing")
        if order.order_id in state.orders:
            raise StateError(f"table done_order: order {order.order_id} comes twice")
        account.done.append(order)
        account.done_count = number
        state.orders[order.order_id] = order


def _load_outcome(state: State, rows: list[tuple[list[Any], OutcomeRow]]) -> None:
    for (account_id, sequence), row in rows:
        memory = state.operator_memory if account_id == OPERATOR else state.accounts[account_id].memory
        if sequence < 0 or len(row.fingerprint) != FINGERPRINT_SIZE:
            raise StateError(f"table outcome: the sequence or the fingerprint of command {row.command_id} is none")
        if memory.find(row.command_id) is not None:
            raise StateError(f"table outcome: command {row.command_id} of account {account_id} comes twice")
        if len(memory) == OUTCOMES_PER_ACCOUNT:
            raise StateError(f"table outcome: more than {OUTCOMES_PER_ACCOUNT} rows of account {account_id}")
        memory.remember(sequence, row.command_id, row.fingerprint, _encode(row.outcome))


_LOADERS: dict[str, Callable[[State, list[tuple[list[Any], Any]]], None]] = {
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


def _index_client_oids(state: State) -> None:
    """The latest known order of each client_oid: ids grow, so the last one written stays."""
    for _, order in sorted(state.orders.items()):
        if order.client_oid:
            state.accounts[order.account_id].by_client_oid[order.client_oid] = order
