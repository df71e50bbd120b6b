"""What is derived from the events: the book by levels against the engine's own, and the rolling statistics against a plain sum."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.engine.views import book_view
from node.gateway.book import DAY_MINUTES, MINUTE, LevelBook, Statistics
from statemachine.commands import CancelOrder, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.events import OrderMatched
from statemachine.types import OrderType, SelfTradePrevention, Side, TimeInForce
from tests.unit.node.gateway.harness import FakeBackend

LOT = 10**6
ORDERS = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from(list(Side)),
    st.integers(98, 103),
    st.integers(1, 5),
    st.sampled_from(list(TimeInForce)),
    st.sampled_from(list(SelfTradePrevention)),
    st.booleans(),
)


def market() -> FakeBackend:
    backend = FakeBackend()
    backend.apply(PutCurrency("operator", "1", "USD", 2), PutCurrency("operator", "2", "BTC", 8))
    backend.apply(PutProduct("operator", "3", "BTC-USD", "BTC", "USD", 100, LOT, LOT, 10**12, 0, 0))
    for name in ("a", "b"):
        backend.apply(OpenAccount("operator", f"open-{name}", name))
        backend.apply(Deposit(name, "usd", "USD", 10**12), Deposit(name, "btc", "BTC", 10**12))
    return backend


def levels(engine: Engine, side: Side) -> list[tuple[int, int]]:
    return [(price, size) for price, size, _ in engine.levels("BTC-USD", side, 10_000)]


@settings(max_examples=60, deadline=None)
@given(flow=st.lists(ORDERS | st.integers(1, 30), max_size=40), start=st.integers(0, 20))
def test_the_levels_are_the_engines_after_every_event_batch(flow: list[object], start: int) -> None:
    backend = market()
    book: LevelBook | None = None
    followed = 0
    for number, step in enumerate(flow):
        if number == start:
            book, followed = LevelBook(book_view(backend.engine, "BTC-USD", 3)), len(backend.events.get("BTC-USD", []))
        if isinstance(step, int):
            backend.apply(*(CancelOrder(name, f"x{number}", step) for name in ("a", "b")))
        elif isinstance(step, tuple):
            account, side, price, size, time_in_force, stp, by_market = step
            kind = OrderType.MARKET if by_market else OrderType.LIMIT
            price, time_in_force = (0, TimeInForce.GTC) if by_market else (price * 100, time_in_force)
            order = PlaceOrder(account, f"p{number}", "BTC-USD", side, kind, price, size * LOT, 0, time_in_force, False, stp)
            backend.apply(order)
        if book is not None:
            for event in backend.events.get("BTC-USD", [])[followed:]:
                book.apply(event)
            followed = len(backend.events.get("BTC-USD", []))
            for side in Side:
                assert book.levels(side) == levels(backend.engine, side)
                assert book.best(side) == ((levels(backend.engine, side) or [(0, 0)])[0])


def trade(minute: int, price: int, size: int) -> OrderMatched:
    return OrderMatched("P", 1, minute * MINUTE + 5, 1, 1, 2, "a", "b", Side.BUY, price, size, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 900), st.integers(1, 50), st.integers(1, 9)), max_size=30), st.integers(0, 2_000))
def test_the_day_is_the_last_24_hours(steps: list[tuple[int, int, int]], ahead: int) -> None:
    stats, minute, trades = Statistics(), 0, []
    for pause, price, size in steps:
        minute += pause
        trades.append((minute, price, size))
        stats.add(trade(minute, price, size))
        stats.day(minute * MINUTE)
    now = minute + ahead
    for _ in range(2):
        inside = [row for row in trades if row[0] > now - DAY_MINUTES]
        day = stats.day(now * MINUTE)
        assert day.volume == sum(size for _, _, size in inside)
        assert day.high == max((price for _, price, _ in inside), default=0)
        assert day.low == min((price for _, price, _ in inside), default=0)
        assert day.open == (inside[0][1] if inside else 0)
        assert stats.month_volume(now * MINUTE) == sum(size for _, _, size in trades)
    assert stats.last_price == (trades[-1][1] if trades else 0)
