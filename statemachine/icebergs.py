"""Icebergs: orders that show one slice at a time on the book.

- On the book `remaining` is the slice that is shown, and `reserve` is the hidden size. Off the book, and as a taker,
  `remaining` is the whole size.
- When the slice is traded, the next one of `display_size` goes to the end of the queue of its price, with an
  `OrderOpened`.
- In the opening of an auction the whole size takes part, at the order's place in the queue. The remainder shows no more
  than before.
- Self-trade prevention that decrements the order, and an amendment to a smaller size, take from the reserve first.
- A fill-or-kill order counts the reserve of a price level behind all that the level shows.

The rules follow exchanges with reserve orders (Nasdaq, "Reserve orders"; Xetra, "Iceberg orders"; LSE MIT201): a new
slice gets a new place in time.
"""

from __future__ import annotations

from collections import deque

from statemachine.book import BookSide
from statemachine.emit import order_changed, order_opened
from statemachine.entities import Account, Order, PriceLevel, Product
from statemachine.state import State


def split(order: Order) -> None:
    """Split an order that is about to rest into its first slice and the reserve."""
    assert order.terms is not None, "only an order with options has a display size"
    display = order.terms.display_size
    if display and order.remaining > display:
        order.reserve = order.remaining - display
        order.remaining = display


def refresh(state: State, product: Product, side: BookSide, order: Order) -> None:
    """Show the next slice of a resting order whose slice was traded, at the end of the queue of its price. The caller
    has recorded the order (`Changes.touch_order`).
    """
    assert order.terms is not None, "an order with a reserve has a display size"
    side.remove(order)
    order.remaining = min(order.terms.display_size, order.reserve)
    order.reserve -= order.remaining
    side.add(order)
    order_opened(state, product, order)
    order.opened_sequence = product.sequence


def unfold(order: Order) -> int:
    """Let the whole size of a resting order take part in an auction. Returns the slice that it showed."""
    shown, level = order.remaining, order.level
    if order.reserve:
        assert level is not None, "a slice rests"
        level.total += order.reserve
        level.hidden -= order.reserve
        order.remaining += order.reserve
        order.reserve = 0
    return shown


def fold(order: Order, shown: int) -> None:
    """Hide the reserve again, so that the order shows no more than `shown`."""
    level = order.level
    if order.terms is not None and order.terms.display_size and order.remaining > shown:
        assert level is not None, "a slice rests"
        order.reserve = order.remaining - shown
        order.remaining = shown
        level.total -= order.reserve
        level.hidden += order.reserve


def decrease(state: State, product: Product, side: BookSide, order: Order, by: int) -> None:
    """Reduce a resting order, its reserve first, and its hold. The event gives the change of the shown size."""
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


def slices_met(level: PriceLevel, account: Account, wanted: int, most: int) -> int:
    """Return the number of further slices that a taker meets for `wanted` after all that the level shows, those of its
    own account left out; `most` + 1 if it meets more. O(orders of the level + most).
    """
    behind = deque([(order, order.reserve) for order in level.orders() if order.reserve and order.account is not account])
    met = 0
    while behind and wanted > 0 and met <= most:
        order, reserve = behind.popleft()
        assert order.terms is not None, "an order with a reserve has a display size"
        shown = min(order.terms.display_size, reserve)
        wanted -= shown
        met += 1
        if reserve > shown:
            behind.append((order, reserve - shown))
    return met
