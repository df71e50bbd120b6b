"""The results of a command: one `Outcome` for its sender, and `Event`s for the feeds. `Engine.apply(batch)` returns
`Applied(outcomes, events)`. Both depend on the log alone, so every node makes the same bytes.

There are three counters. The *sequence* grows by one with every command applied, duplicates and rejected ones included.
A product's *product sequence* grows by one with every event of that product. The log's *index* belongs to Raft and is
not known here.
"""

from __future__ import annotations

import msgspec

from statemachine.types import (
    ChangeReason,
    CorrectionKind,
    DoneReason,
    GoodFor,
    OrderStatus,
    OrderType,
    ProductStatus,
    Reason,
    ReportKind,
    Scope,
    SelfTradePrevention,
    Side,
    StatusCause,
    StopType,
    TimeInForce,
)


class OrderTerms(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The options of an order: see `options`. Prices are amounts of the quote currency, sizes of the base currency.

    Attributes:
        link: the id of the order with which this one is linked, see `linked`; 0 for none.
        visible: the part of the remaining size that an iceberg on the book shows; 0 for all.
    """

    session: str = ""
    display_size: int = 0
    trail: int = 0
    good_for: GoodFor = GoodFor.ANY
    take_profit: int = 0
    stop_loss: int = 0
    stop_loss_limit: int = 0
    link: int = 0
    visible: int = 0


class OrderState(msgspec.Struct, array_like=True, gc=False):
    """An order as its owner sees it. Also the row of the tables `order` and `done_order`.

    `price`, `size`, `funds` are as placed or amended; `remaining` is the size that is not traded yet (0 for an order by
    funds alone); `filled_size`, `executed_value` (sum of notionals, at most `limits.EXECUTED_MAX`) and `fill_fees` grow
    with each fill; `hold` is the amount on hold now, of the quote currency for a buy and of the base currency for a
    sell. Fee rates are those at entry. `expires_at` is when a good-till-time order expires. `opened_sequence` is the
    product sequence of its `OrderOpened`: at one price, the smaller one trades first. It is 0 if the order was never on
    the book, or was opened under version 0.1.0; such an order is before all others. `queued` is its place among the
    accepted orders that enter with a later log entry, or 0. `fee_credit` is what the order has paid in fees above the
    exact rate, in millionths of a unit of the quote currency: fees are rounded up once for the whole order, not for
    each fill.
    """

    order_id: int
    account_id: str
    client_oid: str
    product_id: str
    side: Side
    order_type: OrderType
    price: int
    size: int
    funds: int
    time_in_force: TimeInForce
    post_only: bool
    stp: SelfTradePrevention
    created_at: int
    maker_fee_ppm: int
    taker_fee_ppm: int
    remaining: int
    hold: int
    filled_size: int = 0
    executed_value: int = 0
    fill_fees: int = 0
    status: OrderStatus = OrderStatus.OPEN
    done_reason: DoneReason = DoneReason.NONE
    done_at: int = 0
    stop: StopType = StopType.NONE
    stop_price: int = 0
    expires_at: int = 0
    opened_sequence: int = 0
    queued: int = 0
    fee_credit: int = 0
    terms: OrderTerms | None = None


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The answer to one command. `sequence` is the command's place in the one order of all commands.

    `duplicate` says that the command was executed before. All other fields, `sequence` included, are those of the first
    time.
    """

    sequence: int
    time: int
    duplicate: bool


class Rejected(Outcome, frozen=True, tag=1):
    """The command was rejected and changed nothing. `field` names the invalid field ("" if none), `detail` says what
    was expected.
    """

    reason: Reason
    field: str
    detail: str


class Done(Outcome, frozen=True, tag=2):
    """A currency, product, account or key was added or replaced. `changed` is False if it existed already with the same
    contents.
    """

    changed: bool


class Transferred(Outcome, frozen=True, tag=3):
    """A deposit, withdrawal or transfer was booked. `available` is the sender's balance after it."""

    currency: str
    amount: int
    available: int
    hold: int


class Placed(Outcome, frozen=True, tag=4):
    """An order entered. `order` is its state after the command."""

    order: OrderState


class Cancelled(Outcome, frozen=True, tag=5):
    """Orders were cancelled on request. Their states after it, in the order in which they were cancelled.

    With `pending` there are more orders than one log entry cancels. The next entries cancel the others, which can trade
    until then.
    """

    orders: list[OrderState]
    pending: bool = False


class Noted(Outcome, frozen=True, tag=20):
    """A report stream was opened or continued. `number` is the number of the note in the stream, or of the stream's
    latest event if the note was empty. `base` and `taken` are those of the stream after it, see `tables.StreamRow`.
    """

    number: int
    base: int
    taken: int


class Amended(Outcome, frozen=True, tag=6):
    """An order was amended. `order` is its state after the command. It may be done: filled at its new price, or
    cancelled because its new size is filled already.
    """

    order: OrderState


class Armed(Outcome, frozen=True, tag=9):
    """A `CancelAllAfter` was set. It fires at this time, in nanoseconds since the epoch; 0 means that it was removed."""

    fires_at: int


class Paired(Outcome, frozen=True, tag=8):
    """A linked pair of a limit order and a stop order entered. Their states are those after the command."""

    limit: OrderState
    stop: OrderState


class Replaced(Outcome, frozen=True, tag=7):
    """An order was cancelled and another one entered in its place. The states of both are those after the command."""

    cancelled: OrderState
    placed: OrderState


class Switched(Outcome, frozen=True, tag=30):
    """Switches were set, and `cancelled` orders were cancelled. With `pending` the next log entries cancel the others."""

    changed: bool
    cancelled: int
    pending: bool


class Proposed(Outcome, frozen=True, tag=31):
    """The command was not applied. It waits as a proposal for the consent of another user, until it expires at this
    time, in nanoseconds since the epoch.
    """

    proposal_id: int
    expires_at: int


AnyOutcome = (
    Rejected | Done | Transferred | Placed | Cancelled | Amended | Replaced | Paired | Armed | Noted | Switched | Proposed
)


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The fields of every event of a product."""

    product_id: str
    product_sequence: int
    time: int


class OrderReceived(Event, frozen=True, tag=1):
    """An order passed every check and is about to match. `account_id` is for the user channel only. For an iceberg,
    `size` is its first slice.
    """

    order_id: int
    account_id: str
    client_oid: str
    side: Side
    order_type: OrderType
    price: int
    size: int
    funds: int


class OrderOpened(Event, frozen=True, tag=2):
    """The remainder of an order rests on the book."""

    order_id: int
    account_id: str
    side: Side
    price: int
    remaining: int


class OrderMatched(Event, frozen=True, tag=3):
    """A trade, at the maker's price. `side` is the maker's. Fees are in quote units.

    With `auction` it belongs to the opening of an auction: it is at the auction's price, and does not change the book.
    If an order that rests on the book takes part, at any price, an `OrderChanged` gives the change of the book.
    """

    trade_id: int
    maker_order_id: int
    taker_order_id: int
    maker_account_id: str
    taker_account_id: str
    side: Side
    price: int
    size: int
    maker_fee: int
    taker_fee: int
    auction: bool = False


class OrderChanged(Event, frozen=True, tag=4):
    """The remaining size or the price of an open order changed; `reason` says why. `old` and `new` are its remaining
    size, or with `by_funds` its remaining quote units.

    `resting`: the order is on the book, at `price`. `auction`: the same as the reason AUCTION.

    If its owner amended it, `price` is the price before, `new_price` and `new_stop_price` are those after. With
    `requeued` the order loses its place in time: if it was `resting`, this event removes all of `old` from the book. If
    it rests again, an `OrderOpened` follows. Without `requeued` it keeps its place with `new`.

    If the price of an order was outside the collar (REPRICED), `price` is the one before and `new_price` the one at
    which it rests; an `OrderOpened` follows.

    If the stop price of a trailing stop order followed the market (TRAILED), `new_stop_price` is the new one, and the
    fields of prices and sizes are 0.
    """

    order_id: int
    account_id: str
    side: Side
    price: int
    old: int
    new: int
    by_funds: bool
    resting: bool = False
    auction: bool = False
    reason: ChangeReason = ChangeReason.SELF_TRADE
    new_price: int = 0
    new_stop_price: int = 0
    requeued: bool = False

    @property
    def off_the_book(self) -> int:
        """The size by which a `resting` order shrinks on the book at `price`."""
        return self.old if self.requeued else self.old - self.new

    @property
    def of_waiting_stop(self) -> bool:
        """Whether the owner amended a stop order that waits. Only the owner may see its prices and sizes."""
        return self.reason is ChangeReason.AMENDED and self.new_stop_price != 0 and not self.resting


class OrderDone(Event, frozen=True, tag=5):
    """An order is done. `resting` says that it was on the book, from which `remaining` is removed."""

    order_id: int
    account_id: str
    side: Side
    order_type: OrderType
    price: int
    remaining: int
    reason: DoneReason
    resting: bool


class OrderActivated(Event, frozen=True, tag=6):
    """A stop order was accepted and waits. When it is triggered, it is received like any other order."""

    order_id: int
    account_id: str
    client_oid: str
    side: Side
    order_type: OrderType
    stop: StopType
    stop_price: int
    price: int
    size: int
    funds: int


class StatusChanged(Event, frozen=True, tag=7):
    """The status of a product changed, or the product is new. If the change opened an auction, its trades are before
    this event: `open_size` in all, at `open_price`. Both are 0 if nothing traded.

    `cause` says who changed it. `until` is the earliest time at which it changes again, or 0 if that is not known.
    """

    status: ProductStatus
    open_price: int
    open_size: int
    cause: StatusCause = StatusCause.OPERATOR
    until: int = 0


class OrderReported(Event, frozen=True, tag=20):
    """A report of an event of an order, for its account only. `product_id` is the report stream's name,
    `product_sequence` the number in it; `symbol` is the product, and `source` is the product sequence of the reported
    event.

    The order's fields are those of `OrderState`, after the event; `remaining` includes what an iceberg hides. The
    fields of the trade are 0 in a report of another kind. `liquidity_taker` says that the order was the taker. Where a
    `CancelOrder` or an `AmendOrder` cancelled or amended the order, `request` is the id of that command, and
    `orig_client_oid` is the order's `client_oid` before it; elsewhere both are empty.

    A busted or corrected trade has the price and the fee after the correction; for a bust, the price of the trade. Its
    `order_id` is 0 if the operator did not name the order. The order's other fields are 0 if the exchange does not keep
    the order any more.
    """

    kind: ReportKind
    symbol: str
    source: int
    order_id: int
    client_oid: str
    side: Side
    order_type: OrderType
    time_in_force: TimeInForce
    stop: StopType
    price: int
    stop_price: int
    size: int
    funds: int
    remaining: int
    filled_size: int
    executed_value: int
    fill_fees: int
    done_reason: DoneReason
    expires_at: int
    trade_id: int = 0
    last_price: int = 0
    last_size: int = 0
    last_fee: int = 0
    liquidity_taker: bool = False
    request: str = ""
    orig_client_oid: str = ""


class StreamNoted(Event, frozen=True, tag=21):
    """A note that a session wrote into a report stream, see `commands.NoteStream`. `product_id` is the stream's name,
    `product_sequence` the number in it. `base` is that of the stream after this note.
    """

    origin: str
    text: str
    base: int


class TradingSwitched(Event, frozen=True, tag=30):
    """The switches of the product or of the venue changed. `switches` is the sum of the `Switch` values of that scope,
    `note` is text for people.
    """

    scope: Scope
    switches: int
    note: str


class AuctionIndicated(Event, frozen=True, tag=31):
    """The indicative price and size of an auction, at intervals: `size` would trade at `price` now, and `surplus` more
    would buy (negative: sell).

    All are 0 if nothing would trade. `until` is the earliest end of the call, 0 if that is not known. `extended`: the
    call was extended just now.
    """

    price: int
    size: int
    surplus: int
    until: int
    extended: bool


class TradeCorrected(Event, frozen=True, tag=32):
    """The operator busted a trade or corrected its price. The book and the orders do not change. Fees are those after
    the correction, 0 after a bust.
    """

    kind: CorrectionKind
    trade_id: int
    buyer_account_id: str
    seller_account_id: str
    size: int
    old_price: int
    new_price: int
    buyer_fee: int
    seller_fee: int


AnyEvent = (
    OrderReceived
    | OrderOpened
    | OrderMatched
    | OrderChanged
    | OrderDone
    | OrderActivated
    | StatusChanged
    | OrderReported
    | StreamNoted
    | TradingSwitched
    | AuctionIndicated
    | TradeCorrected
)


class Applied(msgspec.Struct, frozen=True, array_like=True):
    """The result of applying one batch: one outcome per command, in order, and all events, in order."""

    outcomes: list[AnyOutcome]
    events: list[AnyEvent]
