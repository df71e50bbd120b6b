"""What is derived from the events: the book by levels against the engine's own, and the rolling statistics against a plain sum."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.views import book_view
from node.gateway.book import DAY_MINUTES, MINUTE, MONTH_MINUTES, LevelBook, Span, Statistics
from node.gateway.catalogue import Product
from node.gateway.channels import event_json, for_books
from node.gateway.responses import book_json
from node.native.products import put_again
from statemachine.commands import AnyCommand, CancelOrder, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.events import OrderMatched
from statemachine.tables import ProductRow
from statemachine.types import OrderType, ProductStatus, SelfTradePrevention, Side, TimeInForce
from tests.unit.node.gateway.harness import FakeBackend
from tests.unit.node.gateway.price_book import PriceBook

LOT = 10**6
TIMES_IN_FORCE = [TimeInForce.GTC, TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK]
STATUSES = [ProductStatus.AUCTION, ProductStatus.AUCTION, ProductStatus.ONLINE, ProductStatus.ONLINE, ProductStatus.CANCEL_ONLY]


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


def step(random: Random, number: int, row: ProductRow) -> list[AnyCommand]:
    """What somebody does next: mostly orders that can trade with others, now and then the operator opens or closes the market."""
    kind, account = random.random(), random.choice("ab")
    if kind < 0.08:
        return [put_again(row, f"s{number}", status=random.choice(STATUSES))]
    if kind < 0.25:
        return [CancelOrder(name, f"x{number}", random.randint(max(1, number - 30), number + 1)) for name in "ab"]
    order_type = OrderType.MARKET if kind < 0.35 else OrderType.LIMIT
    price = 100 * random.randint(98, 103) if order_type is OrderType.LIMIT else 0
    time_in_force = random.choice(TIMES_IN_FORCE) if price else TimeInForce.GTC
    side, size, stp = random.choice(list(Side)), LOT * random.randint(1, 5), random.choice(list(SelfTradePrevention))
    return [PlaceOrder(account, f"p{number}", "BTC-USD", side, order_type, price, size, 0, time_in_force, False, stp)]


@pytest.mark.parametrize("seed", range(6))
def test_books_are_the_engines_after_every_event_batch(seed: int) -> None:
    """Ours by levels, and one that foreign libraries keep from the messages of the channel `full`."""
    random, backend = Random(seed), market()
    row = backend.engine.product("BTC-USD")
    assert row is not None
    product = Product(row, 8, 2)
    view, followed = book_view(backend.engine, "BTC-USD", 3), len(backend.events["BTC-USD"])
    book, foreign = LevelBook(view), PriceBook(dict(book_json(view, product, None)))
    seen: Counter[str] = Counter()
    for number in range(400):
        backend.apply(*step(random, number, row))
        for event in backend.events["BTC-USD"][followed:]:
            message = for_books(event, event_json(event, product))
            book.apply(event)
            foreign.apply(message)
            seen[str(message.get("reason") or message["type"])] += 1
        followed = len(backend.events["BTC-USD"])
        wanted = PriceBook(dict(book_json(book_view(backend.engine, "BTC-USD", 3), product, None)))
        assert foreign.rows() == wanted.rows()
        for side in Side:
            assert book.levels(side) == levels(backend.engine, side)
            assert book.best(side) == ((levels(backend.engine, side) or [(0, 0)])[0])
    assert min(seen[kind] for kind in ("open", "match", "auction_match", "auction", "STP", "status_change")) > 0, seen


def trade(minute: int, price: int, size: int) -> OrderMatched:
    return OrderMatched("P", 1, minute * MINUTE + 5, 1, 1, 2, "a", "b", Side.BUY, price, size, 0, 0)


pauses = st.integers(0, 900) | st.integers(0, 30_000)


@given(st.lists(st.tuples(pauses, st.integers(1, 50), st.integers(1, 9)), max_size=30), pauses, st.integers(0, 30))
def test_the_figures_are_those_of_24_hours_and_30_days(steps: list[tuple[int, int, int]], ahead: int, restart: int) -> None:
    """Also when the gateway began anew in between, with the minutes that the history has."""
    stats, minute = Statistics(), 0
    trades: list[tuple[int, int, int]] = []
    for number, (pause, price, size) in enumerate(steps):
        if number == restart and trades:
            spans: dict[int, Span] = {}
            for at, was, much in trades:
                spans.setdefault(at, Span(at)).add(Span(at, was, was, was, much))
            stats = Statistics()
            stats.begin((span for at, span in spans.items() if at > minute - MONTH_MINUTES), trade(*trades[-1]))
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
        assert stats.month_volume(now * MINUTE) == sum(size for at, _, size in trades if at > now - MONTH_MINUTES)
    assert stats.last_price == (trades[-1][1] if trades else 0)
