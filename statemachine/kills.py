"""The operator's switches: a kill switch, and trading off by side, for the venue, a firm, an account or a product.

- While the kill switch of a scope is on, no order of the scope enters, and all open ones are cancelled, over as many
  log entries as needed (`limits.WORK_PER_ENTRY` with the command, `limits.PENDING_WORK_PER_ENTRY` with each later
  entry, before all other unfinished work). Traders can still cancel.
- All orders are cancelled, also those of offline products, and waiting stop orders. While an auction of a product
  opens, the orders of that product stay; they are cancelled afterwards.
- The switch stays on until the operator changes it. The operator cannot change it while orders are still being
  cancelled, because the remaining orders could trade then.
- An order that was accepted before and is queued (`pending`) is cancelled at its turn, if trading is switched off for
  it by then.

Source: Commission Delegated Regulation (EU) 2017/584 (RTS 7), article 18(2)(b) and (c): a venue can suspend a member's
access, and has a kill functionality.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

import msgspec

from statemachine import access, answer
from statemachine.book import BookSide
from statemachine.commands import PutFirm, PutMember, SetSwitches
from statemachine.emit import trading_switched
from statemachine.entities import Account, Order, Product
from statemachine.entry import is_name
from statemachine.limits import EVENTS_PER_UNIT, LOOKS_PER_UNIT, MEMBERS_PER_FIRM, REMARK_MAX, VENUE_ROWS_MAX
from statemachine.matching import close_order
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.switches import firm_of
from statemachine.tables import FirmMemberRow, FirmRow, SwitchRow
from statemachine.types import DoneReason, Opening, OrderStatus, Reason, Scope, Switch

_KILL: int = Switch.KILL
_KILLED: int = DoneReason.KILLED
_MEETING: int = Opening.MEETING
_DONE: int = OrderStatus.DONE
_ALL = sum(Switch)
_SCOPES = (Scope.VENUE, Scope.FIRM, Scope.ACCOUNT, Scope.PRODUCT)


def put_firm(state: State, command: PutFirm) -> Reject | None:
    """Add a firm."""
    firms = state.records["firm"]
    if not is_name(command.firm_id):
        return Reject(Reason.INVALID_ID, "firm_id", "expected a name")
    new = firms.get(command.firm_id) is None
    if new and len(firms) >= VENUE_ROWS_MAX:
        return Reject(Reason.TOO_MANY_RULES, "firm_id", f"at most {VENUE_ROWS_MAX} firms")
    if new:
        firms.put(FirmRow(command.firm_id))
    answer.done(state, new)
    return None


def put_member(state: State, command: PutMember) -> Reject | None:
    """Assign an account to a firm, or to none."""
    if command.member_id not in state.accounts:
        return Reject(Reason.UNKNOWN_ACCOUNT, "member_id", "no such account")
    if command.firm_id and state.records["firm"].get(command.firm_id) is None:
        return Reject(Reason.UNKNOWN_FIRM, "firm_id", "no such firm")
    before = firm_of(state, command.member_id)
    if before == command.firm_id:
        answer.done(state, False)
        return None
    if (Scope.FIRM, before) in state.killing:
        return Reject(Reason.KILL_UNDER_WAY, "member_id", f"the kill switch of {before} still cancels orders")
    if command.firm_id and len(state.members.get(command.firm_id, ())) >= MEMBERS_PER_FIRM:
        return Reject(Reason.FIRM_TOO_LARGE, "firm_id", f"at most {MEMBERS_PER_FIRM} accounts a firm")
    members = state.records["firm_member"]
    state.keys_put += access.keys_of_firms(state, (before, command.firm_id))
    if before:
        del state.members[before][command.member_id]
    if command.firm_id:
        members.put(FirmMemberRow(command.member_id, command.firm_id))
        state.members.setdefault(command.firm_id, {})[command.member_id] = None
        _begin_kill(state, Scope.FIRM, command.firm_id)
    else:
        members.remove(command.member_id)
    answer.done(state, True)
    return None


def set_switches(state: State, command: SetSwitches) -> Reject | None:
    """Set the switches of a scope. A kill switch begins to cancel at once."""
    reject = _admit(state, command)
    if reject is not None:
        return reject
    rows, key = state.records["switch"], (command.scope, command.name)
    before: SwitchRow | None = rows.get(*key)
    if (before.switches if before is not None else 0) == command.switches:
        adopted = False
        if before is not None and state.by_venue and not before.by_venue:
            rows.put(msgspec.structs.replace(before, by_venue=True, set_by=state.sender))
            adopted = True  # from now on nobody with a narrower scope switches on again
        answer.switched(state, adopted, 0, key in state.killing)
        return None
    if command.switches:
        cancelling = key in state.killing
        by_venue = state.by_venue or (before is not None and before.by_venue)
        origin = (command.note, state.time, cancelling, state.sender, by_venue)
        rows.put(SwitchRow(command.scope, command.name, command.switches, *origin))
    else:
        rows.remove(*key)
    state.guard()
    _emit(state, command)
    open_before = len(state.orders) - state.done_count
    if command.switches & _KILL:
        _begin_kill(state, command.scope, command.name)
    answer.switched(state, True, open_before - (len(state.orders) - state.done_count), key in state.killing)
    return None


def _admit(state: State, command: SetSwitches) -> Reject | None:
    """Check a change of switches. Returns the reject, or None."""
    if not 0 <= command.switches <= _ALL:
        return Reject(Reason.INVALID_SWITCHES, "switches", f"expected 0 to {_ALL}")
    if len(command.note) > REMARK_MAX:
        return Reject(Reason.INVALID_ID, "note", f"expected at most {REMARK_MAX} characters")
    scope, name = command.scope, command.name
    if scope not in _SCOPES:
        return Reject(Reason.INVALID_SCOPE, "scope", "expected the venue, a firm, an account or a product")
    if scope == Scope.VENUE and name:
        return Reject(Reason.INVALID_SCOPE, "name", "the venue has no name")
    if scope == Scope.FIRM and state.records["firm"].get(name) is None:
        return Reject(Reason.UNKNOWN_FIRM, "name", "no such firm")
    if scope == Scope.ACCOUNT and name not in state.accounts:
        return Reject(Reason.UNKNOWN_ACCOUNT, "name", "no such account")
    if scope == Scope.PRODUCT and name not in state.products:
        return Reject(Reason.UNKNOWN_PRODUCT, "name", "no such product")
    if (scope, name) in state.killing and not command.switches & _KILL:
        return Reject(Reason.KILL_UNDER_WAY, "switches", "the kill switch still cancels orders")
    rows = state.records["switch"]
    before = rows.get(scope, name)
    if before is None and len(rows) >= VENUE_ROWS_MAX:
        return Reject(Reason.TOO_MANY_RULES, "name", f"at most {VENUE_ROWS_MAX} scopes have switches")
    if before is not None and before.by_venue and not state.by_venue and before.switches & ~command.switches:
        return Reject(Reason.LOOSENED, "switches", "the operator of the venue has set them: more may be switched off, none on")
    return None


def _emit(state: State, command: SetSwitches) -> None:
    """Emit the switches in the public feeds of their products. The switches of accounts and firms are private."""
    if command.scope == Scope.PRODUCT:
        trading_switched(state, state.products[command.name], command.scope, command.switches, command.note)
    elif command.scope == Scope.VENUE:
        state.work += len(state.products) // EVENTS_PER_UNIT
        for _, product in sorted(state.products.items()):
            trading_switched(state, product, command.scope, command.switches, command.note)


def _begin_kill(state: State, scope: Scope, name: str) -> None:
    """Begin to cancel the open orders of a killed scope."""
    row = state.records["switch"].get(scope, name)
    if row is not None and row.switches & _KILL:
        _set_cancelling(state, row, True)
        cancel_on(state, state.work_max)


def _set_cancelling(state: State, row: SwitchRow, cancelling: bool) -> None:
    """Record whether the orders of a kill switch are still being cancelled."""
    state.records["switch"].put(msgspec.structs.replace(row, cancelling=cancelling))
    if cancelling:
        state.killing[row.scope, row.name] = None
    else:
        del state.killing[row.scope, row.name]


def cancel_on(state: State, limit: int) -> None:
    """Continue the cancels of kill switches, until the entry has done `limit` units of work."""
    for scope, name in sorted(state.killing):
        if state.work >= limit:
            return
        left = False
        if scope in (Scope.ACCOUNT, Scope.FIRM):
            for account_id in sorted(state.members.get(name, ())) if scope == Scope.FIRM else [name]:
                left |= _cancel_of_account(state, state.accounts[account_id], limit)
        else:
            for product_id in [name] if name else sorted(state.products):
                left |= _cancel_of_product(state, state.products[product_id], limit)
            state.work += len(state.products) // LOOKS_PER_UNIT if not name else 0
        if not left:
            row = state.records["switch"].get(scope, name)
            assert row is not None, "a scope that cancels has switches"
            _set_cancelling(state, row, False)


def _cancel_of_account(state: State, account: Account, limit: int) -> bool:
    """Cancel the account's open orders, oldest first, within the work limit. Returns whether some are left."""
    room = max(limit - state.work, 0)
    orders: list[Order] = []
    looks, left = 0, False
    order = account.oldest
    while order is not None and len(orders) <= room:
        looks += 1
        if order.product.opening == _MEETING:
            left = True
        else:
            orders.append(order)
        order = order.newer
    _kill(state, orders[:room])
    state.work += looks // LOOKS_PER_UNIT
    return left or len(orders) > room


def _cancel_of_product(state: State, product: Product, limit: int) -> bool:
    """Cancel all orders of a product within the work limit: best prices first, then the waiting ones. Returns whether
    some are left.
    """
    if product.opening == _MEETING:
        return True
    room = max(limit - state.work, 0)
    everywhere = chain(
        chain.from_iterable(_on_side(side) for side in (product.bids, product.asks, product.buys, product.sells)),
        (state.orders[order_id] for _, _, order_id in product.stops.waiting()),
        product.triggered.values(),
        product.arrivals.values(),
    )
    orders = list(islice(everywhere, room + 1))
    _kill(state, orders[:room])
    return len(orders) > room


def _on_side(side: BookSide) -> Iterator[Order]:
    """Iterate over the orders of a side without a copy, because a level may have a million."""
    for level in side.in_order():
        order = level.first
        while order is not None:
            yield order
            order = order.behind


def _kill(state: State, orders: list[Order]) -> None:
    for order in orders:
        if order.status != _DONE:  # the cancel of a linked order may have removed it
            state.touch(order)
            close_order(state, order, _KILLED)
