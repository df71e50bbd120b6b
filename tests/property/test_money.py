"""The rounding rule: the sum of an order's fees is rounded up once, and its fills never cost more than its hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from statemachine.commands import CancelOrder, Deposit, OpenAccount, PlaceOrder
from statemachine.engine import Engine
from statemachine.events import Rejected
from statemachine.limits import FEE_PPM_MAX, OPERATOR, PPM
from statemachine.types import OrderType, Side
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send

rates = st.integers(0, FEE_PPM_MAX)
prices = st.integers(1, 10**9)
pieces = st.lists(st.tuples(st.integers(1, 10**5), st.integers(0, 10**9)), min_size=1, max_size=12)


@given(prices, rates, rates, pieces, st.booleans())
def test_the_fills_of_a_resting_buy_never_cost_more_than_its_hold(
    price: int, maker_ppm: int, taker_ppm: int, parts: list[tuple[int, int]], cancelled: bool
) -> None:
    """A buy of the sum of the pieces is filled piece by piece. After each, the hold is what the rest needs, and nothing
    is owed.
    """
    engine = market(10**17, maker_ppm, taker_ppm)
    size = sum(part for part, _ in parts) + cancelled
    hold = placed(engine, limit("ann", "buy", Side.BUY, size, price)).hold
    assert hold == _with_fee(price * size, max(maker_ppm, taker_ppm))
    for number, (part, _) in enumerate(parts):
        sold = placed(engine, limit("bob", f"sell-{number}", Side.SELL, part, 1))
        assert price * part + sold.fill_fees == _with_fee(price * part, taker_ppm)
        engine.check()
    if cancelled:
        send(engine, CancelOrder("ann", "cancel", 1))
    order = engine.order(1)
    assert order is not None
    assert order.hold == 0
    assert order.executed_value + order.fill_fees <= hold
    usd = engine.balances("ann")[0]
    assert (usd.available, usd.hold) == (10**17 - order.executed_value - order.fill_fees, 0)
    engine.check()


@given(prices, rates, rates, pieces)
def test_the_fills_of_an_aggressive_buy_never_cost_more_than_its_hold(
    price: int, maker_ppm: int, taker_ppm: int, parts: list[tuple[int, int]]
) -> None:
    """A buy trades with many makers at its own price and below. An account that has exactly the hold can enter the
    order and pay for it.
    """
    size = sum(part for part, _ in parts)
    needed = _with_fee(price * size, max(maker_ppm, taker_ppm))
    engine = market(10**17, maker_ppm, taker_ppm, ("bob",))
    for number, (part, better) in enumerate(parts):
        placed(engine, limit("bob", f"sell-{number}", Side.SELL, part, max(1, price - better % price)))
    _give(engine, "ann", needed)
    order = placed(engine, limit("ann", "buy", Side.BUY, size, price))
    assert order.filled_size == size
    assert order.executed_value + order.fill_fees <= needed
    engine.check()


@given(prices, rates, st.integers(1, 10**12), pieces)
def test_a_buy_by_funds_spends_at_most_its_funds_and_misses_no_lot(
    price: int, taker_ppm: int, funds: int, parts: list[tuple[int, int]]
) -> None:
    engine = market(10**17, 0, taker_ppm, ("bob",))
    for number, (part, worse) in enumerate(parts):
        placed(engine, limit("bob", f"sell-{number}", Side.SELL, part, price + worse))
    _give(engine, "ann", funds)
    order = placed(engine, PlaceOrder("ann", "buy", PRODUCT, Side.BUY, OrderType.MARKET, 0, 0, funds))
    spent = order.executed_value + order.fill_fees
    assert spent <= funds
    best = engine.levels(PRODUCT, Side.SELL, 1)
    if best and order.filled_size:
        assert _with_fee(order.executed_value + best[0][0], taker_ppm) > funds
    engine.check()


def _with_fee(notional: int, ppm: int) -> int:
    """Return the total cost of what an order traded, with the fee rounded up."""
    return notional - (-notional * ppm // PPM)


def _give(engine: Engine, account: str, usd: int) -> None:
    """Open an account that has only this amount."""
    for command in (OpenAccount(OPERATOR, f"open-{account}", account), Deposit(account, "give", "USD", usd)):
        assert not isinstance(send(engine, command), Rejected)
