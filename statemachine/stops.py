"""Stop orders: they are accepted and wait off the book until a trade at their stop price triggers them.

- A stop order passes every check and gets its hold, order id and fee rates when it is placed. From then on its status
  is active.
- A trade at the stop price or below triggers a stop loss, one at the stop price or above a stop entry, of either side.
  Only trades after its placement count: an order whose stop price is passed already waits for the next trade. (If some
  triggered orders are not in the queue yet, an order that is placed in their range of prices is triggered with them.)
- The orders that the trades of one command trigger enter after that command, in the order of their ids, each like a new
  order. Their trades may trigger more, which go to the end of the queue. If there are more than `limits.STOPS_TAKEN`,
  those whose stop price was passed first are taken first.
- A stop order is not validated again when it enters: one that was placed while its product was online also enters when
  the product accepts limit or post-only orders only. In other statuses nothing trades and nothing is triggered. Orders
  that were triggered before wait until the product trades again.
- One log entry lets a bounded number enter (`limits.WORK_PER_ENTRY`). The others enter with the next entries, before
  any new order of the product.
"""

from __future__ import annotations

import msgspec

from statemachine.emit import order_activated, order_trailed
from statemachine.entities import Order, Product
from statemachine.limits import STOPS_TAKEN
from statemachine.matching import close_order
from statemachine.state import State
from statemachine.types import DoneReason, OrderStatus, Side, StopType

_ENTRY: int = StopType.ENTRY
_SELL: int = Side.SELL
_DONE: int = OrderStatus.DONE
_LINKED: int = DoneReason.LINKED


def add(state: State, product: Product, order: Order) -> None:
    """Let an accepted stop order wait for its price. O(log n)."""
    state.wait(order)
    product.stops.add(order)
    order_activated(state, product, order)


def note_prices(state: State, product: Product) -> None:
    """Record the price range of the product's latest trades, which trigger stop orders, and begin a new range."""
    if state.highest:
        low, high = state.lowest, state.highest
        product.trigger_low = min(product.trigger_low, low) if product.trigger_low else low
        product.trigger_high = max(product.trigger_high, high)
        state.lowest = state.highest = 0


def trigger(state: State, product: Product) -> bool:
    """Queue the stop orders that the product's latest trades trigger. Returns whether any can enter.

    If earlier triggered ones are not all taken yet, these come after them. O(log n + taken).
    """
    rest = product.trigger_low
    low, high = state.lowest, state.highest
    note_prices(state, product)
    if product.trigger_low and not rest:
        take_triggered(state, product)
    if high and product.stops.trailing:
        trail(state, product, low, high)
    return product.busy


def trail(state: State, product: Product, lowest: int, highest: int) -> None:
    """Move the stop prices of the trailing stop orders that trades between these two prices did not trigger. A command
    first triggers and then moves. Each move is an event and a unit of work.
    """
    for order_id in product.stops.behind(lowest, highest):
        order = state.orders[order_id]
        assert order.terms is not None, "a trailing stop order has options"
        state.touch(order)
        product.stops.remove(order)
        distance = order.terms.trail
        order.stop_price = lowest + distance if order.stop == _ENTRY else highest - distance
        product.stops.add(order)
        order_trailed(state, product, order)
        state.work += 1


def partner(state: State, order: Order) -> list[Order]:
    """Return the open order with which an order is linked (`linked`) in a list. The list is empty if there is none."""
    linked = state.orders.get(order.terms.link) if order.terms is not None and order.terms.link else None
    return [linked] if linked is not None and linked.status != _DONE else []


def unlink(state: State, order: Order) -> None:
    """Cancel the partner of an order that traded, was decremented by self-trade prevention, was triggered, or is done."""
    terms = order.terms
    if terms is None or not terms.link:
        return
    if order.remaining == order.size and not order.queued and order.status != _DONE:
        return
    partner = state.orders.get(terms.link)
    order.terms = msgspec.structs.replace(terms, link=0)
    if partner is not None and partner.status != _DONE and partner.terms is not None:
        state.touch(partner)
        partner.terms = msgspec.structs.replace(partner.terms, link=0)
        close_order(state, partner, _LINKED)


def take_triggered(state: State, product: Product) -> None:
    """Queue the next stop orders that the recorded trades trigger, at most twice `limits.STOPS_TAKEN`, and remove them
    from the waiting ones. O(log n + taken).
    """
    while state.unlinked < len(state.noted):
        state.unlinked += 1
        unlink(state, state.noted[state.unlinked - 1])
    taken = product.stops.take(product.trigger_low, product.trigger_high, STOPS_TAKEN)
    for order_id in taken:
        order = state.orders[order_id]
        state.touch(order)
        order.queued = state.place_in_queue()
        product.triggered[order_id] = order
        if product.stops.trailing:
            product.stops.forget(order)
        if order.terms is not None and order.terms.link:
            unlink(state, order)
            state.set_hold(order, order.size if order.side == _SELL else product.hold_for(order))
    state.work += len(taken) // 8
    if not product.stops.triggers(product.trigger_low, product.trigger_high):
        product.trigger_low = product.trigger_high = 0
    if product.triggered:
        state.set_busy(product)
