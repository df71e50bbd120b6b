"""Writes the state as tables. `loading` rebuilds the state from them.

The tables contain the whole state. An engine that is restored from them behaves exactly as the one before:

- the time priority in a price level is the order of the product sequences with which its orders were opened;
- an active order with a stop waits for a trade; an active order without a stop was collected by an auction. An active
  order with a place in the queue enters later, after those with smaller places;
- the queue of done orders is the order of their numbers, which are the second part of their key;
- the order of a reply cache is that of the sequences, which are the second part of the key, too.

Keys are msgpack arrays. Rows are sorted by the key's bytes, the order in which a key-value store keeps them; loading
does not depend on it.

A table whose rows are kept (`tables.Table.kept`) needs nothing here. For the others `_COUNTS` counts the rows, and
`_DUMPERS` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

import msgspec

from statemachine.entities import Order
from statemachine.limits import OPERATOR
from statemachine.reply_cache import fingerprint_of, packed_outcome, sequence_of
from statemachine.state import State
from statemachine.tables import KEYS, SCHEMA, AccountRow, CounterRow
from statemachine.writer import Writer

Row = tuple[bytes, bytes]
"""A key and its row, both msgpack."""

encode = msgspec.msgpack.Encoder().encode


def row(table: str, stored: msgspec.Struct) -> Row:
    """Return a row, with the key that its fields make."""
    return encode([getattr(stored, field) for field in KEYS[table]]), encode(stored)


def counter(state: State) -> Row:
    """Return the one row of the engine's counters."""
    return encode([]), encode(
        CounterRow(state.sequence, state.last_order_id, state.time, state.hash, state.last_queued, state.turn)
    )


def account(account_id: str, opened_at: int) -> Row:
    """Return an account."""
    return encode([account_id]), encode(AccountRow(account_id, opened_at))


def _encoded(state: Order) -> bytes:
    writer = Writer()
    state.write(writer)
    return writer.since(0)


def order_key(order_id: int) -> bytes:
    """Return the key of an open order."""
    return encode([order_id])


def order(state: Order) -> Row:
    """Return an open order."""
    return order_key(state.order_id), _encoded(state)


def numbered_key(account_id: str, number: int) -> bytes:
    """Return the key of an account's done order with a number, or of its reply cache's entry with a sequence."""
    return encode([account_id, number])


def done_order(number: int, state: Order) -> Row:
    """Return a done order. Only the key has its number."""
    return numbered_key(state.account.account_id, number), _encoded(state)


def reply_cache_owner(account_id: str, kind: int) -> str:
    """Return the name in rows of a further reply cache of an account (`commands.REPLY_CACHE_KINDS`). No account has
    such a name.
    """
    return f"{account_id}/{kind}"


def outcome(account_id: str, command_id: str, packed: bytes) -> Row:
    """Return the row of a reply cache's entry, which is packed."""
    stored = (account_id, command_id, fingerprint_of(packed), msgspec.Raw(packed_outcome(packed)))
    return numbered_key(account_id, sequence_of(packed)), encode(stored)


def dump(state: State) -> Iterator[tuple[str, list[Row]]]:
    """Yield every table in the order of `tables.SCHEMA`, rows sorted by the key's bytes."""
    for table in SCHEMA:
        name = table.name
        yield name, sorted((row(name, each) for each in state.records[name]) if table.kept else _DUMPERS[name](state))


def full_hash(state: State) -> bytes:
    """Return a BLAKE2b hash of 32 bytes over the names, keys and rows of all tables."""
    digest = blake2b(digest_size=32)
    for name, pairs in dump(state):
        digest.update(encode([name, len(pairs)]))
        for key, encoded in pairs:
            digest.update(key)
            digest.update(encoded)
    return digest.digest()


def _done_orders(state: State) -> Iterator[Row]:
    for account in state.accounts.values():
        for number, each in enumerate(account.done, account.done_count - len(account.done) + 1):
            yield done_order(number, each)


def _outcomes(state: State) -> Iterator[Row]:
    """Yield the rows of all reply caches."""
    memories = [(OPERATOR, state.operator_replies), *((name, each.replies) for name, each in state.accounts.items())]
    for name, each in state.accounts.items():
        memories += [(reply_cache_owner(name, kind), memory) for kind, memory in each.other_replies.items()]
    for name, memory in memories:
        for command_id, packed in memory.newest(len(memory)):
            yield outcome(name, command_id, packed)


def counts(state: State) -> dict[str, int]:
    """Return how many rows each table has, in the order of `tables.SCHEMA`. O(tables)."""
    return {table.name: len(state.records[table.name]) if table.kept else _COUNTS[table.name](state) for table in SCHEMA}


_COUNTS: dict[str, Callable[[State], int]] = {
    "counter": lambda _: 1,
    "currency": lambda state: len(state.currencies),
    "product": lambda state: len(state.products),
    "account": lambda state: len(state.accounts),
    "balance": lambda state: state.balance_count,
    "order": lambda state: len(state.orders) - state.done_count,
    "done_order": lambda state: state.done_count,
    "outcome": lambda state: state.outcome_count,
    "stream": lambda state: len(state.streams),
}

_DUMPERS: dict[str, Callable[[State], Iterable[Row]]] = {
    "counter": lambda state: [counter(state)],
    "currency": lambda state: (row("currency", currency.row()) for currency in state.currencies.values()),
    "product": lambda state: (row("product", product.row()) for product in state.products.values()),
    "account": lambda state: (account(name, each.opened_at) for name, each in state.accounts.items()),
    "balance": lambda state: (row("balance", each) for account in state.accounts.values() for each in account.balance_rows()),
    "order": lambda state: (order(each) for account in state.accounts.values() for each in account.open_orders()),
    "done_order": _done_orders,
    "outcome": _outcomes,
    "stream": lambda state: (row("stream", stream.row()) for stream in state.streams.values()),
}
"""The functions that make all rows of a table that is not kept, in any order."""
