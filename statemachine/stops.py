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

from statemachine.entities import Order, Product
from statemachine.matching import enter
from statemachine.state import State
from statemachine.tell import order_activated
from statemachine.types import OrderStatus


def wait(state: State, product: Product, order: Order) -> None:
    """Let an accepted stop order wait for its price. O(log n)."""
    state.wait(order)
    product.stops.add(order)
    order_activated(state, product, order)


def follow(state: State, product: Product) -> None:
    """Let the stop orders enter that what traded between `state.lowest` and `state.highest` triggers, and those that these trigger.

    O(log n), and what each order that enters takes.
    """
    queue = deque(_triggered(state, product))
    while queue:
        order = state.orders[queue.popleft()]
        state.touch(order)
        order.status = OrderStatus.OPEN
        enter(state, product, order)
        if product.stops.count:
            queue.extend(_triggered(state, product))


def _triggered(state: State, product: Product) -> list[int]:
    """The order ids, rising, of the stop orders that the latest trades trigger. They wait no more. From here on other trades count."""
    lowest, highest = state.lowest, state.highest
    state.lowest = state.highest = 0
    return product.stops.take(lowest, highest) if highest else []
