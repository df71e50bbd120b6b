"""The containers of the book and of an account behave like slow and simple ones."""

from __future__ import annotations

from collections import deque
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.book import BookSide
from statemachine.entities import Account, Currency, DoneOrders, Order
from statemachine.order_index import new_order
from statemachine.state import State
from statemachine.tables import ProductRow
from statemachine.types import ProductStatus


def orders(prices: list[int]) -> list[Order]:
    """Return one order of one account at each price."""
    state = State()
    state.currencies.update({name: Currency(name, 0) for name in ("XBT", "USD")})
    state.new_product(ProductRow("XBT-USD", "XBT", "USD", 1, 1, 1, 1, 0, 0, ProductStatus.ONLINE))
    account, product = Account("ann", 1), state.products["XBT-USD"]
    made = [new_order(number, account, product) for number in range(1, len(prices) + 1)]
    for order, price in zip(made, prices, strict=True):
        order.price, order.remaining = price, 1
    return made


@given(st.lists(st.integers(1, 400), min_size=1, max_size=600), st.sampled_from([1, -1]), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_every_price_level_is_found_in_order(prices: list[int], direction: int, random: Random) -> None:
    """Price levels are added in any order of prices and removed in another. There are more of them than one list of a
    side holds.
    """
    side, resting = BookSide(direction), orders(prices)
    for order in resting:
        side.add(order)
    random.shuffle(resting)
    while True:
        expected = sorted({order.price for order in resting}, key=lambda price: price * direction)
        assert [level.price for level in side.in_order()] == expected
        assert (side.best.price if side.best is not None else None) == (expected[0] if expected else None)
        if not resting:
            return
        for order in resting[: len(resting) // 3 + 1]:
            side.remove(order)
        del resting[: len(resting) // 3 + 1]


@given(st.lists(st.integers(0, 4), max_size=60))
def test_done_orders_are_a_queue(steps: list[int]) -> None:
    """Every step but 0 appends an order. A removed order can be added again, because it has no link to the queue any
    more.
    """
    done, expected, ahead = DoneOrders(), deque[Order](), deque(orders([1] * 61))
    for step in steps:
        if step or not expected:
            order = ahead.popleft()
            done.append(order)
            expected.append(order)
        else:
            order = expected.popleft()
            assert done.popleft() is order
            assert order.newer is None
            ahead.append(order)
        assert list(done) == list(expected)
        assert len(done) == done.count == len(expected)
    left = len(expected)
    assert done.clear_some(2) is (left > 2)
    assert list(done) == list(expected)[2:]
    assert not done.clear_some(left + 1)
    assert list(done) == []
