"""Trading phases: products follow their trading calendars by the log's time.

- A product follows its own calendar, or else that of its group, or else that of the venue, or none.
- A phase is a status: closed and halted are cancel-only, pre-open and the calls of auctions are the status auction,
  continuous is online. At the end of a call its auction opens at one price, even if the product is closed afterwards.
- A status that the operator sets overrides the calendar until the operator lets the product follow it again
  (`commands.FollowCalendar`), even if it is the status that the product has already.
- The end of a call is delayed by a random time of up to `random_ns` (`chance`). If the indicative price moves late, the
  call is extended.
- If the time jumps over phases, the product enters only the last of them, even if it is of the same kind as the phase
  before the jump. An auction whose call was in progress opens first.

Sources: Xetra, "Market model equities": phases, random end, volatility interruption in auctions; London Stock Exchange,
"Guide to the trading system": price monitoring extension; Nasdaq's net order imbalance indicator for the events during
a call.
"""

from __future__ import annotations

import msgspec

from statemachine import answer, auctions, calendar, statuses, timers, volatility
from statemachine.chance import draw
from statemachine.commands import FollowCalendar, PutCalendar, PutGroup, SetCalendar
from statemachine.emit import auction_indicated
from statemachine.entities import Product
from statemachine.entry import is_name
from statemachine.limits import CALENDARS_MAX, DAY_NS, PPM, SECOND_NS, VENUE_ROWS_MAX
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import CalendarRow, FollowsRow, GroupRow, PhaseRow, TimerRow
from statemachine.types import Phase, ProductStatus, Reason, Scope, StatusCause, Timer

_AUCTION: int = ProductStatus.AUCTION
_CALLS = (Phase.AUCTION, Phase.CLOSING_AUCTION)
_STATUS = {
    Phase.CLOSED: ProductStatus.CANCEL_ONLY,
    Phase.PRE_OPEN: ProductStatus.AUCTION,
    Phase.AUCTION: ProductStatus.AUCTION,
    Phase.CONTINUOUS: ProductStatus.ONLINE,
    Phase.CLOSING_AUCTION: ProductStatus.AUCTION,
    Phase.HALTED: ProductStatus.CANCEL_ONLY,
}
_SCOPES = (Scope.VENUE, Scope.GROUP, Scope.PRODUCT)


def put_calendar(state: State, command: PutCalendar) -> Reject | None:
    """Add or replace a calendar. Products that follow it read it again."""
    reject = calendar.check(command)
    if reject is not None:
        return reject
    rows = state.records["calendar"]
    before = rows.get(command.calendar_id)
    if before is None and len(rows) >= CALENDARS_MAX:
        return Reject(Reason.TOO_MANY_RULES, "calendar_id", f"at most {CALENDARS_MAX} calendars")
    row = CalendarRow(*(getattr(command, field) for field in CalendarRow.__struct_fields__))
    if row != before:
        rows.put(row)
        for product in _in_order(state):
            if calendar_id_of(state, product) == row.calendar_id:
                follow(state, product)
    answer.done(state, row != before)
    return None


def set_calendar(state: State, command: SetCalendar) -> Reject | None:
    """Let a product, a group or the venue follow another calendar."""
    scope, name = command.scope, command.name
    if scope not in _SCOPES:
        return Reject(Reason.INVALID_SCOPE, "scope", "expected the venue, a group or a product")
    if bool(name) is (scope == Scope.VENUE) or (name and not is_name(name)):
        return Reject(Reason.INVALID_SCOPE, "name", "expected the name of a group or product, and none for the venue")
    if scope == Scope.PRODUCT and name not in state.products:
        return Reject(Reason.UNKNOWN_PRODUCT, "name", "no such product")
    if command.calendar_id and state.records["calendar"].get(command.calendar_id) is None:
        return Reject(Reason.UNKNOWN_CALENDAR, "calendar_id", "no such calendar")
    rows, key = state.records["follows"], (scope, name)
    before = rows.get(*key)
    if before is None and command.calendar_id and len(rows) >= VENUE_ROWS_MAX:
        return Reject(Reason.TOO_MANY_RULES, "name", f"at most {VENUE_ROWS_MAX} follow calendars")
    changed = (before.calendar_id if before is not None else "") != command.calendar_id
    followed = [(product, calendar_id_of(state, product)) for product in _in_order(state)] if changed else []
    if command.calendar_id:
        rows.put(FollowsRow(scope, name, command.calendar_id))
    elif before is not None:
        rows.remove(*key)
    for product, calendar_id in followed:
        if calendar_id_of(state, product) != calendar_id:
            follow(state, product)
    answer.done(state, changed)
    return None


def put_group(state: State, command: PutGroup) -> Reject | None:
    """Put a product into a group."""
    product = state.products.get(command.product_id)
    if product is None:
        return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
    if command.group_id and not is_name(command.group_id):
        return Reject(Reason.INVALID_ID, "group_id", "expected a name")
    rows = state.records["group"]
    before, followed = rows.get(command.product_id), calendar_id_of(state, product)
    if command.group_id:
        rows.put(GroupRow(command.product_id, command.group_id))
    elif before is not None:
        rows.remove(command.product_id)
    if calendar_id_of(state, product) != followed:
        follow(state, product)
    answer.done(state, (before.group_id if before is not None else "") != command.group_id)
    return None


def follow_again(state: State, command: FollowCalendar) -> Reject | None:
    """Let a product whose status was set by hand follow its calendar again, from the next log entry on."""
    if command.product_id not in state.products:
        return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
    row = state.records["phase"].get(command.product_id)
    if row is None:
        return Reject(Reason.UNKNOWN_CALENDAR, "product_id", "the product follows no calendar")
    if row.by_hand:
        state.records["phase"].remove(row.product_id)
        follow(state, state.products[row.product_id])
    answer.done(state, row.by_hand)
    return None


def calendar_of(state: State, product: Product) -> CalendarRow | None:
    """Return the calendar that a product follows."""
    calendar_id = calendar_id_of(state, product)
    found: CalendarRow | None = state.records["calendar"].get(calendar_id) if calendar_id else None
    return found


def calendar_id_of(state: State, product: Product) -> str:
    """Return the name of the calendar that a product follows, "" if it follows none."""
    group = state.records["group"].get(product.product_id)
    follows = state.records["follows"]
    for key in (
        (Scope.PRODUCT, product.product_id),
        (Scope.GROUP, group.group_id if group is not None else ""),
        (Scope.VENUE, ""),
    ):
        row: FollowsRow | None = follows.get(*key)
        if row is not None:
            return row.calendar_id
    return ""


def session_end(state: State, product: Product) -> int:
    """Return the time at which an order that is good for a day leaves, in nanoseconds since the epoch.

    It is the next end of a session in the product's calendar, or the next midnight in its time zone if no session ends
    within a day, or the next midnight in UTC if the product follows no calendar. If the call of an auction ends the
    session, the time is one second after its latest possible end, so that the order takes part. Later changes of the
    calendar do not change the time. O(phases of a day).
    """
    found = calendar_of(state, product)
    if found is None:
        return (state.time // DAY_NS + 1) * DAY_NS
    end = calendar.session_end(found, state.time // SECOND_NS)
    at = end.second * SECOND_NS
    if end.phase in _CALLS:
        at += found.random_ns + found.extensions_max * (found.extension_ns + found.random_ns) + SECOND_NS
    return at


def _in_order(state: State) -> list[Product]:
    return [product for _, product in sorted(state.products.items())]


def follow(state: State, product: Product) -> None:
    """Update a product after its calendar changed. It reads the calendar with the next log entry, or follows none.

    The call of an auction that is under way ends when the new calendar says so: it loses its extension and its random
    end. So this is not done for a product whose calendar is the same as before.
    """
    rows, name = state.records["phase"], product.product_id
    row = rows.get(name)
    if calendar_of(state, product) is None:
        if row is not None:
            rows.remove(name)
            timers.remove(state, Timer.PHASE, name, "")
        return
    now = max(state.time, 1)
    if row is None:
        _put(state, PhaseRow(name, ends_at=now))
    else:  # a price that was noted for the old end says nothing about the new one
        _put(state, msgspec.structs.replace(row, ends_at=now, note_at=0, noted_price=0))


def is_moved(state: State, product: Product) -> bool:
    """Return whether the product's status will change automatically: it follows a calendar, or the price collar
    interrupted it.
    """
    row = state.records["phase"].get(product.product_id)
    return (row is not None and not row.by_hand) or state.records["interruption"].get(product.product_id) is not None


def by_hand(state: State, product: Product) -> None:
    """Record that the operator set the product's status. The status stays, and an interruption ends."""
    volatility.end(state, product)
    row = state.records["phase"].get(product.product_id)
    if row is not None and not row.by_hand:
        state.records["phase"].put(msgspec.structs.replace(row, by_hand=True))


def _put(state: State, row: PhaseRow) -> None:
    """Store the phase of a product, and set the timer for its next moment."""
    state.records["phase"].put(row)
    at = min(time for time in (row.ends_at, row.note_at, row.imbalance_at) if time)
    timers.put(state, Timer.PHASE, row.product_id, "", at)


def _due(state: State, timer: TimerRow) -> None:
    """Handle the timer of a product's session."""
    product, row = state.products[timer.subject], state.records["phase"].get(timer.subject)
    assert row is not None, "a timer without a phase"
    calendar_row = calendar_of(state, product)
    assert calendar_row is not None, "a phase without a calendar"
    collects = product.status == _AUCTION
    if row.imbalance_at and row.imbalance_at <= state.time:
        if collects:
            _indicate(state, product, auctions.look(state, product), False)
        row = msgspec.structs.replace(
            row, imbalance_at=state.time + calendar_row.imbalance_ns if calendar_row.imbalance_ns else 0
        )
    if row.note_at and row.note_at <= state.time:
        row = msgspec.structs.replace(row, note_at=0, noted_price=auctions.look(state, product).price if collects else 0)
    if row.ends_at <= state.time:
        if product.opening:
            row = msgspec.structs.replace(row, ends_at=state.time + 1)
        else:
            row = _extended(state, product, row, calendar_row) or _entered(state, product, row, calendar_row)
    _put(state, row)


def _indicate(state: State, product: Product, found: auctions.Indication, extended: bool) -> None:
    auction_indicated(state, product, found.price, found.size, found.surplus, product.until, extended)


def _extended(state: State, product: Product, row: PhaseRow, found: CalendarRow) -> PhaseRow | None:
    """Return the extended call, if the price moved late, or None."""
    if row.by_hand or not row.noted_price or row.extensions >= found.extensions_max or product.status != _AUCTION:
        return None
    indication = auctions.look(state, product)
    if not indication.size or abs(indication.price - row.noted_price) * PPM <= found.late_ppm * row.noted_price:
        return None
    product.until = state.time + found.extension_ns
    _indicate(state, product, indication, True)
    ends_at = product.until + draw(state, f"extension {product.product_id} {product.sequence}", found.random_ns)
    note_at = max(state.time + 1, ends_at - found.late_ns)
    return msgspec.structs.replace(row, ends_at=ends_at, note_at=note_at, noted_price=0, extensions=row.extensions + 1)


def _entered(state: State, product: Product, row: PhaseRow, found: CalendarRow) -> PhaseRow:
    """Move the product to the current phase of its calendar."""
    now = calendar.now(found, state.time)
    until = ends_at = now.until * SECOND_NS
    note_at = imbalance_at = 0
    if now.phase in _CALLS:
        ends_at += draw(state, f"auction {product.product_id} {product.sequence}", found.random_ns)
        note_at = max(state.time + 1, ends_at - found.late_ns) if found.late_ns and found.extensions_max else 0
        imbalance_at = state.time + found.imbalance_ns if found.imbalance_ns else 0
    again = now.since * SECOND_NS > row.ends_at  # it ended, and began again
    if not row.by_hand and (row.phase != now.phase or again or not row.entered):
        volatility.end(state, product)
        crosses = row.entered and row.phase in _CALLS
        statuses.change(state, product, _STATUS[now.phase], StatusCause.CALENDAR, until, cross=crosses)
    return PhaseRow(row.product_id, now.phase, ends_at, note_at, 0, 0, imbalance_at, row.by_hand, True)


timers.HANDLERS[Timer.PHASE] = _due
