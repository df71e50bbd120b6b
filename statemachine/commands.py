"""All commands that can change the exchange: one struct per command, encoded as a msgpack array with an integer tag.

The tags and the order of the fields are the schema of the log. Numbers are integers in smallest units:

- an *amount* of a currency with scale s is in units of 10**-s (scale 8: 1.5 BTC is 150_000_000);
- a *size* is an amount of the product's base currency;
- a *price* is the amount of quote currency for **one whole** base coin, so the notional of a trade is `price * size //
  10**base_scale`; `PutProduct` only accepts ticks and lots for which that division is exact;
- *funds* are an amount of the quote currency, fees included;
- fees are in parts per million of the notional; the sum that an order pays is rounded up once, to a whole unit. A
  negative fee is a rebate.

Every command carries a `command_id`. The same id from the same account again returns the first outcome and changes
nothing. The reply cache keeps the outcomes of commands that changed something apart from those of commands that were
rejected or changed nothing (`limits`). Deposits, withdrawals and transfers each have a separate set of ids, apart from
all other commands. For an order it is the client's `client_oid` (in the form "c:<client_oid>", so that it cannot equal
an id made by a gateway), for a deposit or withdrawal the `transfer_id`. `account_id` is the account the command acts
for; commands of the operator (currencies, products, accounts, keys) carry the account `limits.OPERATOR`, or behind it a
slash and who sent them (`access`): "operator/<user>", or "operator/key/<key>" for a key that belongs to no user.
"""

from __future__ import annotations

import msgspec

from statemachine.types import (
    CollarAction,
    Decision,
    GoodFor,
    OrderType,
    Phase,
    ProductStatus,
    Role,
    Scope,
    SelfTradePrevention,
    Side,
    StopType,
    TimeInForce,
)


class Command(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The fields of every command."""

    account_id: str
    command_id: str


class PutCurrency(Command, frozen=True, tag=1):
    """Add a currency with `scale` decimal digits (0 to `limits.SCALE_MAX`). Repeating it with the same scale changes
    nothing.
    """

    currency: str
    scale: int


class PutProduct(Command, frozen=True, tag=2):
    """Add a product, or change its sizes, fees and status. Currencies, tick and lot are fixed once it exists.

    With `keep_status` a product that exists keeps its status; `status` is for a new one. `expected_version` prevents a
    lost update: the command is rejected unless the product has this `version` (that of the `ProductRow` that was read;
    0 for a product that must not exist yet). -1 accepts any version.

    `tick` is in price units, `lot`, `min_size` and `max_size` in base units. `tick * lot` must be a whole multiple of
    10**base_scale, so that every notional is a whole number of quote units.
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
    status: ProductStatus = ProductStatus.ONLINE
    keep_status: bool = False
    expected_version: int = -1


class OpenAccount(Command, frozen=True, tag=3):
    """Add an account. Repeating it changes nothing."""

    new_account_id: str


class PutApiKey(Command, frozen=True, tag=4):
    """Add or replace an API key. `secret` is base64 text, `permissions` a sum of `Permission` values.

    `owner_id` is the account the key acts for, or the operator. Permissions of 0 revoke a key. `addresses` are the
    networks from which it may be used, such as "192.0.2.0/24,2001:db8::/32"; an empty text allows all. `sealed_by` is
    the number, from 1 on, of the cluster key that encrypts `secret` and `passphrase`; 0 means that they are not
    encrypted.

    With a `user_id` the key belongs to this user. It may do what both its `permissions` and the user's roles allow.
    """

    key_id: str
    owner_id: str
    secret: str
    passphrase: str
    permissions: int
    addresses: str = ""
    sealed_by: int = 0
    user_id: str = ""


class Deposit(Command, frozen=True, tag=5):
    """Credit `amount` to the account's available balance; `command_id` is the transfer id."""

    currency: str
    amount: int


class Withdraw(Command, frozen=True, tag=6):
    """Debit `amount` from the account's available balance; `command_id` is the transfer id."""

    currency: str
    amount: int


class OrderOptions(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The optional fields of an order. 0 and "" mean that an option is not used.

    Attributes:
        session: a tag by which `CancelAll` and `CancelAllAfter` choose orders.
        display_size: the order is an iceberg; the book shows this much of it at a time.
        trail: the stop price of a trailing stop order stays at most this far behind the best price traded since the
            order was accepted.
        good_for: whether the order is good for a day or an auction.
        expires_at: a good-till-time order without `cancel_after` expires at this time, in nanoseconds since the epoch.
        take_profit: when the order is done, a limit order of the other side enters at this price for what it filled.
        stop_loss: also, or instead, a stop order with this stop price enters. It is a limit order if `stop_loss_limit`
            is its price.
    """

    session: str = ""
    display_size: int = 0
    trail: int = 0
    good_for: GoodFor = GoodFor.ANY
    expires_at: int = 0
    take_profit: int = 0
    stop_loss: int = 0
    stop_loss_limit: int = 0


class PlaceOrder(Command, frozen=True, tag=7):
    """Enter an order.

    Limit: `price` > 0, `size` > 0, `funds` 0. Market: `price` 0 and `size` or `funds` (or, for a buy, both) > 0;
    `funds` is a ceiling on what a buy spends, or the amount a sell wants to raise.

    With a `stop` the order waits for a trade at `stop_price` and then enters. A good-till-time order expires
    `cancel_after` nanoseconds after it was accepted.
    """

    product_id: str
    side: Side
    order_type: OrderType
    price: int
    size: int
    funds: int = 0
    time_in_force: TimeInForce = TimeInForce.GTC
    post_only: bool = False
    stp: SelfTradePrevention = SelfTradePrevention.DC
    client_oid: str = ""
    stop: StopType = StopType.NONE
    stop_price: int = 0
    cancel_after: int = 0
    options: OrderOptions | None = None


class CancelOrder(Command, frozen=True, tag=8):
    """Cancel one of the account's open orders, named by `order_id` or, when that is 0, by `client_oid`.

    A `product_id` that is not empty must be the product of the order.
    """

    order_id: int
    client_oid: str = ""
    product_id: str = ""


class CancelAll(Command, frozen=True, tag=9):
    """Cancel open orders of the account, oldest first: those that meet all conditions.

    `product_id`: only orders of this product ("": any). `side`: 1 for buys, 2 for sells, 0 for both. `price_min` and
    `price_max`: only limit orders with a price in this range, both ends included, and market orders with a stop price
    in it; 0 leaves that end open; a range needs a product. `session`: only orders with this tag ("": all).

    `disconnected`: a connection that asked for it has ended. Orders of offline products leave, too, and the reason is
    `DoneReason.TIMER`, as with `CancelAllAfter`: the client cannot cancel them later.
    """

    product_id: str = ""
    side: int = 0
    price_min: int = 0
    price_max: int = 0
    session: str = ""
    disconnected: bool = False


class Transfer(Command, frozen=True, tag=10):
    """Move `amount` from the account's available balance to that of another account; `command_id` is the transfer id."""

    to_account_id: str
    currency: str
    amount: int


class NoteStream(Command, frozen=True, tag=20):
    """Write a message of a session into a report stream of the account, so that it has the same number on every node
    that may serve the session.

    `stream_id` is a name, a slash and the kind of stream, such as "KEY/o". `open` creates the stream if there is none,
    and activates it: it gets the reports of the account's orders. `reset` restarts the numbering of both sides: the
    note is number 1. Without `open` the stream must be active. `origin` identifies the connection that writes. An empty
    `text` takes no number. `taken` is the number of the client's messages that were processed; a smaller number than
    before changes nothing. `close` makes the stream inactive after this note.
    """

    stream_id: str
    origin: str
    text: str = ""
    taken: int = 0
    open: bool = False
    reset: bool = False
    close: bool = False


class AmendOrder(Command, frozen=True, tag=11):
    """Change an open order, which keeps its id. It is named as by `CancelOrder`. A field with 0 is not changed.

    `size` includes the filled size: the remaining size is `size` less the filled size. If it is 0, the order is done.
    `price` is for limit orders, `stop_price` for waiting stop orders. A smaller size alone keeps the order's place in
    time. Every other change loses it, and an order that crosses at its new price trades. The command is atomic: the
    hold of the changed order is checked in one step.

    `new_client_oid`, if not empty, is the order's `client_oid` from then on (FIX 5.0 SP2, OrderCancelReplaceRequest:
    the ClOrdID of the request replaces that of the order). No order that the exchange still keeps for the account may
    have it.
    """

    order_id: int
    client_oid: str = ""
    product_id: str = ""
    size: int = 0
    price: int = 0
    stop_price: int = 0
    new_client_oid: str = ""


class CancelAllAfter(Command, frozen=True, tag=13):
    """Cancel the account's open orders in `timeout` nanoseconds, unless another such command with the same tag comes
    before. If `session` is not empty, only orders with this tag are cancelled. A `timeout` of 0 removes the timer. The
    timer belongs to no connection and no node: it fires by the time of the log.

    With `whole_account` the tag chooses no orders: it only distinguishes this timer, which cancels all orders, from
    the timers of other sessions and from the one without a tag.
    """

    timeout: int
    session: str = ""
    whole_account: bool = False


class NewOrder(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """An order within a command that does more than enter it. The fields are those of `PlaceOrder`."""

    product_id: str
    side: Side
    order_type: OrderType
    price: int
    size: int
    funds: int = 0
    time_in_force: TimeInForce = TimeInForce.GTC
    post_only: bool = False
    stp: SelfTradePrevention = SelfTradePrevention.DC
    client_oid: str = ""
    stop: StopType = StopType.NONE
    stop_price: int = 0
    cancel_after: int = 0
    options: OrderOptions | None = None


class PlacePair(Command, frozen=True, tag=14):
    """Enter a limit order at `price` and a stop order at `stop_price` of the same side and size; one ends the other
    (`linked`).

    The limit order must not trade at once. The stop order is a limit order if `stop_limit_price` is its price, else a
    market order (a buy needs a limit). For a sell `price` is above `stop_price`, for a buy below.
    """

    product_id: str
    side: Side
    size: int
    price: int
    stop_price: int
    stop_limit_price: int = 0
    stp: SelfTradePrevention = SelfTradePrevention.DC
    client_oid: str = ""
    stop_client_oid: str = ""
    session: str = ""


class ReplaceOrder(Command, frozen=True, tag=12):
    """Cancel an open order, named as by `CancelOrder`, and place another one, which gets a new id. If validation
    rejects the new order (the hold of the old one counts as available), the old one stays.
    """

    order_id: int
    client_oid: str
    product_id: str
    order: NewOrder


class PutFirm(Command, frozen=True, tag=40):
    """Add a firm, to which accounts may belong. Repeating it changes nothing."""

    firm_id: str


class PutMember(Command, frozen=True, tag=41):
    """Assign an account to this firm; "" for none."""

    member_id: str
    firm_id: str


class SetSwitches(Command, frozen=True, tag=42):
    """Switch trading of a scope off or on. `switches` is a sum of `Switch` values; 0 switches everything on.

    `name` is the account, firm or product, "" for the venue. With `Switch.KILL` all open orders of the scope are
    cancelled, over as many log entries as needed, and the switch stays on until it is changed. `note` is text for
    people, at most `limits.REMARK_MAX` characters.
    """

    scope: Scope
    name: str
    switches: int
    note: str = ""


class PutProductLimits(Command, frozen=True, tag=43):
    """Set all limits of a product at once: price collars, and limits of one order. 0 means no limit.

    `dynamic_ppm` is how far a trade may be from the last trade, `static_ppm` how far from the last auction's price, in
    parts per million; `static_price` replaces the latter where it is not 0. `action` says what happens to an order that
    would trade outside. A halt lasts `halt_ns`. The call of an auction lasts `call_ns`, and a random time of up to
    `random_ns` more. It is extended by as much again, at most `extensions_max` times, while its indicative price is
    more than twice as far away as the collar allows. With `limit_ns` a limit state of that time comes before the halt
    or the call (`limit_states`).

    `order_size_max` is in base units, `order_notional_max` in quote units; a limit order's price is at most
    `distance_ppm` away from the market.
    """

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


class PutRiskLimits(Command, frozen=True, tag=44):
    """Set all risk limits of an account or a firm at once. 0 means no limit; all 0 removes the limits.

    With a `currency` the limits are amounts of it: `open_max` for the holds of open orders, `volume_max` for the
    notional traded since the day began, `position_max` for what is owned and being bought. Without one: `orders_max`
    for the number of open orders, `rate_max` for the orders accepted in a second.
    """

    scope: Scope
    name: str
    currency: str = ""
    orders_max: int = 0
    rate_max: int = 0
    open_max: int = 0
    volume_max: int = 0
    position_max: int = 0


class PutCalendar(Command, frozen=True, tag=45):
    """Add or replace a trading calendar.

    `offsets` is the time zone: (second since the epoch from which it holds, seconds east of UTC), ascending. The sender
    makes it from the IANA database, for some years. `week` has the phases of each weekday, Monday first: (second of the
    local day, phase), ascending. `days` has the dates that differ from their weekday: (days since the epoch, phases),
    ascending; a holiday has no phases. The phase is CLOSED before a day's first phase, and on a day without phases.

    The call of an auction ends a random time of up to `random_ns` later than the calendar says. If its indicative price
    moved by more than `late_ppm` in the last `late_ns`, it is extended by `extension_ns`, at most `extensions_max`
    times. An `AuctionIndicated` is emitted every `imbalance_ns`; 0 means never.
    """

    calendar_id: str
    time_zone: str
    offsets: list[tuple[int, int]]
    week: list[list[tuple[int, Phase]]]
    days: list[tuple[int, list[tuple[int, Phase]]]] = []
    random_ns: int = 0
    late_ns: int = 0
    late_ppm: int = 0
    extension_ns: int = 0
    extensions_max: int = 0
    imbalance_ns: int = 0


class SetCalendar(Command, frozen=True, tag=46):
    """Let a product, a group of products, or the whole venue follow this calendar. With "" it follows that of its
    group, or of the venue, or none.
    """

    scope: Scope
    name: str
    calendar_id: str


class PutGroup(Command, frozen=True, tag=47):
    """Put a product into this group; "" for none."""

    product_id: str
    group_id: str


class FollowCalendar(Command, frozen=True, tag=48):
    """Let a product whose status was set by hand follow its calendar again."""

    product_id: str


class CorrectTrade(Command, frozen=True, tag=49):
    """Bust a trade (`new_price` 0), or correct its price. The other fields identify the trade, with the values of its
    `OrderMatched`; `note` is text for people. `buyer_order_id` and `seller_order_id` name the orders in the reports of
    both accounts; 0 leaves them out.

    The seller returns what the buyer paid too much, or the other way round. Returned fees come from what the exchange
    earned. The command is rejected if a side does not have available what it must return. Orders and the book do not
    change.
    """

    product_id: str
    trade_id: int
    buyer_id: str
    seller_id: str
    price: int
    size: int
    buyer_fee: int
    seller_fee: int
    new_price: int = 0
    note: str = ""
    buyer_order_id: int = 0
    seller_order_id: int = 0


class PutFeeTiers(Command, frozen=True, tag=51):
    """Set the fee tiers of all products quoted in a currency, or with `product_id` of one of them. An empty list
    removes them.

    A tier is (30-day volume from which it holds, maker's rate, taker's rate): the volume in units of the currency,
    rising from 0, the rates in parts per million. A negative maker's rate is a rebate. The command is rejected if a
    rebate could exceed what a taker pays (`fees`).
    """

    currency: str
    product_id: str
    tiers: list[tuple[int, int, int]]


class PutFeeOverride(Command, frozen=True, tag=52):
    """Set the fee rates of an account in a product, or in all products (`product_id` ""), or `remove` them."""

    owner_id: str
    product_id: str
    maker_fee_ppm: int
    taker_fee_ppm: int
    remove: bool = False


class Grant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A role of a user in a scope: the venue (`name` ""), a firm with all its accounts, an account, or a product."""

    role: Role
    scope: Scope
    name: str = ""


class PutUser(Command, frozen=True, tag=60):
    """Add a user, or replace the user's roles. Without grants the user may do nothing, and neither may the user's keys.
    `note` is text for people, such as a full name, at most `limits.REMARK_MAX` characters.
    """

    user_id: str
    grants: list[Grant]
    note: str = ""


class SetAccess(Command, frozen=True, tag=61):
    """Set all settings of access at once.

    With `bootstrap_off` no node accepts the operator's key of the configuration file any more. `consent` is the sum of
    the permissions whose commands wait for a second user's consent, as proposals that live for `consent_ns`. It needs
    `bootstrap_off`, or whoever has the file could do without the second user.
    """

    bootstrap_off: bool
    consent: int = 0
    consent_ns: int = 0


class DecideProposal(Command, frozen=True, tag=62):
    """Approve a proposal, which applies its command, or reject or withdraw it."""

    proposal_id: int
    decision: Decision


TRANSFER_KINDS = (5, 6, 10)
"""The tags of `Deposit`, `Withdraw` and `Transfer`. Each kind has a separate set of transfer ids."""

REJECTS = 0
"""The name of the reply cache of an account's rejected commands, without transfers. The rejected transfers of a kind
are in the cache `REJECTS - kind`.
"""

REPLY_CACHE_KINDS = (*TRANSFER_KINDS, REJECTS, *(REJECTS - kind for kind in TRANSFER_KINDS))
"""The names of an account's reply caches beside that of its orders."""

AnyCommand = (
    PutCurrency
    | PutProduct
    | OpenAccount
    | PutApiKey
    | Deposit
    | Withdraw
    | PlaceOrder
    | CancelOrder
    | CancelAll
    | Transfer
    | NoteStream
    | AmendOrder
    | ReplaceOrder
    | PutFirm
    | PutMember
    | SetSwitches
    | PutProductLimits
    | PutRiskLimits
    | PutCalendar
    | SetCalendar
    | PutGroup
    | FollowCalendar
    | CorrectTrade
    | PlacePair
    | CancelAllAfter
    | PutFeeTiers
    | PutFeeOverride
    | PutUser
    | SetAccess
    | DecideProposal
)


class Batch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One log entry: the commands that were queued during the previous proposal, with one time stamp. An entry without
    commands only advances the time, so that orders expire.

    `time` is nanoseconds since the Unix epoch by the leader's clock. In the engine it never decreases. Entries of other
    versions are not here: each is applied by the core of its own level.
    """

    time: int
    commands: list[AnyCommand]


batch_decoder = msgspec.msgpack.Decoder(Batch)
command_decoder = msgspec.msgpack.Decoder(AnyCommand)
_encoder = msgspec.msgpack.Encoder()


def encode_batch(batch: Batch) -> bytes:
    """Return the log entry of `batch`: msgpack, with the same bytes for the same batch."""
    return _encoder.encode(batch)


def decode_batch(payload: bytes) -> Batch:
    """Return the batch in a log entry.

    Raises:
        msgspec.DecodeError: the bytes are not a batch of this schema, or a text in it is not UTF-8. Check before you
        propose.
    """
    try:
        return batch_decoder.decode(payload)
    except UnicodeDecodeError as error:  # msgspec lets it through as it is
        raise msgspec.DecodeError(str(error)) from error
