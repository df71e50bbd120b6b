"""How each table's rows are encoded: key and row, both msgpack. See `tables`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from statemachine.entities import Order
from statemachine.reply_cache import fingerprint_of, packed_outcome, sequence_of
from statemachine.tables import AccountRow, ApiKeyRow, BalanceRow, CounterRow, CurrencyRow, MassCancelRow, ProductRow
from statemachine.writer import Writer

if TYPE_CHECKING:
    from statemachine.state import State

Row = tuple[bytes, bytes]
"""A key and its row."""

encode = msgspec.msgpack.Encoder().encode


def counts(state: State) -> dict[str, int]:
    """How many rows each table has, in the order of `TABLES`. O(1)."""
    return {
        "counter": 1,
        "currency": len(state.currencies),
        "product": len(state.products),
        "account": len(state.accounts),
        "api_key": len(state.api_keys),
        "balance": state.balance_count,
        "order": len(state.orders) - state.done_count,
        "done_order": state.done_count,
        "outcome": state.outcome_count,
        "mass_cancel": sum([len(account.cancelling) for account in state.cancelling_all.values()]),
    }


def counter(state: State) -> Row:
    """The one row of the engine's counters."""
    return encode([]), encode(
        CounterRow(state.sequence, state.last_order_id, state.time, state.hash, state.last_queued, state.turn)
    )


def currency(row: CurrencyRow) -> Row:
    """A currency."""
    return encode([row.currency]), encode(row)


def product(row: ProductRow) -> Row:
    """A product."""
    return encode([row.product_id]), encode(row)


def account(account_id: str, opened_at: int) -> Row:
    """An account."""
    return encode([account_id]), encode(AccountRow(account_id, opened_at))


def api_key(row: ApiKeyRow) -> Row:
    """An API key."""
    return encode([row.key_id]), encode(row)


def balance(row: BalanceRow) -> Row:
    """A balance."""
    return encode([row.account_id, row.currency]), encode(row)


def _encoded(state: Order) -> bytes:
    writer = Writer()
    state.write(writer)
    return writer.since(0)


def order_key(order_id: int) -> bytes:
    """The key of an open order."""
    return encode([order_id])


def order(state: Order) -> Row:
    """An open order."""
    return order_key(state.order_id), _encoded(state)


def numbered_key(account_id: str, number: int) -> bytes:
    """The key of an account's done order with a number, or of its remembered command with a sequence."""
    return encode([account_id, number])


def done_order(number: int, state: Order) -> Row:
    """A done order. Its number stands in the key only."""
    return numbered_key(state.account.account_id, number), _encoded(state)


def memory_owner(account_id: str, kind: int) -> str:
    """How rows name a memory of an account beside that of its orders (`commands.MEMORY_KINDS`). No account has such a name."""
    return f"{account_id}/{kind}"


def outcome(account_id: str, command_id: str, packed: bytes) -> Row:
    """A remembered command, from its packed entry."""
    row = (account_id, command_id, fingerprint_of(packed), msgspec.Raw(packed_outcome(packed)))
    return numbered_key(account_id, sequence_of(packed)), encode(row)


def mass_cancels(state: State) -> list[Row]:
    """The `CancelAll`s that are not through."""
    return [
        (encode([name, product_id]), encode(MassCancelRow(name, product_id, last_order_id)))
        for name, account in state.cancelling_all.items()
        for product_id, last_order_id in account.cancelling.items()
    ]


ALL_MASS_CANCELS = (encode(["", ""])[:1], encode(["", "", ""])[:1])
"""The range of all their keys: arrays of two."""
