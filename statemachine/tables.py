"""The persistent tables: what a snapshot holds, and all that an engine is rebuilt from.

A row is a pair of msgpack values: its key (an array, ordered as the table is) and a struct of this module. `SCHEMA` describes every table
once; its order is the order of restoring. The structs are part of the schema ABI: append fields with defaults, never reorder.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from statemachine.events import AnyOutcome, OrderState
from statemachine.limits import OPERATOR
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


class MassCancelRow(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A `CancelAll` that is not through: of the account's open orders up to this id those leave that the command means (see its fields)."""

    account_id: str
    product_id: str
    side: int
    price_min: int
    price_max: int
    last_order_id: int


class StreamRow(msgspec.Struct, frozen=True, array_like=True):
    """A report stream of an account (`streams`). `sequence` is the number of its latest event, `base` the one after which its client began to count;
    `taken` is how many messages of its client, counted likewise, were taken and need not be sent again. `opened` is the command that began it last.
    One that is not `active` is told nothing.
    """

    stream_id: str
    account_id: str
    sequence: int
    base: int
    taken: int
    opened: int
    active: bool


class Reference(NamedTuple):
    """A field that names a row of another table by its key, or one of `others`."""

    table: str
    field: str
    target: str
    others: tuple[str, ...] = ()


class Table(NamedTuple):
    """A table. All that is known of it follows from this: how a snapshot, a change, a text file and the ABI hold it.

    Attributes:
        row: the struct of its rows.
        key: what a row's key is made of: fields of the row, a field within one of its structs ("outcome.sequence"), or a number that stands in the
            key only (a done order's, in its account's queue).
        names: which fields name a row of which other table, with what else may stand there.
        kept: the rows themselves are kept in memory, as `records.Records`. A table that is not kept is dumped by `persistence` and loaded by
            `loading` from the objects of `entities`.
    """

    name: str
    row: type[msgspec.Struct]
    key: tuple[str, ...]
    names: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    kept: bool = False

    def references(self) -> tuple[Reference, ...]:
        """Which rows of other tables its rows need."""
        return tuple(Reference(self.name, field, target, others) for field, target, others in self.names)


_ACCOUNT = ("account_id", "account", ())
_PRODUCT = ("product_id", "product", ())

SCHEMA: tuple[Table, ...] = (
    Table("counter", CounterRow, ()),
    Table("currency", CurrencyRow, ("currency",)),
    Table("product", ProductRow, ("product_id",), (("base", "currency", ()), ("quote", "currency", ()))),
    Table("account", AccountRow, ("account_id",)),
    Table("api_key", ApiKeyRow, ("key_id",), (("owner_id", "account", (OPERATOR,)),), kept=True),
    Table("balance", BalanceRow, ("account_id", "currency"), (_ACCOUNT, ("currency", "currency", ()))),
    Table("order", OrderState, ("order_id",), (_ACCOUNT, _PRODUCT)),
    Table("done_order", OrderState, ("account_id", "number"), (_ACCOUNT, _PRODUCT)),
    Table("outcome", OutcomeRow, ("account_id", "outcome.sequence")),
    Table(
        "mass_cancel",
        MassCancelRow,
        ("account_id", "product_id", "side", "price_min", "price_max"),
        (_ACCOUNT, ("product_id", "product", ("",))),
        kept=True,
    ),
    Table("stream", StreamRow, ("stream_id",), (_ACCOUNT,)),
)
"""Every table once, in the order of restoring. To add one: its row struct above, and a line here; `kept` unless its rows live as other objects."""

TABLES: dict[str, type[msgspec.Struct]] = {table.name: table.row for table in SCHEMA}
"""Table name to row type."""

KEYS: dict[str, tuple[str, ...]] = {table.name: table.key for table in SCHEMA}
"""Table name to what its keys are made of."""

REFERENCES: tuple[Reference, ...] = tuple(reference for table in SCHEMA for reference in table.references())
"""Which rows need which."""

KEPT: tuple[Table, ...] = tuple(table for table in SCHEMA if table.kept)
"""The tables whose rows are kept as they are."""
