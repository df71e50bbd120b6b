"""The enumerations of the exchange: sides, order types, times in force, reasons.

Every enumeration is an `IntEnum`, so that its values travel as one byte and sort the same everywhere. The numbers
are part of the schema (they are in the log and in every snapshot): never renumber, only append.
"""

from __future__ import annotations

from enum import IntEnum


class Side(IntEnum):
    """Whether an order buys or sells the base currency."""

    BUY = 1
    SELL = 2


class OrderType(IntEnum):
    """How an order names its price."""

    LIMIT = 1
    MARKET = 2


class TimeInForce(IntEnum):
    """The handling of the part of an order that does not trade at once."""

    GTC = 1
    """Good till cancelled: it rests."""
    IOC = 2
    """Immediate or cancel: it is cancelled."""
    FOK = 3
    """Fill or kill: the whole order trades at once, or none of it."""
    GTT = 4
    """Good till time: it rests, and expires at its time."""


class GoodFor(IntEnum):
    """A further limit of an order's life, beside its time in force."""

    ANY = 0
    DAY = 1
    """It expires at the end of its product's session, or at midnight (UTC) where the product follows no calendar."""
    AUCTION = 2
    """Its remainder is cancelled after the opening of its auction."""


class StopType(IntEnum):
    """The trades that trigger a stop order; see Coinbase Exchange's "stop orders"."""

    NONE = 0
    """Not a stop order: it enters at once."""
    LOSS = 1
    """A trade at the stop price or below."""
    ENTRY = 2
    """A trade at the stop price or above."""


class SelfTradePrevention(IntEnum):
    """Self-trade prevention: what happens when an order meets a resting order of its own account, by the choice of the
    taker.
    """

    DC = 1
    """Decrease and cancel: the smaller order is cancelled, and the larger one is decremented by its size. Equal orders
    are both cancelled.
    """
    CO = 2
    """Cancel oldest: the resting order is cancelled and the taker continues."""
    CN = 3
    """Cancel newest: the taker's remainder is cancelled."""
    CB = 4
    """Cancel both."""


class OrderStatus(IntEnum):
    """The state of an order. A rejected order never entered; a cancelled one did."""

    OPEN = 1
    DONE = 2
    ACTIVE = 3
    """Accepted, with its money on hold, and not on the book: a waiting stop order, an order of an auction book, or a
    queued order that enters with a later log entry, because the entry had no units of work left or the product has
    unfinished work.
    """


class ChangeReason(IntEnum):
    """Why an open order changed."""

    SELF_TRADE = 1
    """Self-trade prevention decremented it."""
    AUCTION = 2
    """An order on the book traded in the opening of an auction."""
    AMENDED = 3
    """Its owner amended it."""
    TRAILED = 4
    """Its stop price followed the market."""
    REPRICED = 5
    """Its price was outside the collar, so it rests at the collar (`limit_states`)."""


class DoneReason(IntEnum):
    """Why an order is done."""

    NONE = 0
    FILLED = 1
    CANCELLED = 2
    EXPIRED = 3
    """It expired."""
    MAKERS_MAX = 4
    """It met the largest number of resting orders that one order may meet (`limits.MAKERS_PER_ORDER`); its remainder
    was cancelled.
    """
    KILLED = 10
    """The operator's kill switch cancelled it, or trading on its side was switched off before it entered."""
    COLLARED = 11
    """The next trade would have been outside the product's price collar; its remainder was cancelled."""

    LINKED = 5
    """Its partner traded, was triggered, or is done (`commands.PlacePair`)."""
    AUCTION_OVER = 6
    """It was good for an auction, which opened."""
    TIMER = 7
    """The account's `CancelAllAfter` fired."""


class ProductStatus(IntEnum):
    """The commands that a product accepts."""

    ONLINE = 1
    CANCEL_ONLY = 2
    """Orders can be cancelled, and none can enter."""
    POST_ONLY = 3
    LIMIT_ONLY = 4
    OFFLINE = 5
    """Traders can neither place nor cancel orders."""
    AUCTION = 6
    """Limit orders go to the auction book and nothing trades. They trade at one price when the product changes to a
    status in which it trades.
    """


class Scope(IntEnum):
    """The scope of a switch, a limit or a calendar."""

    VENUE = 1
    """The whole venue."""
    FIRM = 2
    ACCOUNT = 3
    PRODUCT = 4
    GROUP = 5
    """A group of products, for calendars."""


class Switch(IntEnum):
    """What the operator switches off. The switches of a scope are the sum of these; 0 switches everything on."""

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
    """It is rejected; the remainder of a market order is cancelled."""
    AUCTION = 2
    """It trades up to the collar. Then an auction is called, which takes its remainder and opens automatically."""
    HALT = 3
    """Like AUCTION, but the product halts first: for a time orders can only be cancelled."""


class Phase(IntEnum):
    """The phases of a trading calendar."""

    CLOSED = 1
    """Orders can only be cancelled."""
    PRE_OPEN = 2
    """Orders are collected for the opening."""
    AUCTION = 3
    """The call of an auction: orders are collected. The auction opens at its end, which is random."""
    CONTINUOUS = 4
    CLOSING_AUCTION = 5
    """The call of the closing auction. The orders trade at one price, although nothing trades afterwards."""
    HALTED = 6
    """Like CLOSED, during the day."""


class StatusCause(IntEnum):
    """Who set the status of a product."""

    OPERATOR = 0
    """The operator did, by hand."""
    CALENDAR = 1
    COLLAR = 2
    """The price collar interrupted trading, or the interruption or the limit state is over."""
    LIMIT_STATE = 3
    """An order rests at the price collar: trading goes on, and is interrupted unless the order leaves in time."""


class Timer(IntEnum):
    """The kinds of timers."""

    PHASE = 1
    """A product's calendar reaches its next phase; the subject is the product."""
    INTERRUPTION = 2
    """A limit state, a halt or the call of a volatility interruption ends; the subject is the product."""
    CANCEL_AFTER = 3
    """Orders of an account are cancelled unless it repeats its `CancelAllAfter`."""
    PROPOSAL = 4
    """A proposal expires; the subject is its id."""
    CANCEL_WHOLE = 5
    """The same as CANCEL_AFTER for a `CancelAllAfter` of the whole account: the tag chooses no orders."""


class CorrectionKind(IntEnum):
    """The kinds of corrections of a trade."""

    BUST = 1
    """The trade was cancelled: money, coins and fees were returned (FIX ExecType H)."""
    PRICE = 2
    """Its price was corrected (FIX ExecType G)."""


class Opening(IntEnum):
    """The steps of the opening of a product's auction."""

    NONE = 0
    """No opening is in progress."""
    PRICE = 1
    """It begins: due orders expire, then the price is found."""
    MEETING = 2
    """The price is found, and orders trade at it. During this step no order of the product leaves for another reason.
    """
    ENTERING = 3
    """The remainders of the orders of the auction book go to the order book."""


class ReportKind(IntEnum):
    """The kinds of reports of an order."""

    NEW = 1
    """It was accepted."""
    TRADE = 2
    """It traded."""
    TRIGGERED = 3
    """A stop order was triggered and enters."""
    RESTATED = 4
    """Self-trade prevention decremented it."""
    DONE = 5
    """It is done for another reason than a complete fill; the last `TRADE` reports a complete fill."""
    AMENDED = 6
    """Its owner amended it."""
    BUSTED = 7
    """The operator cancelled one of its trades."""
    CORRECTED = 8
    """The operator corrected the price of one of its trades."""
    TRAILED = 9
    """Its stop price followed the market."""
    REPRICED = 10
    """Its price was outside the collar, so it rests at the collar."""


class Permission(IntEnum):
    """The permissions of an API key and of a role: a sum (bitwise or) of these.

    Those from SWITCH on are the operator's. Each command of the operator needs one of them (`access`).
    """

    VIEW = 1
    TRADE = 2
    TRANSFER = 4
    """Withdraw, and move money to another account."""
    ADMIN = 8
    """All permissions of the operator. Only a key has it, no role."""
    DEPOSIT = 16
    """Book deposits: for keys of the operator's custodian. No other permission includes it."""
    SWITCH = 32
    """Kill switches and trading switches."""
    LIMIT = 64
    """Price collars, order limits and risk limits."""
    MARKET = 128
    """Currencies, products, their statuses, trading calendars."""
    CORRECT = 256
    """Bust a trade, or correct its price."""
    ACCOUNTS = 512
    """Open accounts, add firms, and assign accounts to firms."""
    ACCESS = 1024
    """API keys, users and the settings of access."""
    CLUSTER = 2048
    """Leadership and members of the cluster, snapshots. No command in the log needs it."""


class Role(IntEnum):
    """The roles of a user: each is a set of permissions (`access.ROLES`)."""

    VIEWER = 1
    """Sees everything in the scope."""
    TRADER = 2
    """Views, and trades for the accounts."""
    RISK_OFFICER = 3
    """Views, and sets switches and limits (the kill functionality of a member, RTS 6 article 12)."""
    MARKET_OPERATOR = 4
    """A risk officer who also runs the market: products, statuses, calendars, corrections of trades."""
    CUSTODIAN = 5
    """Views, and books deposits, withdrawals and transfers."""
    ADMINISTRATOR = 6
    """Views, and manages accounts, firms, API keys, users and the cluster. Neither trades nor runs the market."""


class Decision(IntEnum):
    """A decision about a proposal."""

    APPROVE = 1
    """The command is applied now."""
    REJECT = 2
    """Somebody other than the proposer removes it."""
    WITHDRAW = 3
    """The proposer removes it."""


class Reason(IntEnum):
    """Why a command was rejected. The outcome's `field` and `detail` say which field and what was expected."""

    INVALID_COMMAND_ID = 1
    INVALID_ID = 2
    """An account, currency, product, key name or client_oid is empty, too long or has characters other than
    [A-Za-z0-9_.:-]; a secret is not base64; or the operator's account is used by another account, or for a command that
    it may not send.
    """
    COMMAND_ID_REUSED = 3
    """The command id was used before with other contents, or the account has an open order with this client_oid."""
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
    """A sum would exceed the largest number of the exchange (`limits.AMOUNT_MAX`)."""
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
    """A stop price without a kind of stop, a kind of stop without a stop price, or a combination that a stop order
    cannot have.
    """
    INVALID_CANCEL_AFTER = 55
    """A time to live without good-till-time, good-till-time without one, or one out of bounds."""
    PRODUCT_IN_AUCTION = 56
    """An auction collects limit orders that can rest, and no others."""
    INVALID_ADDRESSES = 57
    """A key's addresses are not a list of networks."""
    CHANGED_MEANWHILE = 58
    """The product does not have the version that the command expects."""
    OWN_ORDERS_CROSS = 59
    """An auction does not collect an order that would trade with an order of its own account."""
    AUCTION_OPENING = 60
    """The product's auction is opening, which takes a few log entries. Until it is open, its orders and its status
    cannot change.
    """
    TOO_MANY_TRANSFERS = 61
    """The account's reply cache for this kind of transfer is full, and its oldest entry is too recent to be dropped
    (`limits.TRANSFERS_CACHED`).
    """
    INVALID_STREAM = 90
    """A stream's name, a note or the count of its client's messages is out of bounds, or the stream belongs to another
    account.
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
    """The order cannot be amended in this way: it does not have this field, or it was triggered."""
    KILL_SWITCH = 100
    """The kill switch of the account, its firm, the product or the venue is on."""
    TRADING_OFF = 101
    """Trading on this side is switched off for the account, its firm, the product or the venue."""
    UNKNOWN_FIRM = 102
    INVALID_SCOPE = 103
    """This command does not have this scope, or the name does not fit it."""
    INVALID_SWITCHES = 104
    KILL_UNDER_WAY = 105
    """The kill switch is still cancelling orders, and stays on until that is complete."""
    INVALID_LIMITS = 106
    PRICE_COLLAR = 107
    """The price is outside the product's price collar."""
    ORDER_LIMIT = 108
    """The order's size, its notional, or its distance from the market is above the product's limit."""
    RISK_LIMIT = 109
    """A limit of the account or of its firm would be exceeded. `field` names the limit, `detail` its value."""
    INVALID_CALENDAR = 110
    UNKNOWN_CALENDAR = 111
    UNKNOWN_TRADE = 112
    TRADE_CORRECTED = 113
    """The trade was corrected before, or does not match the command."""
    FIRM_TOO_LARGE = 114
    TOO_MANY_RULES = 115
    """The number of switches, limits or calendars is at its maximum (`limits.VENUE_ROWS_MAX`)."""
    NOT_PERMITTED = 120
    """The user or the key that sent the command lacks the permission for this scope. `field` names the permission,
    `detail` the scope.
    """
    UNKNOWN_USER = 121
    INVALID_GRANTS = 122
    """A user has too many grants, or a grant has a scope that its role does not have, or a name that does not exist."""
    TOO_MANY_USERS = 123
    """There is no room for another user, or for another key of the user."""
    LOCKED_OUT = 124
    """After the command too few users could do what only users can do: administer access, or consent."""
    TOO_MANY_PROPOSALS = 125
    """There is no room for another proposal, or the command is too long for one."""
    UNKNOWN_PROPOSAL = 126
    """The proposal was decided, withdrawn, expired, or never was."""
    NEEDS_ANOTHER_USER = 127
    """The proposer may not approve a proposal of its own, and a key without a user may not approve any."""
    LOOSENED = 128
    """The operator of the venue has set this, and somebody with a narrower scope may only make it tighter."""
