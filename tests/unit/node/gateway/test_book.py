"""The gateway's copy of the book is compared with the engine's own: while it follows the events, while it is copied
page by page, and as text.
"""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest

from node.engine.queries import PAGE_MAX, rows_of
from node.gateway import book as books
from node.gateway.book import Book, BookLoader
from node.gateway.catalogue import Product
from node.gateway.channels import event_json, for_books
from node.gateway.values import order_text
from node.native.products import put_again
from node.native.protocol import BookPageQuery
from statemachine.commands import AnyCommand, Batch, CancelOrder, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.events import OrderDone, OrderReported, StreamNoted
from statemachine.tables import ProductRow
from statemachine.types import DoneReason, OrderType, ProductStatus, SelfTradePrevention, Side, TimeInForce
from tests.property.operators import operators, venue_flow
from tests.property.worlds import foundations
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


def assert_equal(book: Book, engine: Engine) -> None:
    for side in Side:
        assert list(book.orders(side)) == engine.book_orders("BTC-USD", side)
        levels = engine.levels("BTC-USD", side, 10_000)
        assert book.levels(side) == levels
        assert book.best(side) == (levels[0][:2] if levels else (0, 0))
        for price, size, _ in levels:
            assert book.size_at(side, price) == size
    assert book.count_levels() == sum(len(engine.levels("BTC-USD", side, 10_000)) for side in Side)


def level3(engine: Engine, product: Product) -> dict[str, Any]:
    rows = {
        name: [
            [product.price(price), product.size(size), order_text(order_id)]
            for price, size, order_id in engine.book_orders(product.row.product_id, side)
        ]
        for name, side in (("bids", Side.BUY), ("asks", Side.SELL))
    }
    return {"sequence": engine.product_sequence(product.row.product_id)} | rows


def level2(engine: Engine, product: Product) -> dict[str, Any]:
    rows = {
        name: [[product.price(price), product.size(size)] for price, size, _ in engine.levels("BTC-USD", side, 10_000)]
        for name, side in (("bids", Side.BUY), ("asks", Side.SELL))
    }
    return {"type": "snapshot", "product_id": "BTC-USD"} | rows


def step(random: Random, number: int, row: ProductRow | None) -> list[AnyCommand]:
    """Draw what happens next: mostly orders that can trade with others, sometimes a change of the market by the
    operator.
    """
    assert row is not None
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


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 6])  # each of these seeds produces every kind of event
def test_books_equal_the_engines_after_every_event_batch(seed: int) -> None:
    """Compare the gateway's book, and a book that foreign libraries keep from the messages of the channel `full`."""
    random, backend = Random(seed), market()
    row = backend.engine.product("BTC-USD")
    assert row is not None
    product = Product(row, 8, 2)
    followed = len(backend.events["BTC-USD"])
    book, foreign = Book(), PriceBook(level3(backend.engine, product))
    seen: Counter[str] = Counter()
    for number in range(500):
        backend.apply(*step(random, number, backend.engine.product("BTC-USD")))
        for event in backend.events["BTC-USD"][followed:]:
            message = for_books(event, event_json(event, product))
            book.apply(event)
            foreign.apply(message)
            seen[str(message.get("reason") or message["type"])] += 1
        followed = len(backend.events["BTC-USD"])
        assert foreign.rows() == PriceBook(level3(backend.engine, product)).rows()
        assert_equal(book, backend.engine)
        shown = json.loads(b"".join(books.level3(product, book, backend.engine.product_sequence("BTC-USD")).ended(b"}").chunks()))
        assert shown == level3(backend.engine, product)
        assert json.loads(books.level2(product, book)) == level2(backend.engine, product)
    assert not book.stale_levels
    assert not book.stale_blocks
    assert min(seen[kind] for kind in ("open", "match", "auction_match", "auction", "STP", "status_change")) > 0, seen


@pytest.mark.parametrize("seed", range(8))
async def test_a_book_copied_page_by_page_while_it_changes_is_the_engines(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The market continues between any two pages, and pages of a few orders end in the middle of levels."""
    monkeypatch.setattr(books, "BLOCK_MAX", 3)
    random, backend = Random(seed), market()
    number = 0

    def go_on(steps: int) -> None:
        nonlocal number
        for _ in range(steps):
            number += 1
            backend.apply(*step(random, number, backend.engine.product("BTC-USD")))

    for _ in range(20):
        go_on(random.randint(1, 60))
        begun = backend.engine.product_sequence("BTC-USD")
        go_on(random.randint(0, 5))
        loader = BookLoader(begun)
        for side in Side:
            after = (0, 0, 0)
            while True:
                query = BookPageQuery("BTC-USD", side, *after, limit=random.randint(1, 4))
                page = await backend.query(query)
                loader.page(side, page)
                if not page.orders:
                    break
                last = page.orders[-1]
                after = last.price, last.opened_sequence, last.order_id
                go_on(random.randint(0, 3))
        go_on(random.randint(0, 5))
        book = loader.finish(event for event in backend.events["BTC-USD"] if event.product_sequence > begun)
        assert_equal(book, backend.engine)


async def test_a_page_is_bounded() -> None:
    backend = market()
    for start in range(0, 1_200, 100):
        backend.apply(
            *(
                PlaceOrder("a", f"o{number}", "BTC-USD", Side.BUY, OrderType.LIMIT, 100 + 100 * (number % 3), LOT)
                for number in range(start, start + 100)
            )
        )
    page = await backend.query(BookPageQuery("BTC-USD", Side.BUY, limit=10**6))
    assert len(page.orders) == PAGE_MAX
    last = page.orders[-1]
    behind = BookPageQuery("BTC-USD", Side.BUY, last.price, last.opened_sequence, last.order_id)
    assert rows_of(backend.engine, behind) == PAGE_MAX
    following = await backend.query(behind)
    backend.apply(CancelOrder("a", "x", last.order_id))
    assert (await backend.query(behind)).orders == following.orders, "the order named may have left"
    assert rows_of(backend.engine, behind) == PAGE_MAX + 399, "the client also pays for the orders that are skipped"


async def test_a_text_is_made_again_only_where_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly level 3 of 100,000 orders took 165 ms of Raft's thread each time. Now it takes one block's rows, in the
    gateway.
    """
    made: list[int] = []

    def text(order_id: int) -> str:
        made.append(order_id)
        return str(order_id)

    monkeypatch.setattr(books, "order_text", text)
    product = Product(ProductRow("P", "B", "Q", 1, 1, 1, 1, 0, 0, ProductStatus.ONLINE), 0, 0)
    book = Book()
    for number in range(20_000):
        book.add(Side.BUY, 1_000 - number % 40, number, 5)
    await books.prepare_level3(product, book)
    first = books.level3(product, book, 1)
    assert len(made) == 20_000
    made.clear()
    book.apply(OrderDone("P", 2, 0, 777, "a", Side.BUY, OrderType.LIMIT, 1_000 - 777 % 40, 5, DoneReason.CANCELLED, True))
    second = books.level3(product, book, 2)
    assert len(made) < books.BLOCK_MAX
    assert first.size - second.size == len('["983","5","777"],')
    assert max(map(len, second.chunks())) < 2 * books.CHUNK


@pytest.mark.parametrize("seed", range(4))
def test_books_equal_the_engines_under_commands_of_the_venue(seed: int) -> None:
    """The flow has options of orders, auctions of calendars, collars, switches and corrections. The test compares the
    gateway's books and those that foreign clients keep.
    """
    random, engine, time = Random(seed), Engine(), 10**18
    results: list[object] = []
    engine.apply(Batch(time, [*foundations((1_000, 3_000), 100_000), *operators()]))
    books_of: dict[str, tuple[Product, Book, PriceBook]] = {}
    for row in engine.products():
        base, quote = engine.currency(row.base), engine.currency(row.quote)
        assert base is not None
        assert quote is not None
        product = Product(row, base.scale, quote.scale)
        books_of[row.product_id] = product, Book(), PriceBook(level3(engine, product))
    batch: list[AnyCommand] = []
    for step, _ in venue_flow(random, 700, results):
        if not isinstance(step, int):
            batch.append(step)
            if random.random() < 0.5:
                continue
        time += random.choice([0, 1, 10**8]) + (step * 10**9 if isinstance(step, int) else 0)
        applied = engine.apply(Batch(time, batch))
        batch = []
        results += [*applied.outcomes, *applied.events]
        for event in applied.events:
            if event.product_id in books_of and not isinstance(event, OrderReported | StreamNoted):
                product, book, foreign = books_of[event.product_id]
                book.apply(event)
                foreign.apply(for_books(event, event_json(event, product)))
        for product_id, (product, book, foreign) in books_of.items():
            assert foreign.sequence == engine.product_sequence(product_id)
            assert foreign.rows() == PriceBook(level3(engine, product)).rows()
            for side in Side:
                assert list(book.orders(side)) == engine.book_orders(product_id, side)
