"""What a command brought about: one `Outcome` for its sender, and public `Event`s for everybody's feed.

`Engine.apply(batch)` returns `Applied(outcomes, events)`; both are functions of the log alone, so every node makes the
same bytes of them. Outcomes go to whoever sent the command, events into the feed.

Three counters, three names: the *sequence* steps by one with every command applied, duplicates and rejected ones
included; a product's *product sequence* steps by one with every event of that product and never skips; the log's
*index* belongs to Raft and is not known here.
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
    """What an order has beyond the fields of a plain one: see `options`. Prices are amounts of the quote currency,
    sizes of the base currency.

    Attributes:
        link: the id of the order that ends this one, and is ended by it, see `linked`; 0: none.
        visible: of an iceberg on the book, how much of what remains is shown; 0: all.
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

    `price`, `size`, `funds` are as placed; `remaining` is what is left of the size (0 for an order by funds alone);
    `filled_size`, `executed_value` (sum of notionals, at most `limits.EXECUTED_MAX`) and `fill_fees` grow with each
    fill; `hold` is what the order holds now, of the quote currency for a buy and of the base currency for a sell. Fee
    rates are those at entry. `expires_at` is when a good-till-time order leaves. `opened_sequence` is the product
    sequence of its `OrderOpened`: at one price, the smaller trades first. 0: it was never on the book, or went there
    under version 0.1.0, before all that have one. `queued` is its place among the orders that are accepted and enter
    with a later log entry, 0 when it is none of them. `fee_credit` is what it has paid in fees above the exact rate, in
    millionths of a unit of the quote currency: fees are rounded up once for the whole order, not for each fill.
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

    `duplicate` says that the command was seen before: all else, `sequence` included, is then that of the first time.
    """

    sequence: int
    time: int
    duplicate: bool


class Rejected(Outcome, frozen=True, tag=1):
    """Refused, nothing changed. `field` names the field at fault ("" if none), `detail` says what was expected."""

    reason: Reason
    field: str
    detail: str


class Done(Outcome, frozen=True, tag=2):
    """A currency, product, account or key was put. `changed` is False when it was there already, the same."""

    changed: bool


class Transferred(Outcome, frozen=True, tag=3):
    """A deposit, withdrawal or transfer was booked; the sender's balance after it."""

    currency: str
    amount: int
    available: int
    hold: int


class Placed(Outcome, frozen=True, tag=4):
    """An order entered; its state after the whole command."""

    order: OrderState


class Cancelled(Outcome, frozen=True, tag=5):
    """Orders left on request; their states after it, in the order of leaving.

    With `pending` there are more than one log entry cancels: the others of that moment leave with the next entries, and
    until then can trade.
    """

    orders: list[OrderState]
    pending: bool = False


class Noted(Outcome, frozen=True, tag=20):
    """A report stream was opened or continued. `number` is that of the note in the stream, or of the stream's latest
    event where the note was empty; `base` and `taken` are the stream's after it, see `tables.StreamRow`."""

    number: int
    base: int
    taken: int


class Amended(Outcome, frozen=True, tag=6):
    """An order was amended; its state after the whole command. It may be done: filled at its new price, or cancelled as
    its new size is filled.
    """

    order: OrderState


class Armed(Outcome, frozen=True, tag=9):
    """A `CancelAllAfter` was set: it goes off at this time, in nanoseconds since the epoch; 0: it was taken off."""

    fires_at: int


class Paired(Outcome, frozen=True, tag=8):
    """A limit order and a stop order entered that end each other; their states after the whole command."""

    limit: OrderState
    stop: OrderState


class Replaced(Outcome, frozen=True, tag=7):
    """An order left and another entered in its place; the states of both after the whole command."""

    cancelled: OrderState
    placed: OrderState


class Switched(Outcome, frozen=True, tag=30):
    """Switches were set. `cancelled` orders left with it; with `pending` the others leave with the next log entries."""

    changed: bool
    cancelled: int
    pending: bool


AnyOutcome = Rejected | Done | Transferred | Placed | Cancelled | Amended | Replaced | Paired | Armed | Noted | Switched


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What every event of a product begins with."""

    product_id: str
    product_sequence: int
    time: int


class OrderReceived(Event, frozen=True, tag=1):
    """An order passed every check and is about to match. `account_id` is for the user channel only. Of an iceberg
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
    """What was left of an order now rests on the book."""

    order_id: int
    account_id: str
    side: Side
    price: int
    remaining: int


class OrderMatched(Event, frozen=True, tag=3):
    """A trade, at the maker's price. `side` is the maker's. Fees are in quote units.

    With `auction` it belongs to the opening of an auction: it is at the auction's price, and is no change of the book.
    What it takes of an order that rests there, at whatever price, an `OrderChanged` tells.
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
    """An open order goes on with other numbers; `reason` says why. `old` and `new` are what remains of its size, or
    (`by_funds`) of its quote units.

    `resting`: it is on the book, at `price`. `auction`: the same as the reason AUCTION.

    Where its owner amended it, `price` is the price before, `new_price` and `new_stop_price` are those from now on.
    With `requeued` the order loses its place in time: if it was `resting`, it leaves the book here with all of `old`.
    If it rests again, an `OrderOpened` follows. Without `requeued` it keeps its place with `new`.
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
        """How much of a `resting` order leaves the book at `price`."""
        return self.old if self.requeued else self.old - self.new


class OrderDone(Event, frozen=True, tag=5):
    """An order left. `resting` says that it left the book (then `remaining` left with it)."""

    order_id: int
    account_id: str
    side: Side
    order_type: OrderType
    price: int
    remaining: int
    reason: DoneReason
    resting: bool


class OrderActivated(Event, frozen=True, tag=6):
    """A stop order was accepted and waits. When its price comes it is received like any other."""

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
    """A product began, or went on, with another status. Where that opened an auction, its trades came before this
    event: `open_size` in all, at `open_price`; both are 0 when nothing met.

    `cause` says who changed it. `until` is the time at which it changes again at the earliest, where that is known;
    else 0.
    """

    status: ProductStatus
    open_price: int
    open_size: int
    cause: StatusCause = StatusCause.OPERATOR
    until: int = 0


class OrderReported(Event, frozen=True, tag=20):
    """What happened to an order, told to its account alone. `product_id` is the report stream's name,
    `product_sequence` the number in it; `symbol` is the product, and `source` the number of the product's event that
    this reports.

    The order's fields are as in `OrderState`, as they are after the event. The last trade's are 0 in a report of
    another kind; `liquidity_taker` says that the order was the taker.
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


class StreamNoted(Event, frozen=True, tag=21):
    """What a session wrote into a report stream, see `commands.NoteStream`. `product_id` is the stream's name,
    `product_sequence` the number in it; `base` is the stream's from here on."""

    origin: str
    text: str
    base: int


class TradingSwitched(Event, frozen=True, tag=30):
    """The switches of the product, or of the venue, are others: `switches` is the sum of `Switch` values of that scope,
    `note` is for people.
    """

    scope: Scope
    switches: int
    note: str


class AuctionIndicated(Event, frozen=True, tag=31):
    """What the auction would do if it opened now, told now and then: `size` would trade at `price`, and `surplus` more
    would buy (negative: sell).

    Zeros where nothing would trade. `until` is when the call ends at the earliest, 0 if that is not known; `extended`:
    it was extended just now.
    """

    price: int
    size: int
    surplus: int
    until: int
    extended: bool


class TradeCorrected(Event, frozen=True, tag=32):
    """The operator busted a trade or corrected its price. The book and the orders are as they were. Fees are those that
    hold now, 0 after a bust.
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
    """What applying one batch gave: an outcome a command, in order, and the events of all of them, in order."""

    outcomes: list[AnyOutcome]
    events: list[AnyEvent]
