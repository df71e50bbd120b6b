"""All bounds of the exchange, each with its reason. They are part of the rules: changing one requires a new version."""

from __future__ import annotations

OPERATOR = "operator"
"""The account id of the operator's commands. It has no money and cannot be opened."""

SCALE_MAX = 12
"""Decimal digits of a currency. Twelve lets prices of 10**-12 exist while amounts stay within AMOUNT_MAX."""

AMOUNT_MAX = 2**63 - 1
"""Largest price, size, funds, notional, balance, and sum of all money in a currency, in smallest units. The log and the
snapshots are msgpack, whose integers end at 64 bits. Since what was deposited in a currency and not withdrawn stays
within it, so does every balance and every sum of fees."""

EXECUTED_MAX = 2 * AMOUNT_MAX
"""The largest sum of an order's notionals; it fits an unsigned 64-bit field. An order may reach AMOUNT_MAX when it
enters, and again at its own price. Only a sell that trades above its price in several auctions, for money that returns
to the buyers in between, could exceed it.
"""

NAME_MAX = 64
"""Characters of an account, currency, product or key name."""

COMMAND_ID_MAX = 96
"""Characters of a command id: a UUID, a prefix, and room for longer ids."""

SECRET_MAX = 256
"""Characters of an API key's secret or passphrase."""

FEE_PPM_MAX = 100_000
"""The largest fee rate: ten per cent. A rebate is at most the taker's fee (`fees`)."""

FEE_TIERS_MAX = 16
"""Fee tiers of a currency or a product. Each order of an account is compared with all of them. The longest public
schedules have about ten.
"""

VOLUME_DAYS = 30
"""Days of the volume that chooses an account's fee tier, today included."""

ADDRESSES_MAX = 32
"""Networks of one API key. Each request with the key is compared with all of them."""

OUTCOMES_PER_ACCOUNT = 10_000
"""Entries of an account's reply cache. The bound is per account, so that no account can displace the entries of
another.
"""

TRANSFERS_CACHED = 10_000
"""Entries of an account's reply cache for deposits, and of those for withdrawals and transfers. They are separate from
orders, so that no trader can displace one.
"""

REJECTS_CACHED = 1_000
"""Entries of an account's reply caches for commands that were rejected or changed nothing: one cache for each kind of
transfer, one for all other commands. They are separate, so that they displace no outcome of a change. A late copy of a
rejected command must not be executed after its sender got the reject. A copy is late by seconds, and only an account
that sends nothing but invalid commands has more rejects than this in that time.
"""

TRANSFER_LIFETIME = 30 * 86_400 * 10**9
"""Nanoseconds for which the reply cache keeps a transfer id at least, by the time of the log: 30 days. Older ids stay
while there is room. If there is no room and the oldest is younger than this, further transfers of the kind are
rejected. This is long enough for every automatic retry.
"""

DONE_ORDERS_PER_ACCOUNT = 1_000
"""Done orders of an account that the engine keeps for reads."""

OPEN_ORDERS_PER_ACCOUNT = 10_000
"""Open orders of an account. It bounds the memory that one account can use on every node."""

DISPLAYS_PER_ORDER = 100
"""Slices of an iceberg: a taker meets each like a separate resting order."""

TRAILING_PER_PRODUCT = 1_000
"""Trailing stop orders of a product. A trade at a new high moves all of them, in the same log entry."""

SECOND_NS = 10**9
"""Nanoseconds of a second."""

DAY_NS = 86_400 * SECOND_NS
"""Nanoseconds of a day."""

CANCEL_AFTERS_PER_ACCOUNT = 100
"""Timers of `CancelAllAfter` of an account, each with another tag: one for each session that trades at the same time.
"""

CANCEL_ALL_AFTER_MIN = 10**9
"""Nanoseconds of the shortest `CancelAllAfter`: a second. A client's round trip and a change of the leader must fit in."""

CANCEL_ALL_AFTER_MAX = DAY_NS
"""Nanoseconds of the longest one: a day."""

MASS_CANCELS_PER_ACCOUNT = 16
"""Unfinished `CancelAll`s of an account, each with another selection of orders. More are rejected until one is
complete.
"""

WORK_PER_ENTRY = 3_000
"""Units of work after which a log entry begins no more work. A unit is an order that enters, a resting order that it
meets, or an order that is cancelled on request or expires: 5 to 15 microseconds of CPU in plain Python. Further orders
of the entry are accepted and enter with later entries. Later entries also continue other unfinished work (stop orders
to enter, an auction to open, orders to cancel).
"""

PENDING_WORK_PER_ENTRY = 1_000
"""Units of these that unfinished work of earlier entries may take before the first command of an entry. So the long
work of one product leaves most of every entry to the commands of the others.
"""

ARRIVAL_WORK = 10
"""Units of its product's unfinished work that the entry does for each new order which must wait. This is more than an
order takes on average, so the queue becomes shorter although orders keep arriving.
"""

MAKERS_PER_ORDER = 1_000
"""Resting orders that one order may meet when it enters, those of its own account included. Its remainder is then
cancelled (`DoneReason.MAKERS_MAX`), and a fill-or-kill order that would need more is not filled. All trades of an order
are in one log entry, so no later order and no cancel comes between two of them. This bounds the work of that. Together
an entry does at most `WORK_PER_ENTRY` + `MAKERS_PER_ORDER` units, 4,000, about 50 milliseconds: a sixth of the shortest
election timeout, so no leader loses its term because of it.
"""

STOPS_TAKEN = 1_000
"""Triggered stop orders that are sorted by id at a time, beginning with those whose stop price was passed first."""

LOOKS_PER_UNIT = 64
"""Orders that are only read (by a fill-or-kill order, or by `CancelAll` for one product) per unit of work: a read takes
0.1 microseconds.
"""

LEVELS_PER_UNIT = 128
"""Price levels that are summed for the price of an auction, per unit of work."""

EVENTS_PER_UNIT = 4
"""Events per unit of work, at most. In the opening of an auction a pair of orders counts two units, and emits a trade,
a change and two `OrderDone`. A resting order that trades emits a trade and an `OrderDone`. An order that enters emits
an `OrderReceived`, and an `OrderOpened` or `OrderDone`.
"""

EVENTS_PER_COMMAND = 2
"""Events of a command beside those of its work, at most: for an order that was received and waits, or one that was
cancelled.
"""

COMMANDS_PER_ENTRY = 2_000
"""Commands in one log entry, at most (`native.batch_commands_max` and one request of 1,000, which is never split)."""

EVENTS_PER_ENTRY = (WORK_PER_ENTRY + MAKERS_PER_ORDER) * EVENTS_PER_UNIT + COMMANDS_PER_ENTRY * EVENTS_PER_COMMAND
"""Events of one log entry, all products together, at most. A reader's ring buffer of this size never loses an event
because of a single entry.
"""

CANCEL_AFTER_MIN = 10**9
"""The shortest life of a good-till-time order in nanoseconds: a second. The order expires shortly after its time, when
the leader proposes the next entry.
"""

CANCEL_AFTER_MAX = 366 * 86_400 * 10**9
"""The longest life of a good-till-time order in nanoseconds: a year."""

TIME_MAX = 2**63 - 1
"""The largest time of an expiry or a timer, in nanoseconds since the epoch: in the year 2262."""

LOG_TIME_MAX = TIME_MAX - CANCEL_AFTER_MAX
"""The largest time of the log, in nanoseconds since the epoch. An entry of a later time counts as one of this time. So
no time that the rules compute from it exceeds `TIME_MAX`: none is more than `CANCEL_AFTER_MAX` ahead.
"""

STREAMS = 250
"""Report streams of all accounts together. A node keeps about 5 MB of a full stream for readers that reconnect."""

STREAMS_PER_ACCOUNT = 16
"""Report streams of one account. A further one ends an inactive one (`streams`)."""

STREAMS_ACTIVE = 4
"""Active report streams of one account. Each costs one report for every event of one of the account's orders."""

NOTE_MAX = 2_000
"""Characters of a note in a report stream: the longest message of a session that is not a report."""

REMARK_MAX = 256
"""Characters of a note that the operator gives with a switch or a correction."""

VENUE_ROWS_MAX = 10_000
"""Rows of each kind that the operator sets: firms, switches, limits of products, limits of accounts and firms,
calendars' assignments.
"""

CALENDARS_MAX = 100
"""Calendars. One may have a thousand dates, and all of them are in every whole snapshot."""

CALENDAR_OFFSETS_MAX = 256
"""Changes of a time zone's offset that a calendar has: two a year for a century."""

CALENDAR_DAYS_MAX = 1_000
"""Dates of a calendar that are not as their weekday: a decade of holidays and half days."""

CALENDAR_PHASES_MAX = 16
"""Phases of a day."""

DURATION_MAX = 86_400 * 10**9
"""Nanoseconds that a halt, a call or an extension lasts at most: a day."""

EXTENSIONS_MAX = 100
"""How often the call of an auction may be extended."""

USERS_MAX = 1_000
"""Users. Each change of a user is compared with the rights of all others (about 2 milliseconds)."""

GRANTS_PER_USER = 16
"""Roles of a user, each in a scope. All of them are compared with the scope of each of the user's commands."""

KEYS_PER_USER = 16
"""API keys of a user that are not revoked."""

PROPOSALS_MAX = 100
"""Proposals that wait for consent, of all users together."""

PROPOSALS_PER_SENDER = 20
"""Proposals of one user or key that wait for consent, so that nobody fills the list alone."""

PROPOSAL_BYTES_MAX = 32 * 1024
"""Bytes of a proposed command. All proposals are in one frame of the native protocol. A calendar with more than about
400 dates is longer, and cannot be proposed.
"""

CONSENT_MIN = 60 * 10**9
"""Nanoseconds of the shortest lifetime of a proposal: a minute, in which a second person can read it."""

CONSENT_MAX = 7 * 86_400 * 10**9
"""Nanoseconds of the longest one: a week."""

MEMBERS_PER_FIRM = 50
"""Accounts of a firm. An order of a firm with limits is checked against the sum over all of them: about 20
microseconds.
"""

TIMERS_PER_ENTRY = 100
"""Timers that fire in one log entry, at most: calendar changes, ends of halts and calls. The others fire with the next
entries.
"""

RISK_LOOKS_MAX = 20_000
"""Open orders that are read to sum what an account or a firm is buying. With more of them the order is rejected."""

RISK_LOOKS_PER_UNIT = 8
"""Open orders of such a sum per unit of work. If an entry has no units left, an order that needs the sum is rejected.
"""

PPM = 1_000_000
"""Parts per million in one: the unit of fee rates."""

PPM_DIGITS = 6
"""Decimals of a rate in parts per million."""

assert 10**SCALE_MAX < AMOUNT_MAX
assert EXECUTED_MAX < 2**64
assert WORK_PER_ENTRY * 420 < 4 * 1024 * 1024  # the answer to `CancelAll` stays within one frame of the native protocol
assert STOPS_TAKEN <= OPEN_ORDERS_PER_ACCOUNT
