"""Icebergs: orders of which the book shows a slice at a time.

- On the book `remaining` is the slice that is shown, and `reserve` what is behind it. Off the book, and as a taker, an
  order is whole.
- When the slice is traded, the next one of `display_size` goes to the end of the queue of its price, told by an
  `OrderOpened`.
- In the opening of an auction the whole takes part, at its place in the queue; what is left shows no more than before.
- Self-trade prevention that decrements it, and an amendment to less, take from the reserve first; a cancel takes all of
  it.
- A fill-or-kill order counts the reserve of a price level behind all that the level shows.

Rules as of exchanges with reserve orders (Nasdaq, "Reserve orders"; Xetra, "Iceberg orders"; LSE MIT201): a refreshed
slice gets a new time.
"""

from __future__ import annotations

from statemachine.book import BookSide
from statemachine.emit import order_changed, order_opened
from statemachine.entities import Order, Product
from statemachine.state import State


def split(order: Order) -> None:
    """An order that is about to rest shows its first slice."""
    assert order.terms is not None, "only an order with options has a display size"
    display = order.terms.display_size
    if display and order.remaining > display:
        order.reserve = order.remaining - display
        order.remaining = display


def refresh(state: State, product: Product, side: BookSide, order: Order) -> None:
    """The slice of a resting order is traded: the next one rests, the last at its price. The order was touched."""
    assert order.terms is not None, "an order with a reserve has a display size"
    side.remove(order)
    order.remaining = min(order.terms.display_size, order.reserve)
    order.reserve -= order.remaining
    side.add(order)
    order_opened(state, product, order)
    order.opened_sequence = product.sequence


def unfold(order: Order) -> int:
    """A resting order takes part whole; the slice that it showed."""
    shown, level = order.remaining, order.level
    if order.reserve:
        assert level is not None, "a slice rests"
        level.total += order.reserve
        level.hidden -= order.reserve
        order.remaining += order.reserve
        order.reserve = 0
    return shown


def fold(order: Order, shown: int) -> None:
    """An order that was whole shows no more than `shown` again."""
    level = order.level
    if order.terms is not None and order.terms.display_size and order.remaining > shown:
        assert level is not None, "a slice rests"
        order.reserve = order.remaining - shown
        order.remaining = shown
        level.total -= order.reserve
        level.hidden += order.reserve


def decrease(state: State, product: Product, side: BookSide, order: Order, by: int) -> None:
    """Take less than all off a resting order, from its reserve first, and off its hold; the feed is told what it shows."""
    level = order.level
    assert level is not None, "a slice rests"
    before = order.remaining
    behind = min(order.reserve, by)
    order.reserve -= behind
    level.hidden -= behind
    side.reduce(order, by - behind)
    order.remaining -= by - behind
    state.set_hold(order, product.hold_for(order))
    order_changed(state, product, order, before, order.remaining, False, True, False)


def slices_of(order: Order) -> int:
    """How many more slices an order will show."""
    assert order.terms is not None, "an order with a reserve has a display size"
    display: int = order.terms.display_size
    return -(-order.reserve // display)
