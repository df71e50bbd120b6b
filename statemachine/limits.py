"""Every bound of the exchange, each with its reason. Part of the rules: a change of one is a change of version."""

from __future__ import annotations

OPERATOR = "operator"
"""The account id that commands of the operator carry. It holds no money and cannot be opened."""

SCALE_MAX = 12
"""Decimal digits of a currency. Twelve lets prices of 10**-12 exist while amounts stay within AMOUNT_MAX."""

AMOUNT_MAX = 2**63 - 1
"""Largest price, size, funds, notional, balance, and sum of all money in a currency, in smallest units. The log and the
snapshots are msgpack, whose integers end at 64 bits. Since what was deposited in a currency and not withdrawn stays
within it, so does every balance and every sum of fees."""

EXECUTED_MAX = 2 * AMOUNT_MAX
"""Up to that the notionals of an order are summed up; it still fits an unsigned 64-bit field. An order may reach
AMOUNT_MAX when it enters, and again at its own price. More comes together only for a sell that trades above its price
in one auction after the other, for money that comes back to the buyers in between."""

NAME_MAX = 64
"""Characters of an account, currency, product or key name."""

COMMAND_ID_MAX = 96
"""Characters of a command id: a UUID, a prefix, and room for clients with longer ideas."""

SECRET_MAX = 256
"""Characters of an API key's secret or passphrase."""

FEE_PPM_MAX = 100_000
"""Ten per cent. Fees are never negative: rebates need a rule of their own for who pays them."""

ADDRESSES_MAX = 32
"""Networks an API key may be limited to. Each request by the key is compared with all of them."""

OUTCOMES_PER_ACCOUNT = 10_000
"""How many of an account's latest commands are remembered for retries. A bound per account, so that nobody can push
out the ids of somebody else."""

TRANSFERS_REMEMBERED = 10_000
"""How many of an account's deposits are remembered by their transfer ids, and as many withdrawals and transfers. Apart
from orders, so that no trader can push one out."""

REFUSALS_REMEMBERED = 1_000
"""How many of an account's latest commands that were refused, or found nothing to do, are remembered for retries: so
many of its transfers of each kind, and so many of all its other commands. Apart from those that changed something, so
that they push none of them out. A late copy of a refused command must not be carried out after its sender was told of
the reject; a copy is late by seconds, and an account that has more than this many refusals in that time sends nothing
but refusals."""

TRANSFER_LIFETIME = 30 * 86_400 * 10**9
"""Nanoseconds for which a transfer id is remembered at least, by the time of the log: 30 days. It is remembered for
ever while there is room; where there is none and the oldest is younger than this, further transfers of the kind are
refused. Long enough for whatever retries of its own accord."""

DONE_ORDERS_PER_ACCOUNT = 1_000
"""How many of an account's latest finished orders can still be looked up in the engine."""

OPEN_ORDERS_PER_ACCOUNT = 10_000
"""Bounds what one account can make every node carry."""

DISPLAYS_PER_ORDER = 100
"""Slices in which an iceberg is shown at most: a taker meets each as a resting order of its own."""

TRAILING_PER_PRODUCT = 1_000
"""Trailing stop orders of a product. A trade at a new high moves all of them, in the same log entry."""

DAY_NS = 86_400 * 10**9
"""Nanoseconds of a day."""

CANCEL_AFTERS_PER_ACCOUNT = 100
"""Timers of `CancelAllAfter` that an account may have set, each with another tag: as many sessions as trade at the same
time.
"""

CANCEL_ALL_AFTER_MIN = 10**9
"""Nanoseconds of the shortest `CancelAllAfter`: a second. A client's round trip and a change of the leader must fit in."""

CANCEL_ALL_AFTER_MAX = DAY_NS
"""Nanoseconds of the longest one: a day."""

MASS_CANCELS_PER_ACCOUNT = 16
"""Unfinished `CancelAll`s of an account, each with another choice of orders. More are rejected until one is through."""

WORK_PER_ENTRY = 3_000
"""Units of work after which a log entry begins nothing more. A unit is an order that enters, a resting order that it
meets, or an order that leaves on request or because its time is over: 5 to 15 microseconds of CPU in plain Python.
Orders that come after that are accepted and enter with later entries; what is left to do (stop orders to enter, an
auction to open, orders to cancel) goes on in later entries too."""

PENDING_WORK_PER_ENTRY = 1_000
"""Of these, how many the work that earlier entries left may take before the first command of an entry. So one product's
long work leaves most of every entry to the commands of the others."""

ARRIVAL_WORK = 10
"""Units of its product's unfinished work that a new order which has to wait moves on itself: more than an order takes
on average, so that what waits grows shorter also while orders keep coming."""

MAKERS_PER_ORDER = 1_000
"""How many resting orders one order may meet when it enters, its own included. What is left of it then leaves
(`DoneReason.MAKERS_MAX`), and a fill-or-kill order that would need more is not filled. An order trades whole within one
log entry, so no later order and no cancel comes between two of its trades; this bounds what that takes. Together an
entry does at most `WORK_PER_ENTRY` + `MAKERS_PER_ORDER` units, 4,000, about 50 milliseconds: a sixth of the shortest
election timeout, so no leader loses its lead over it."""

STOPS_TAKEN = 1_000
"""How many triggered stop orders are put in the order of their ids at a time, those whose stop price was passed first."""

LOOKS_PER_UNIT = 64
"""Orders that are only looked at (by a fill-or-kill order, or by `CancelAll` for one product) count one unit for so
many: a look takes 0.1 microseconds."""

LEVELS_PER_UNIT = 128
"""Price levels of an auction that are summed up for its price count one unit for so many."""

EVENTS_PER_UNIT = 4
"""Events that a unit of work tells at most: in the opening of an auction two orders that meet tell a trade, a change
and two that leave, and count two; a resting order that is met tells a trade and that it leaves; an order that enters
tells that it was received and that it rests or leaves."""

EVENTS_PER_COMMAND = 2
"""Events that a command tells at most beside those of its work: an order that was received and waits, or one that was
cancelled.
"""

COMMANDS_PER_ENTRY = 2_000
"""How many commands a leader seals into one entry at most (`native.batch_commands_max` and one request of 1,000, which
is never split).
"""

EVENTS_PER_ENTRY = (WORK_PER_ENTRY + MAKERS_PER_ORDER) * EVENTS_PER_UNIT + COMMANDS_PER_ENTRY * EVENTS_PER_COMMAND
"""Events that one log entry tells at most, all products together: a reader's ring that holds as many never loses one to
a single entry.
"""

CANCEL_AFTER_MIN = 10**9
"""Nanoseconds that a good-till-time order lives at least: a second. It leaves when the leader notices that its time is
over, a moment later.
"""

CANCEL_AFTER_MAX = 366 * 86_400 * 10**9
"""Nanoseconds that it lives at most: a year."""

TIME_MAX = 2**63 - 1
"""Largest time at which an order may leave, in nanoseconds since the epoch: in the year 2262."""

STREAMS = 250
"""Report streams of all accounts together. What a node keeps of a full one for readers that come back is some 5 MB."""

STREAMS_PER_ACCOUNT = 16
"""Report streams that one account may ever have: names are never forgotten, for their numbers must not begin anew."""

STREAMS_ACTIVE = 4
"""Report streams of one account that are told of its orders: each costs a report for every event of one of its orders."""

NOTE_MAX = 2_000
"""Characters of a note in a report stream: the longest message of a session that is no report."""

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

MEMBERS_PER_FIRM = 50
"""Accounts of a firm. An order of a firm with limits is checked against the sum over all of them: about 20
microseconds.
"""

TIMERS_PER_ENTRY = 100
"""Calendar changes, ends of halts and calls that one log entry carries out at most; the others come with the next
entries.
"""

RISK_LOOKS_MAX = 20_000
"""Open orders that are looked at to find what an account or a firm is buying. Above that the order is refused."""

RISK_LOOKS_PER_UNIT = 8
"""Of these, how many count one unit of work. Where an entry has no work left, an order that would have to be summed up
is refused.
"""

PPM = 1_000_000
"""Parts per million in one: what fee rates are counted in."""

assert 10**SCALE_MAX < AMOUNT_MAX
assert EXECUTED_MAX < 2**64
assert WORK_PER_ENTRY * 420 < 4 * 1024 * 1024  # the answer to `CancelAll` stays within one frame of the native protocol
assert STOPS_TAKEN <= OPEN_ORDERS_PER_ACCOUNT
