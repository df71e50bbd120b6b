"""The persistent tables: the contents of a snapshot, from which an engine is rebuilt.

A row is a pair of msgpack values: its key (an array, ordered as the table is) and a struct of this module. `SCHEMA`
describes every table once, in the order of restoring. The structs are part of the schema ABI: append fields with
defaults, never reorder.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from statemachine.commands import Grant
from statemachine.events import AnyOutcome, OrderState
from statemachine.limits import OPERATOR
from statemachine.types import (
    CollarAction,
    CorrectionKind,
    DoneReason,
    Opening,
    Permission,
    Phase,
    ProductStatus,
    Scope,
    StatusCause,
    Timer,
)


class CounterRow(msgspec.Struct, frozen=True, array_like=True):
    """The engine's counters, one row: last sequence, last order id, last batch time, the running state hash.

    `last_queued` is the last place of a queued order. `turn` counts the log entries that continued unfinished work; it
    determines which product comes first in the next one.
    """

    sequence: int
    last_order_id: int
    time: int
    state_hash: bytes
    last_queued: int = 0
    turn: int = 0


class CurrencyRow(msgspec.Struct, frozen=True, array_like=True):
    """A currency, its decimal digits, and the totals deposited, withdrawn and earned as fees.

    `turnover` counts how often 2**62 was subtracted from both `deposited` and `withdrawn`, so that neither overflows;
    their difference is exact.
    """

    currency: str
    scale: int
    deposited: int = 0
    withdrawn: int = 0
    fees: int = 0
    turnover: int = 0


class ProductRow(msgspec.Struct, frozen=True, array_like=True):
    """A product and its counters: last product sequence, last trade id, and the price of the last trade (0 before the
    first).

    `version` counts the operator's changes, the creation included; see `commands.PutProduct`.

    Unfinished work: `trigger_low` and `trigger_high` are the lowest and highest price of trades whose stop orders were
    not all taken yet (zeros: none). `opening` is the step of an auction's opening; with it come the auction's price and
    the size that traded at it.

    `cause` says who set its status, and `until` is the earliest time at which it changes again, 0 if that is not known.
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
    cause: StatusCause = StatusCause.OPERATOR
    until: int = 0


class AccountRow(msgspec.Struct, frozen=True, array_like=True):
    """An account. `opened_at` is nanoseconds since the epoch."""

    account_id: str
    opened_at: int


class BalanceRow(msgspec.Struct, frozen=True, array_like=True):
    """An account's balance in a currency: `available` to trade or withdraw, and on `hold` for its open orders."""

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
    user_id: str = ""


class OutcomeRow(msgspec.Struct, frozen=True, array_like=True):
    """An entry of a reply cache: the command's fingerprint (to detect other contents under the same id) and its first
    outcome.

    `account_id` names the reply cache: an account's, the operator's, or, as "<account>/<kind>", that of an account's
    deposits, withdrawals or transfers (the tag of the command), or of rejected commands (`commands.REPLY_CACHE_KINDS`).
    """

    account_id: str
    command_id: str
    fingerprint: bytes
    outcome: AnyOutcome


class PackedOutcomeRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`OutcomeRow` with the outcome still encoded, as the reply cache keeps it."""

    account_id: str
    command_id: str
    fingerprint: bytes
    outcome: msgspec.Raw


class MassCancelRow(msgspec.Struct, frozen=True, array_like=True, order=True):
    """An unfinished `CancelAll`: it cancels the account's open orders up to this id that the command selects (see its
    fields).
    """

    account_id: str
    product_id: str
    side: int
    price_min: int
    price_max: int
    session: str
    reason: DoneReason
    last_order_id: int


class StreamRow(msgspec.Struct, frozen=True, array_like=True):
    """A report stream of an account (`streams`). `sequence` is the number of its latest event, `base` the one after
    which its client began to count; `taken` is the number of its client's messages, counted likewise, that were
    processed and need not be sent again. `opened` is the command that opened it last. A stream that is not `active`
    gets no reports.
    """

    stream_id: str
    account_id: str
    sequence: int
    base: int
    taken: int
    opened: int
    active: bool


class FirmRow(msgspec.Struct, frozen=True, array_like=True):
    """A firm."""

    firm_id: str


class FirmMemberRow(msgspec.Struct, frozen=True, array_like=True):
    """An account that belongs to a firm."""

    account_id: str
    firm_id: str


class SwitchRow(msgspec.Struct, frozen=True, array_like=True):
    """The switches of a scope in which something is switched off; see `commands.SetSwitches`. `cancelling`: its kill
    switch has not cancelled all orders yet. `set_by` is the account of the command that set them. `by_venue`: its
    sender may switch the whole venue, so nobody with a narrower scope may switch anything on again. It also holds when
    such a sender sets the same switches again.
    """

    scope: Scope
    name: str
    switches: int
    note: str = ""
    set_at: int = 0
    cancelling: bool = False
    set_by: str = ""
    by_venue: bool = False


class ProductLimitsRow(msgspec.Struct, frozen=True, array_like=True):
    """The price collars and order limits of a product; see `commands.PutProductLimits`. `static_price` is the reference
    of `static_ppm`, 0 if none yet."""

    product_id: str
    dynamic_ppm: int = 0
    static_ppm: int = 0
    action: CollarAction = CollarAction.REJECT
    halt_ns: int = 0
    call_ns: int = 0
    random_ns: int = 0
    extensions_max: int = 0
    order_size_max: int = 0
    order_notional_max: int = 0
    distance_ppm: int = 0
    static_price: int = 0
    limit_ns: int = 0


class InterruptionRow(msgspec.Struct, frozen=True, array_like=True):
    """A volatility interruption: the halt, or the call of the auction, until the time `ends_at`. Then the product
    returns to the status `resume`.

    With a `limit_side` it is a limit state (`limit_states`): the product trades, and is interrupted at `ends_at`.
    Orders of that side (1 buys, 2 sells) rest at the collar, which stays from `low` to `high`.
    """

    product_id: str
    resume: ProductStatus
    halted: bool
    ends_at: int
    extensions: int = 0
    limit_side: int = 0
    low: int = 0
    high: int = 0


class RiskRow(msgspec.Struct, frozen=True, array_like=True):
    """The risk limits of an account or firm; see `commands.PutRiskLimits`. `volume` was traded on the `day` (days since
    the epoch), and `rate_count` orders were accepted in the second `rate_second`. `by_venue`: whoever set them may
    limit the whole venue, so somebody with a narrower scope may only make them tighter.
    """

    scope: Scope
    name: str
    currency: str
    orders_max: int = 0
    rate_max: int = 0
    open_max: int = 0
    volume_max: int = 0
    position_max: int = 0
    day: int = 0
    volume: int = 0
    rate_second: int = 0
    rate_count: int = 0
    by_venue: bool = False


class CalendarRow(msgspec.Struct, frozen=True, array_like=True):
    """A trading calendar; see `commands.PutCalendar`."""

    calendar_id: str
    time_zone: str
    offsets: list[tuple[int, int]]
    week: list[list[tuple[int, Phase]]]
    days: list[tuple[int, list[tuple[int, Phase]]]]
    random_ns: int = 0
    late_ns: int = 0
    late_ppm: int = 0
    extension_ns: int = 0
    extensions_max: int = 0
    imbalance_ns: int = 0


class FollowsRow(msgspec.Struct, frozen=True, array_like=True):
    """The venue, a group or a product follows a calendar."""

    scope: Scope
    name: str
    calendar_id: str


class GroupRow(msgspec.Struct, frozen=True, array_like=True):
    """A product that is in a group."""

    product_id: str
    group_id: str


class PhaseRow(msgspec.Struct, frozen=True, array_like=True):
    """The phase of a product in its calendar, and the time of the next one, random delay included. `by_hand`:
    the operator set its status.

    For the call of an auction: at `note_at` the indicative price is recorded as `noted_price`, to be compared with that
    at the end; `extensions` counts the extensions; at `imbalance_at` the next `AuctionIndicated` is emitted.
    """

    product_id: str
    phase: Phase = Phase.CLOSED
    ends_at: int = 0
    note_at: int = 0
    noted_price: int = 0
    extensions: int = 0
    imbalance_at: int = 0
    by_hand: bool = False
    entered: bool = False


class TimerRow(msgspec.Struct, frozen=True, array_like=True):
    """A timer that is set; see `timers`."""

    kind: Timer
    subject: str
    tag: str
    at: int


class CorrectionRow(msgspec.Struct, frozen=True, array_like=True):
    """A trade that the operator busted, or whose price the operator corrected."""

    product_id: str
    trade_id: int
    kind: CorrectionKind
    new_price: int
    corrected_at: int
    note: str = ""


class FeeTiersRow(msgspec.Struct, frozen=True, array_like=True):
    """Fee tiers; see `commands.PutFeeTiers`."""

    currency: str
    product_id: str
    tiers: list[tuple[int, int, int]]


class FeeOverrideRow(msgspec.Struct, frozen=True, array_like=True):
    """The fee rates of one account; see `commands.PutFeeOverride`."""

    owner_id: str
    product_id: str
    maker_fee_ppm: int
    taker_fee_ppm: int


class FeeVolumeRow(msgspec.Struct, frozen=True, array_like=True):
    """The notional that an account traded in a currency on a `day` (days since the epoch), and on the days before it,
    the latest first, without zeros at the end.
    """

    account_id: str
    currency: str
    day: int
    volume: int = 0
    earlier: list[int] = []


class UserRow(msgspec.Struct, frozen=True, array_like=True):
    """A user and the user's roles; see `commands.PutUser`."""

    user_id: str
    grants: list[Grant]
    note: str = ""


class AccessRow(msgspec.Struct, frozen=True, array_like=True):
    """The settings of access of the venue; see `commands.SetAccess`."""

    scope: Scope
    name: str
    bootstrap_off: bool = False
    consent: int = 0
    consent_ns: int = 0


class ProposalRow(msgspec.Struct, frozen=True, array_like=True):
    """A command that waits for consent. Its id is the sequence of the command that proposed it. `proposer` is the
    account of that command (`access`), `permission` what the command and each decision about it need, `command` its
    msgpack.
    """

    proposal_id: int
    proposer: str
    permission: Permission
    command: bytes
    proposed_at: int
    expires_at: int


class Reference(NamedTuple):
    """A field that names a row of another table by its key, or one of `others`."""

    table: str
    field: str
    target: str
    others: tuple[str, ...] = ()


class Table(NamedTuple):
    """A table. Snapshots, changes, text files and the ABI all use this description.

    Attributes:
        row: the struct of its rows.
        key: the parts of a row's key: fields of the row, a field within one of its structs ("outcome.sequence"), or a
            number that is in the key only (a done order's, in its account's queue).
        names: the fields that refer to rows of other tables, and the other values that they may have.
        kept: the rows are kept in memory as structs, in `records.Records`. A table that is not kept is dumped by
            `persistence` and loaded by `loading` from the objects of `entities`.
    """

    name: str
    row: type[msgspec.Struct]
    key: tuple[str, ...]
    names: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    kept: bool = False

    def references(self) -> tuple[Reference, ...]:
        """Return the tables whose rows its rows refer to."""
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
        ("account_id", "product_id", "side", "price_min", "price_max", "session", "reason"),
        (_ACCOUNT, ("product_id", "product", ("",))),
        kept=True,
    ),
    Table("stream", StreamRow, ("stream_id",), (_ACCOUNT,)),
    Table("timer", TimerRow, ("kind", "subject", "tag"), kept=True),
    Table("firm", FirmRow, ("firm_id",), kept=True),
    Table("firm_member", FirmMemberRow, ("account_id",), (_ACCOUNT, ("firm_id", "firm", ())), kept=True),
    Table("switch", SwitchRow, ("scope", "name"), kept=True),
    Table("product_limits", ProductLimitsRow, ("product_id",), (_PRODUCT,), kept=True),
    Table("interruption", InterruptionRow, ("product_id",), (_PRODUCT,), kept=True),
    Table("risk", RiskRow, ("scope", "name", "currency"), (("currency", "currency", ("",)),), kept=True),
    Table("calendar", CalendarRow, ("calendar_id",), kept=True),
    Table("follows", FollowsRow, ("scope", "name"), (("calendar_id", "calendar", ()),), kept=True),
    Table("group", GroupRow, ("product_id",), (_PRODUCT,), kept=True),
    Table("phase", PhaseRow, ("product_id",), (_PRODUCT,), kept=True),
    Table("correction", CorrectionRow, ("product_id", "trade_id"), (_PRODUCT,), kept=True),
    Table(
        "fee_tiers",
        FeeTiersRow,
        ("currency", "product_id"),
        (("currency", "currency", ()), ("product_id", "product", ("",))),
        kept=True,
    ),
    Table(
        "fee_override",
        FeeOverrideRow,
        ("owner_id", "product_id"),
        (("owner_id", "account", ()), ("product_id", "product", ("",))),
        kept=True,
    ),
    Table("fee_volume", FeeVolumeRow, ("account_id", "currency"), (_ACCOUNT, ("currency", "currency", ())), kept=True),
    Table("user", UserRow, ("user_id",), kept=True),
    Table("access", AccessRow, ("scope", "name"), kept=True),
    Table("proposal", ProposalRow, ("proposal_id",), kept=True),
)
"""All tables, in the order of restoring. A new table needs a row struct above and a line here. It is `kept` unless its
rows are other objects in memory.
"""

TABLES: dict[str, type[msgspec.Struct]] = {table.name: table.row for table in SCHEMA}
"""Table name to row type."""

KEYS: dict[str, tuple[str, ...]] = {table.name: table.key for table in SCHEMA}
"""Table name to the parts of its keys."""

REFERENCES: tuple[Reference, ...] = tuple(reference for table in SCHEMA for reference in table.references())
"""Table name to the tables to which its rows refer."""

KEPT: tuple[Table, ...] = tuple(table for table in SCHEMA if table.kept)
"""The tables whose rows are kept in memory as structs."""
