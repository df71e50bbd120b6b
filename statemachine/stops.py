"""Stop orders: accepted, and off the book until a trade comes to their stop price.

- A stop order passes every check, holds its money and has its order id and its fee rates when it is placed. From then on its status is active.
- A trade at the stop price or below triggers a stop loss, one at the stop price or above a stop entry, of either side. What counts are trades after
  it was placed: one whose price is passed already waits for the next.
- Those that the trades of one command trigger enter when that command is through, in the order of their ids, each as a whole, as if it had just
  come. Their trades may trigger more, which go to the end of the queue.
- Entering needs no second admission: a stop order that was placed while its product was online also enters when that takes limit or post-only
  orders alone. In other statuses nothing trades, and nothing is triggered.
"""

from __future__ import annotations

from collections import deque

from statemachine.events import AnyEvent, OrderActivated, OrderMatched, OrderState
from statemachine.matching import enter
from statemachine.state import Product, State
from statemachine.types import OrderStatus


def wait(state: State, product: Product, order: OrderState) -> None:
    """Let an accepted stop order wait for its price. O(log n)."""
    state.wait(order)
    product.stops.add(order)
    product.sequence += 1
    state.events.append(
        OrderActivated(
            product.product_id,
            product.sequence,
            state.time,
            order.order_id,
            order.account_id,
            order.client_oid,
            order.side,
            order.order_type,
            order.stop,
            order.stop_price,
            order.price,
            order.size,
            order.funds,
        )
    )


def follow(state: State, product: Product, first: int) -> None:
    """Let the stop orders enter that the product's trades among the batch's events from number `first` on trigger, and those that these trigger.

    O(events + log n), and what each order that enters takes.
    """
    queue = deque(_triggered(product, state.events[first:]))
    while queue:
        order = state.orders[queue.popleft()]
        first = len(state.events)
        state.touch(order)
        order.status = OrderStatus.OPEN
        enter(state, state.accounts[order.account_id], product, order)
        if order.filled_size and product.stops:
            queue.extend(_triggered(product, state.events[first:]))


def _triggered(product: Product, events: list[AnyEvent]) -> list[int]:
    """The order ids, rising, of the stop orders that trades among these events trigger. They wait no more."""
    prices = [event.price for event in events if type(event) is OrderMatched]
    return product.stops.take(min(prices), max(prices)) if prices else []
