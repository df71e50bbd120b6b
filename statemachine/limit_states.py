"""Limit states: orders rest at the price collar for some time before trading is interrupted.

A product whose limits have a time `limit_ns` has them. Then:

- An order that would rest at a price outside the collar, a buy above it or a sell below it, rests at the collar instead
  (`ChangeReason.REPRICED`), at the nearest multiple of the tick inside. That is its price from then on. A buy gives back
  what it held above. This begins a limit state of the order's side, if there is none.
- What may not rest is cancelled (`DoneReason.COLLARED`) and begins nothing: the remainder of a market order, an
  immediate-or-cancel order, an order that is one of a pair, and an order whose notional at the collar is too large.
- In a limit state trading continues. The collar stays, whatever trades.
- The limit state is left as soon as no order of its side rests at the collar: all were traded, cancelled or expired. That
  is checked after each command, and before the halt or the call would begin. It also ends when the product's limits no longer have a `limit_ns`.
- If it is not left within `limit_ns`, the halt or the call begins (`volatility`). A status that the operator sets, or a
  phase that the calendar begins, ends it.
- A next trade that is outside the collar on its other side, because resting orders are, interrupts at once.

Source: Plan to Address Extraordinary Market Volatility (US National Market System, limit up and limit down), sections
VI(A) and VI(B): no trade outside the bands, quotes at a band begin a limit state, it is left when all of them were
executed or cancelled within 15 seconds, the bands stay in it; section VII: else a trading pause follows.
"""

from __future__ import annotations

from statemachine import statuses, timers
from statemachine.book import BookSide
from statemachine.emit import order_repriced
from statemachine.entities import Order, Product
from statemachine.limits import AMOUNT_MAX
from statemachine.matching import close, rest
from statemachine.state import State
from statemachine.tables import InterruptionRow
from statemachine.types import DoneReason, ProductStatus, Side, StatusCause, Timer
from statemachine.validation import can_rest

_AUCTION: int = ProductStatus.AUCTION
_BUY: int = Side.BUY
_COLLARED: int = DoneReason.COLLARED


def is_behind(product: Product, side: int) -> bool:
    """Return whether the best price at which an order of this side could trade is beyond the far end of the collar:
    below it for a buy, above it for a sell.
    """
    best, collar = product.opposite(side).best, product.collar
    assert best is not None and collar is not None, "a collar stopped an order"  # noqa: PT018
    return best.price < collar[0] if side == _BUY else best.price > collar[1]


def holds(state: State, product: Product, order: Order) -> bool:
    """Handle an order that is about to rest, if its price is outside the collar: let it rest at the collar, or cancel
    it. Returns False, and does nothing, if its price is not outside. The product has limits.
    """
    row = product.controls
    assert row is not None, "the product has limits"
    if not row.limit_ns or product.collar is None:
        return False
    price = _price(product.collar, product.tick, order.side)
    if order.price <= price if order.side == _BUY else order.price >= price:
        return False
    hold_or_cancel(state, product, order)
    return True


def hold_or_cancel(state: State, product: Product, order: Order) -> None:
    """Let an order, on no book, rest at the collar, or cancel it. Its price is outside."""
    assert product.collar is not None, "there is a collar"
    price = _price(product.collar, product.tick, order.side)
    linked = order.terms is not None and order.terms.link
    may_rest = can_rest(order.order_type, order.time_in_force) and not linked
    if not may_rest or product.notional(price, order.remaining) > AMOUNT_MAX:
        close(state, product, order, _COLLARED, False)
        return
    before, order.price = order.price, price
    state.set_hold(order, product.hold_for(order))
    order_repriced(state, product, order, before)
    rest(state, product, order)
    _begin(state, product, order.side)


def _price(collar: tuple[int, int], tick: int, side: int) -> int:
    """Return the price of the collar for orders of a side: a multiple of the tick inside."""
    low, high = collar
    return high - high % tick if side == _BUY else low + -low % tick


def _begin(state: State, product: Product, side: int) -> None:
    """Begin the limit state of a side, unless the product is in it. It replaces a limit state of the other side."""
    limits, rows, name = product.controls, state.records["interruption"], product.product_id
    assert limits is not None and product.collar is not None, "the product has limits"  # noqa: PT018
    before = rows.get(name)
    if before is not None and before.limit_side == side:
        return
    until = state.time + limits.limit_ns
    low, high = product.collar
    row = InterruptionRow(name, ProductStatus(product.status), False, until, limit_side=side, low=low, high=high)
    rows.put(row)
    timers.put(state, Timer.INTERRUPTION, name, "", until)
    index(state, row)
    statuses.note(state, product, StatusCause.LIMIT_STATE, until)


def index(state: State, row: InterruptionRow) -> None:
    """Record the limit state of a row at its product."""
    product = state.products[row.product_id]
    product.band = row.low, row.high
    state.limited[row.product_id] = product


def forget(state: State, product: Product) -> None:
    """Undo `index` if the product is in a limit state, because something else replaces the limit state."""
    if product.band is not None:
        product.band = None
        del state.limited[product.product_id]


def leave(state: State, start: int) -> None:
    """End the limit states of products in which no order rests at the collar. An order that leaves has an event,
    so only products with an event from the place `start` on are looked at. O(those events).
    """
    changed = dict.fromkeys(name for name in state.event_products[start:] if name in state.limited)
    for name in sorted(changed):
        look(state, state.limited[name])


def look(state: State, product: Product) -> None:
    """End the limit state of a product if no order rests at the collar, or if its limits no longer have a
    `limit_ns`."""
    row, limits = state.records["interruption"].get(product.product_id), product.controls
    assert row is not None, "a limit state without its row"
    if limits is None or not limits.limit_ns or not is_in(product, row.limit_side):
        end(state, product)


def is_in(product: Product, side: int) -> bool:
    """Return whether an order of the side rests at the collar, or beyond it, where one from before the collar may be."""
    own: BookSide = product.side(side)
    assert product.band is not None, "the product is in a limit state"
    best, price = own.best, _price(product.band, product.tick, side)
    return best is not None and (best.price >= price if side == _BUY else best.price <= price)


def end(state: State, product: Product) -> None:
    """End a limit state. Trading continues."""
    forget(state, product)
    state.records["interruption"].remove(product.product_id)
    timers.remove(state, Timer.INTERRUPTION, product.product_id, "")
    statuses.note(state, product, StatusCause.COLLAR, 0)
