"""The words of the exchange that are choices: sides, order types, times in force, reasons.

Every enumeration is an `IntEnum`, so that its values travel as one byte and sort the same everywhere. The numbers
are part of the schema (they are in the log and in every snapshot): never renumber, only append.
"""

from __future__ import annotations

from enum import IntEnum


class Side(IntEnum):
    """Which way an order trades the base currency."""

    BUY = 1
    SELL = 2


class OrderType(IntEnum):
    """How an order names its price."""

    LIMIT = 1
    MARKET = 2


class TimeInForce(IntEnum):
    """What happens to the part of an order that does not trade at once."""

    GTC = 1
    """Good till cancelled: it rests."""
    IOC = 2
    """Immediate or cancel: it is cancelled."""
    FOK = 3
    """Fill or kill: it must trade whole at once, or nothing of it does."""
    GTT = 4
    """Good till time: it rests, and leaves when its time is over."""


class GoodFor(IntEnum):
    """What an order is good for, beside its time in force."""

    ANY = 0
    DAY = 1
    """It leaves at the end of the day (UTC)."""
    AUCTION = 2
    """What is left of it when the auction opened that collected it leaves."""


class StopType(IntEnum):
    """Which trades activate a stop order; see Coinbase Exchange's "stop orders"."""

    NONE = 0
    """No stop order: it enters at once."""
    LOSS = 1
    """A trade at the stop price or below."""
    ENTRY = 2
    """A trade at the stop price or above."""


class SelfTradePrevention(IntEnum):
    """What happens when an order meets a resting order of its own account; the taker's choice decides."""

    DC = 1
    """Decrease and cancel: the smaller order is cancelled, the larger one decremented by it; equal ones both go."""
    CO = 2
    """Cancel oldest: the resting order is cancelled and the taker goes on."""
    CN = 3
    """Cancel newest: the taker's remainder is cancelled."""
    CB = 4
    """Cancel both."""


class OrderStatus(IntEnum):
    """Where an order is in its life. A rejected order never entered, a cancelled one left."""

    OPEN = 1
    DONE = 2
    ACTIVE = 3
    """Accepted, its money on hold, and not on the book: a stop order that waits for its price, one that an auction
    collected, or one that enters with a later log entry, since this one has no work left or the product has unfinished
    work."""


class ChangeReason(IntEnum):
    """Why an open order goes on with other numbers."""

    SELF_TRADE = 1
    """Self-trade prevention decremented it."""
    AUCTION = 2
    """An order on the book traded in the opening of an auction."""
    AMENDED = 3
    """Its owner amended it."""


class DoneReason(IntEnum):
    """Why an order left the exchange."""

    NONE = 0
    FILLED = 1
    CANCELLED = 2
    EXPIRED = 3
    """Its time was over."""
    MAKERS_MAX = 4
    """It met as many resting orders as one order may meet (`limits.MAKERS_PER_ORDER`); what was left of it leaves."""
    KILLED = 10
    """The operator's kill switch cancelled it, or trading on its side was switched off before it entered."""
    COLLARED = 11
    """The next trade would have been outside the product's price collar; what was left of it leaves."""

    LINKED = 5
    """Its partner traded, was triggered, or left (`commands.PlacePair`)."""
    AUCTION_OVER = 6
    """It was good for an auction, which opened."""
    TIMER = 7
    """The account's `CancelAllAfter` came due."""


class ProductStatus(IntEnum):
    """What a product accepts."""

    ONLINE = 1
    CANCEL_ONLY = 2
    """Orders may leave, none may enter."""
    POST_ONLY = 3
    LIMIT_ONLY = 4
    OFFLINE = 5
    """Neither orders nor cancels by traders."""
    AUCTION = 6
    """Limit orders are collected and nothing trades. They meet at one price when the product goes on to a status in
    which it trades.
    """


class Scope(IntEnum):
    """What a switch, a limit or a calendar is of."""

    VENUE = 1
    """All of it."""
    FIRM = 2
    ACCOUNT = 3
    PRODUCT = 4
    GROUP = 5
    """A group of products, for calendars."""


class Switch(IntEnum):
    """What the operator switches off. The switches of a scope are the sum of these; 0: all is on."""

    BUY_OFF = 1
    """No buy order enters."""
    SELL_OFF = 2
    """No sell order enters. With `BUY_OFF`: orders can only be cancelled."""
    KILL = 4
    """No order enters, and all open orders are cancelled (Commission Delegated Regulation (EU) 2017/584, article
    18(2)(c)).
    """


class CollarAction(IntEnum):
    """What happens to an order whose next trade would be outside the price collar."""

    REJECT = 1
    """It does not enter; what a market order has left leaves."""
    AUCTION = 2
    """It trades up to the collar. Then an auction is called, which collects what is left of it, and opens by itself."""
    HALT = 3
    """As AUCTION, but the product halts first: for a time orders can only be cancelled."""


class Phase(IntEnum):
    """What a trading calendar says of a product."""

    CLOSED = 1
    """Orders can only be cancelled."""
    PRE_OPEN = 2
    """Orders are collected for the opening."""
    AUCTION = 3
    """The call of an auction: orders are collected; its end is random, and it opens then."""
    CONTINUOUS = 4
    CLOSING_AUCTION = 5
    """The call of the closing auction. The orders meet at one price, also where nothing trades afterwards."""
    HALTED = 6
    """As CLOSED, in the middle of a day."""


class StatusCause(IntEnum):
    """Who put a product into its status."""

    OPERATOR = 0
    """By hand."""
    CALENDAR = 1
    COLLAR = 2
    """The price collar interrupted trading, or the interruption is over."""


class Timer(IntEnum):
    """What a timer is for."""

    PHASE = 1
    """A product's calendar goes on; the subject is the product."""
    INTERRUPTION = 2
    """A halt or the call of a volatility interruption ends; the subject is the product."""
    CANCEL_AFTER = 3
    """Orders of an account leave unless it says that it is there."""


class CorrectionKind(IntEnum):
    """What the operator did to a trade."""

    BUST = 1
    """It was cancelled: money, coins and fees went back (FIX ExecType H)."""
    PRICE = 2
    """Its price was corrected (FIX ExecType G)."""


class Opening(IntEnum):
    """How far the opening of a product's auction is."""

    NONE = 0
    """None is under way."""
    PRICE = 1
    """It begins: orders whose time is over leave, then the price is found."""
    MEETING = 2
    """The price is found, and orders meet at it. None of the product leaves for another reason meanwhile."""
    ENTERING = 3
    """What is left of the collected orders goes to the book."""


class ReportKind(IntEnum):
    """What a report of an order tells."""

    NEW = 1
    """It was accepted."""
    TRADE = 2
    """It traded."""
    TRIGGERED = 3
    """A stop order's price has come: it enters."""
    RESTATED = 4
    """Self-trade prevention took something off it."""
    DONE = 5
    """It left, for another reason than that its whole size has traded: the last `TRADE` tells that."""
    AMENDED = 6
    """Its owner changed it."""


class Permission(IntEnum):
    """What an API key may do; a key's permissions are the sum (bitwise or) of these."""

    VIEW = 1
    TRADE = 2
    TRANSFER = 4
    """Withdraw, and move money to another account."""
    ADMIN = 8
    DEPOSIT = 16
    """Credit money that came from outside: for keys of the operator's custodian. No other permission includes it."""


class Reason(IntEnum):
    """Why a command was rejected. The outcome's `field` and `detail` say which field and what was expected."""

    INVALID_COMMAND_ID = 1
    INVALID_ID = 2
    """An account, currency, product, key name or client_oid is empty, too long or has characters other than
    [A-Za-z0-9_.:-]; a secret is not base64; or the operator's account is used by others, or for what it may not be."""
    COMMAND_ID_REUSED = 3
    """The same command id came before with other contents, or the account has an open order with this client_oid."""
    UNKNOWN_CURRENCY = 10
    UNKNOWN_PRODUCT = 11
    UNKNOWN_ACCOUNT = 12
    UNKNOWN_ORDER = 13
    ORDER_ALREADY_DONE = 14
    CURRENCY_CHANGED = 20
    """A currency's scale, or a product's currencies, tick or lot, cannot change once it exists."""
    INVALID_SCALE = 21
    INVALID_PRODUCT = 22
    INVALID_FEE = 23
    INVALID_PERMISSIONS = 24
    INVALID_AMOUNT = 30
    INSUFFICIENT_FUNDS = 31
    AMOUNT_TOO_LARGE = 32
    """A sum would pass the largest number the exchange carries (`limits.AMOUNT_MAX`)."""
    INVALID_PRICE = 40
    INVALID_SIZE = 41
    INVALID_FUNDS = 42
    PRICE_OFF_TICK = 43
    SIZE_OFF_LOT = 44
    SIZE_TOO_SMALL = 45
    SIZE_TOO_LARGE = 46
    INVALID_ORDER = 47
    """Fields that contradict each other: a market order with a price, post-only with IOC, and so on."""
    POST_ONLY_WOULD_TAKE = 48
    PRODUCT_NOT_TRADING = 49
    PRODUCT_LIMIT_ONLY = 50
    PRODUCT_POST_ONLY = 51
    PRODUCT_CANCEL_ONLY = 52
    TOO_MANY_OPEN_ORDERS = 53
    INVALID_STOP = 54
    """A stop price without a kind of stop, or none with it, or a combination that a stop order cannot have."""
    INVALID_CANCEL_AFTER = 55
    """A time to live without good-till-time, none with it, or one out of bounds."""
    PRODUCT_IN_AUCTION = 56
    """An auction collects limit orders that can rest, and no others."""
    INVALID_ADDRESSES = 57
    """A key's addresses are no list of networks."""
    CHANGED_MEANWHILE = 58
    """The product is not at the version that the command expects."""
    OWN_ORDERS_CROSS = 59
    """An auction does not collect an order that would trade with an order of its own account."""
    AUCTION_OPENING = 60
    """The product's auction is opening, which takes a few log entries: until then its orders stay, and its status too."""
    TOO_MANY_TRANSFERS = 61
    """The account's transfers of this kind fill their memory, and the oldest is too young to be forgotten
    (`limits.TRANSFERS_REMEMBERED`).
    """
    INVALID_STREAM = 90
    """A stream's name, a note or what its client is said to have sent is out of bounds, or the stream is another
    account's.
    """
    TOO_MANY_STREAMS = 91
    """There is no room for another stream (`limits.STREAMS`)."""
    TOO_MANY_CANCELS = 62
    """The account has as many unfinished `CancelAll`s as it may have (`limits.MASS_CANCELS_PER_ACCOUNT`)."""
    TOO_MANY_TRAILING = 64
    """The product has as many trailing stop orders as it may have (`limits.TRAILING_PER_PRODUCT`)."""
    TOO_MANY_TIMERS = 65
    """The account has as many `CancelAllAfter`s as it may have (`limits.CANCEL_AFTERS_PER_ACCOUNT`)."""
    INVALID_TIMEOUT = 66
    """A `CancelAllAfter` is shorter or longer than allowed."""
    NOT_AMENDABLE = 63
    """The order cannot be amended in this way: it has no such number, or it was triggered."""
    KILL_SWITCH = 100
    """The kill switch of the account, its firm, the product or the venue is on."""
    TRADING_OFF = 101
    """Trading on this side is switched off for the account, its firm, the product or the venue."""
    UNKNOWN_FIRM = 102
    INVALID_SCOPE = 103
    """A scope that this command does not have, or a name that does not fit it."""
    INVALID_SWITCHES = 104
    KILL_UNDER_WAY = 105
    """The kill switch still cancels orders: until then it stays on."""
    INVALID_LIMITS = 106
    PRICE_COLLAR = 107
    """The price is outside the product's price collar."""
    ORDER_LIMIT = 108
    """The order's size, its notional, or its distance from the market is above the product's limit."""
    RISK_LIMIT = 109
    """A limit of the account or of its firm would be passed; `field` names the limit, `detail` its value."""
    INVALID_CALENDAR = 110
    UNKNOWN_CALENDAR = 111
    UNKNOWN_TRADE = 112
    TRADE_CORRECTED = 113
    """The trade was busted before, or is not as the command says."""
    FIRM_TOO_LARGE = 114
    TOO_MANY_RULES = 115
    """There are as many switches, limits or calendars as may be (`limits.VENUE_ROWS_MAX`)."""
