"""Amending an open order. A smaller size keeps the place in time; any other change puts the order at the end of the
queue. Also the checks of a replacement.

The rules follow what exchanges publish (FIX 5.0 SP2, OrderCancelReplaceRequest; Nasdaq OUCH 5.0, "Replace Order" and
"Cancel Order"; CME Globex, "Order modification": a decrease in quantity keeps priority, an increase or another price
loses it):

- The new size includes what is filled. If nothing remains, the order is done, as cancelled.
- A size alone with which no more remains than before keeps the place in time, in every status in which orders may be
  cancelled. The hold shrinks with it. (After self-trade prevention has decremented an order, less may remain than its
  size says.)
- Another price, another stop price or more size is a new arrival under the same id: it is checked as one (status,
  numbers, self-trade in an auction, post-only), at the end of the queue of its price, and trades at once if it crosses.
  What the order held counts as available. Its fee rates, its time in force and its filled size stay. A triggered stop
  order becomes a plain order.
- It may get another `client_oid`, which alone changes nothing else.
- While its product has unfinished work, the order waits for its turn like a new one.
- Everything is checked before anything changes. A rejected command leaves the order in its place.
"""

from __future__ import annotations

from statemachine import auctions, guards, pending, stops
from statemachine.commands import AmendOrder, ReplaceOrder
from statemachine.emit import order_amended
from statemachine.entities import Account, Cancelling, Order, Placing, Product
from statemachine.entry import is_command_id
from statemachine.limits import DISPLAYS_PER_ORDER
from statemachine.matching import close_order, detach, match
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.types import DoneReason, OrderStatus, OrderType, ProductStatus, Reason, Side
from statemachine.validation import (
    bad_command_id,
    cancel_order,
    check_limit_numbers,
    check_size,
    check_status,
    check_stop,
    place_order,
)

_OPEN: int = OrderStatus.OPEN
_ACTIVE: int = OrderStatus.ACTIVE
_DONE: int = OrderStatus.DONE
_LIMIT: int = OrderType.LIMIT
_AUCTION: int = ProductStatus.AUCTION
_ONLINE: int = ProductStatus.ONLINE
_BUY: int = Side.BUY
_CANCELLED: int = DoneReason.CANCELLED


def find(state: State, account: Account, command: AmendOrder | ReplaceOrder) -> Reject | Order:
    """Return the order that a command names, or the reject if it can be neither cancelled nor amended."""
    naming = Cancelling()
    naming.take(command)
    return cancel_order(state, account, naming)


def amend(state: State, account: Account, order: Order, command: AmendOrder) -> Reject | None:
    """Amend an open order that may be cancelled. Returns the reject if it may not be amended. The caller has recorded
    the account (`Changes.touch`).
    """
    product = order.product
    reject = _shape(order, command) or _name(account, order, command.new_client_oid)
    if reject is not None:
        return reject
    name = command.new_client_oid
    price, stop_price = command.price or order.price, command.stop_price or order.stop_price
    whole = order.remaining + order.reserve
    remaining = command.size - order.filled_size if command.size else whole
    moves = price != order.price or stop_price != order.stop_price
    size = command.size or order.size
    if not moves and remaining == whole and size == order.size:
        if name and name != order.client_oid:
            _touch(state, account, order, name)
            order_amended(state, product, order, order.price, order.remaining, order.status == _OPEN, False)
        else:
            state.unchanged = True
        return None
    if not moves and remaining <= whole:
        reject = check_size(product, size) if remaining > 0 else None
        if reject is None:
            _touch(state, account, order, name)
            _decrease(state, product, order, size, max(remaining, 0))
        return reject
    changed = _as_placed(order, price, size, stop_price)
    reject = _numbers(product, changed) or _slices(order, size)
    if reject is None and state.guarded:
        reject = guards.check(state, product, account, changed, order)
    reject = reject or _entering(state, account, product, changed)
    if reject is not None:
        return reject
    if order.size and remaining <= 0:
        _touch(state, account, order, name)
        close_order(state, order, _CANCELLED)
        return None
    reject = _funds(state, product, order, price, remaining)
    if reject is None:
        _touch(state, account, order, name)
        _requeue(state, product, order, changed, remaining)
    return reject


def _shape(order: Order, command: AmendOrder) -> Reject | None:
    """Check that the order has the fields that the command changes."""
    if command.size < 0:
        return Reject(Reason.INVALID_SIZE, "size", "expected more than 0, or 0 to leave it")
    if command.price < 0:
        return Reject(Reason.INVALID_PRICE, "price", "expected more than 0, or 0 to leave it")
    if command.stop_price < 0:
        return Reject(Reason.INVALID_STOP, "stop_price", "expected more than 0, or 0 to leave it")
    if order.terms is not None and order.terms.link:
        return Reject(Reason.NOT_AMENDABLE, "order_id", "the order is one of a pair: cancel it, and place another pair")
    waits = order.stop and order.status == _ACTIVE
    if waits and order.queued:
        return Reject(Reason.NOT_AMENDABLE, "order_id", "the stop order was triggered")
    if command.size and order.size == 0:
        return Reject(Reason.NOT_AMENDABLE, "size", "the order has funds and no size")
    if command.price and order.order_type != _LIMIT:
        return Reject(Reason.NOT_AMENDABLE, "price", "a market order has no price")
    if command.stop_price and not waits:
        return Reject(Reason.NOT_AMENDABLE, "stop_price", "only a stop order that waits has one")
    return None


def _name(account: Account, order: Order, name: str) -> Reject | None:
    """Check the order's new `client_oid`."""
    if not name or name == order.client_oid:
        return None
    if not is_command_id(name):
        return bad_command_id("new_client_oid", Reason.INVALID_ID)
    known = account.by_client_oid.get(name)
    return Reject(Reason.COMMAND_ID_REUSED, "new_client_oid", f"order {known.order_id} has it") if known is not None else None


def _touch(state: State, account: Account, order: Order, name: str) -> None:
    """Record that the order changes, and give it its new `client_oid`, if there is one."""
    state.changes.touch_order(order)
    _rename(account, order, name)


def _rename(account: Account, order: Order, name: str) -> None:
    """Give the order another `client_oid`. An earlier order that is done may then be the latest one with the old."""
    old = order.client_oid
    if not name or name == old:
        return
    if old:
        del account.by_client_oid[old]
        earlier = next((done for done in reversed(list(account.done)) if done.client_oid == old), None)
        if earlier is not None:
            account.by_client_oid[old] = earlier
    order.client_oid = name
    account.by_client_oid[name] = order


def _as_placed(order: Order, price: int, size: int, stop_price: int) -> Placing:
    """Return the fields of a command that would place the order with its new price, sizes and stop price."""
    changed = Placing()
    changed.product_id = order.product.product_id
    changed.side = order.side
    changed.order_type = order.order_type
    changed.price, changed.size, changed.funds = price, size, order.funds
    changed.time_in_force = order.time_in_force
    changed.post_only = order.post_only
    changed.stp = order.stp
    if order.status == _ACTIVE:
        changed.stop, changed.stop_price = order.stop, stop_price
    return changed


def _numbers(product: Product, changed: Placing) -> Reject | None:
    """Check the new numbers of an order against the product's bounds."""
    if changed.order_type == _LIMIT:
        reject = check_limit_numbers(product, changed)
    else:
        reject = check_size(product, changed.size) if changed.size else None
    return reject or (check_stop(product, changed) if changed.stop else None)


def _slices(order: Order, size: int) -> Reject | None:
    """Check that an iceberg shows no more slices than a new one may have."""
    display = order.terms.display_size if order.terms is not None else 0
    if not display or size <= display * DISPLAYS_PER_ORDER:
        return None
    return Reject(Reason.INVALID_SIZE, "size", f"expected at most {DISPLAYS_PER_ORDER} times the display_size, {display}")


def _entering(state: State, account: Account, product: Product, changed: Placing) -> Reject | None:
    """Check whether such an order may enter now."""
    reject = check_status(product, changed) if product.status != _ONLINE else None
    if reject is not None or changed.stop:
        return reject
    if changed.post_only and product.opposite(changed.side).crosses(changed.price):
        return Reject(Reason.POST_ONLY_WOULD_TAKE, "price", "the order would trade at once")
    return auctions.check_own(state, account, product, changed.side, changed.price) if product.status == _AUCTION else None


def _needed(product: Product, order: Order, price: int, remaining: int) -> int:
    """Return the amount that the order would hold with these numbers. The order does not change: a snapshot may be
    reading it in another thread.
    """
    if order.order_type == _LIMIT:
        return product.hold_at(order, price, remaining)
    return order.hold if order.side == _BUY else remaining


def _funds(state: State, product: Product, order: Order, price: int, remaining: int) -> Reject | None:
    """Check that the account can pay for the order with its new numbers."""
    needed, available = _needed(product, order, price, remaining), state.paying(order).available + order.hold
    if needed <= available:
        return None
    return Reject(Reason.INSUFFICIENT_FUNDS, "size", f"{needed} needed, {available} available")


def _decrease(state: State, product: Product, order: Order, size: int, remaining: int) -> None:
    """Reduce the size; the order keeps its place in time. The caller has recorded the order (`Changes.touch_order`)."""
    if not remaining:
        close_order(state, order, _CANCELLED)
        return
    state.work += 1
    before, hold = order.remaining, _needed(product, order, order.price, remaining)
    shown = min(before, remaining)
    if order.level is not None:
        side = product.side(order.side) if order.status == _OPEN else product.collected(order.side)
        side.reduce(order, before - shown)
        order.level.hidden += remaining - shown - order.reserve
    order.size, order.remaining, order.reserve = size, shown, remaining - shown
    state.set_hold(order, hold)
    order_amended(state, product, order, order.price, before, order.status == _OPEN, False)


def _requeue(state: State, product: Product, order: Order, changed: Placing, remaining: int) -> None:
    """Let the order enter again, with its new numbers. The caller has recorded the order (`Changes.touch_order`)."""
    hold = _needed(product, order, changed.price, remaining)
    price, before, resting = order.price, order.remaining, order.status == _OPEN
    detach(product, order)
    order.price, order.size, order.remaining, order.reserve = changed.price, changed.size, remaining, 0
    order.stop, order.stop_price = changed.stop, changed.stop_price
    order.opened_sequence = 0
    state.set_hold(order, hold)
    order_amended(state, product, order, price, before, resting, True)
    if order.stop:
        product.stops.add(order)
        state.work += 1
    elif product.busy or state.work >= state.work_max:
        pending.put_in_queue(state, product, order)
    elif product.status == _AUCTION:
        order.status = _ACTIVE
        auctions.add(state, product, order)
    else:
        order.status = _OPEN
        filled = order.filled_size
        state.lowest = state.highest = 0
        match(state, product, order)
        if order.filled_size > filled and product.stops.count and stops.trigger(state, product):
            pending.work_on(state, product, state.work_max)


def admit_replacement(state: State, account: Account, old: Order, new: Placing) -> Reject | None:
    """Check whether an order may enter in place of another one of its account. The check changes the orders that leave
    and restores them, so they are recorded (`Changes.touch_order`).

    The check sees the account without the old order and its partner (`linked`), and with what they hold as available. A
    post-only order must not cross the old order either.
    """
    leaving = [old, *stops.partner(state, old)]
    collected = next((order for order in leaving if order.status == _ACTIVE and not order.stop and not order.queued), None)
    paying, holds, statuses = state.paying(old), [order.hold for order in leaving], [order.status for order in leaving]
    for order in leaving:
        state.changes.touch_order(order)
        order.status = _DONE
    paying.unhold(sum(holds))
    account.open_count -= len(leaving)
    reject = place_order(state, account, new)
    product = state.products.get(new.product_id)
    if reject is None and product is not None and product.status == _AUCTION and not new.stop:
        reject = auctions.check_own(state, account, product, new.side, new.price, collected)
    for order, status in zip(leaving, statuses, strict=True):
        order.status = status
    account.open_count += len(leaving)
    paying.lock(sum(holds))
    return reject
