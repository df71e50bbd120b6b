"""The persistent tables: what a snapshot holds, and all that an engine is rebuilt from.

A row is a pair of msgpack values: its key (an array, ordered as the table is) and a struct of this module. `TABLES` names every table
once; its order is the order of restoring. The structs are part of the schema ABI: append fields with defaults, never reorder.
"""

from __future__ import annotations

import msgspec

from statemachine.events import AnyOutcome, OrderState
from statemachine.types import Opening, ProductStatus


class CounterRow(msgspec.Struct, frozen=True, array_like=True):
    """The engine's counters, one row: last sequence, last order id, last batch time, the running state hash.

    `last_queued` is the last place that an order got among those that enter later; `turn` counts the log entries that went on with unfinished
    work, and says which product comes first in the next.
    """

    sequence: int
    last_order_id: int
    time: int
    state_hash: bytes
    last_queued: int = 0
    turn: int = 0


class CurrencyRow(msgspec.Struct, frozen=True, array_like=True):
    """A currency, its decimal digits, and the money in it: deposited, withdrawn and earned as fees, ever.

    `turnover` counts how often 2**62 was taken off both `deposited` and `withdrawn`, so that neither ever runs out; their difference is exact.
    """

    currency: str
    scale: int
    deposited: int = 0
    withdrawn: int = 0
    fees: int = 0
    turnover: int = 0


class ProductRow(msgspec.Struct, frozen=True, array_like=True):
    """A product and its counters: last product sequence, last trade id, and the price of the last trade (0 before the first).

    `version` counts the changes that the operator made, its adding included; see `commands.PutProduct`.

    Unfinished work: `trigger_low` and `trigger_high` are the lowest and highest price of trades whose stop orders were not all taken yet (zeros:
    none). `opening` says how far an auction's opening is; with it come the auction's price and how much traded at it.
    """

    product_id: str
    base: str
    quote: str
    tick: int
    lot: int
    min_size: int
    max_size: int
    maker_fee_ppm: int
    taker_fee_ppm: int
    status: ProductStatus
    product_sequence: int = 0
    last_trade_id: int = 0
    last_price: int = 0
    version: int = 0
    trigger_low: int = 0
    trigger_high: int = 0
    opening: Opening = Opening.NONE
    opening_price: int = 0
    opening_size: int = 0


class AccountRow(msgspec.Struct, frozen=True, array_like=True):
    """An account. `opened_at` is nanoseconds since the epoch."""

    account_id: str
    opened_at: int


class BalanceRow(msgspec.Struct, frozen=True, array_like=True):
    """What an account has of a currency: `available` to trade or withdraw, and on `hold` for its open orders."""

    account_id: str
    currency: str
    available: int
    hold: int


class ApiKeyRow(msgspec.Struct, frozen=True, array_like=True):
    """An API key; see `commands.PutApiKey`."""

    key_id: str
    owner_id: str
    secret: str
    passphrase: str
    permissions: int
    addresses: str = ""
    sealed_by: int = 0


class OutcomeRow(msgspec.Struct, frozen=True, array_like=True):
    """A remembered command: its fingerprint (to notice other contents under the same id) and its first outcome.

    `account_id` says whose memory it is in: an account's, the operator's, or, as "<account>/<kind>", one of an account's others: of its deposits,
    withdrawals or transfers (the tag of the command), or of what was refused (`commands.MEMORY_KINDS`).
    """

    account_id: str
    command_id: str
    fingerprint: bytes
    outcome: AnyOutcome


class MassCancelRow(msgspec.Struct, frozen=True, array_like=True):
    """A `CancelAll` that is not through: the account's open orders up to this id leave, those of one product unless that is empty."""

    account_id: str
    product_id: str
    last_order_id: int


TABLES: dict[str, type[msgspec.Struct]] = {
    "counter": CounterRow,
    "currency": CurrencyRow,
    "product": ProductRow,
    "account": AccountRow,
    "api_key": ApiKeyRow,
    "balance": BalanceRow,
    "order": OrderState,
    "done_order": OrderState,
    "outcome": OutcomeRow,
    "mass_cancel": MassCancelRow,
}
"""Table name to row type, in the order of restoring."""
