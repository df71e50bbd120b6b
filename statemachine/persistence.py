"""The state as tables; `loading` leads back.

Everything that the engine knows is in the tables, and nothing else is needed to go on exactly as before:

- a level's time priority is the order of the product sequences with which its orders were opened;
- an active order with a stop waits for a trade, one without was collected by an auction; but one with a place in the queue enters later, when
  those with smaller places have;
- the queue of done orders is the order of their numbers, which are the second part of their key;
- the queue of remembered commands is the order of their sequences, likewise.

Keys are msgpack arrays. Rows are sorted by the key's bytes, the order in which a key-value store keeps them; loading does not
depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b

from statemachine import rows
from statemachine.limits import OPERATOR
from statemachine.rows import Row
from statemachine.state import State
from statemachine.tables import TABLES


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


def _done_orders(state: State) -> Iterator[Row]:
    for account in state.accounts.values():
        for number, order in enumerate(account.done, account.done_count - len(account.done) + 1):
            yield rows.done_order(number, order)


def _outcomes(state: State) -> Iterator[Row]:
    memories = [(OPERATOR, state.operator_replies), *((name, account.replies) for name, account in state.accounts.items())]
    for name, account in state.accounts.items():
        memories += [(rows.memory_owner(name, kind), memory) for kind, memory in account.other_replies.items()]
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
    "order": lambda state: (rows.order(order) for account in state.accounts.values() for order in account.open_orders()),
    "done_order": _done_orders,
    "outcome": _outcomes,
    "mass_cancel": rows.mass_cancels,
}
"""All rows of a table, in any order."""
