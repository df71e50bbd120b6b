"""A copy of a book that is made while the exchange runs is the book of one moment, and no step of it takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine import book_copy
from node.engine.book_copy import BookCopies, BookCopy, LongAnswer
from node.engine.feed import Feed
from node.engine.queries import book_view
from node.engine.replicated_engine import ReplicatedEngine
from node.errors import RequestFailed
from node.native.connection import NativeConnection
from node.native.framing import FrameSplitter
from node.native.protocol import Answer, BookQuery, BookView, FailCode, response_decoder
from statemachine.commands import AnyCommand, Batch, CancelOrder, encode_batch
from statemachine.engine import Engine
from tests.unit.node.fakes import WORLD, buy, config_of, running, sell

PRODUCT = "BTC-USD"


class Exchange:
    """An engine with its feed."""

    def __init__(self, events_kept: int = 100_000) -> None:
        self.feed = Feed(events_kept)
        self.machine = ReplicatedEngine(self.feed)
        self.time = 1
        self.number = 0
        self.send(*WORLD)

    @property
    def engine(self) -> Engine:
        return self.machine.engine

    def send(self, *commands: AnyCommand) -> None:
        self.time += 1
        self.machine.apply(self.time, encode_batch(Batch(self.time, list(commands))))

    def do_something(self, random: Random) -> None:
        """Place an order that rests or trades, or cancel one."""
        self.number += 1
        side, account = random.choice([(buy, "alice"), (sell, "bob")])
        if random.random() < 0.3:
            open_orders = self.engine.orders(account, limit=1_000)
            if open_orders:
                self.send(CancelOrder(account, f"x{self.number}", random.choice(open_orders).order_id))
            return
        self.send(side(self.number, price=random.randint(90, 110), size=random.randint(1, 4)))

    def view(self) -> BookView:
        return book_view(self.engine, PRODUCT, 3)


def decoded(chunks: list[bytes]) -> BookView:
    return msgspec.msgpack.decode(b"".join(chunks), type=BookView)


@given(seed=st.integers(0, 10**6), orders=st.integers(0, 40), busy=st.integers(0, 4))
def test_a_book_copy_is_the_book_of_the_moment_in_which_it_is_complete(seed: int, orders: int, busy: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book_copy, "PAGE", 3)
        random, exchange = Random(seed), Exchange()
        for _ in range(orders):
            exchange.do_something(random)
        copy = BookCopy(exchange.engine, exchange.feed, PRODUCT)
        views: dict[int, BookView] = {}
        for _ in range(10_000):
            view = exchange.view()
            views[view.product_sequence] = view
            if not copy.step():
                break
            for _ in range(random.randint(0, busy) if random.random() < 0.5 else 0):
                exchange.do_something(random)
        found = decoded(copy.chunks)
        assert found == views[found.product_sequence]
        assert copy.orders == len(found.bid_orders) + len(found.ask_orders)


def test_an_event_in_every_turn_does_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_copy, "PAGE", 10)
    exchange = Exchange()
    for number in range(200):
        exchange.send(buy(number, price=number % 7 + 1))
    copy = BookCopy(exchange.engine, exchange.feed, PRODUCT)
    steps = 0
    while copy.step():
        exchange.send(sell(1_000 + steps, price=200))
        steps += 1
        assert steps < 100, "20 pages are read and written, and a few more of what arrives"
    assert len(decoded(copy.chunks).bid_orders) == 200


def test_no_step_examines_more_than_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_copy, "PAGE", 10)
    exchange = Exchange()
    for number in range(300):
        exchange.send(buy(number, price=number % 7 + 1))
    asked: list[int] = []
    book_page = Engine.book_page

    def counted(self: Engine, product_id: str, side: Any, after: Any, limit: int) -> Any:
        asked.append(limit)
        return book_page(self, product_id, side, after, limit)

    monkeypatch.setattr(Engine, "book_page", counted)
    copy = BookCopy(exchange.engine, exchange.feed, PRODUCT)
    steps = 1
    while copy.step():
        steps += 1
        assert len(asked) <= steps
    assert steps >= 2 * 30
    assert set(asked) == {10}
    assert max(len(chunk) for chunk in copy.chunks) < 10 * 40
    assert b"".join(copy.chunks) == msgspec.msgpack.encode(exchange.view()), "the same bytes as if it were made at once"


class Desk:
    """Copies whose time the test sets."""

    def __init__(self, exchange: Exchange) -> None:
        self.later: list[Callable[[], None]] = []
        self.results: list[BookView | RequestFailed] = []
        self.copies = BookCopies(lambda: exchange.engine, exchange.feed, lambda _seconds, work: self.later.append(work))

    def ask(self, product_id: str = PRODUCT) -> None:
        self.copies.ask(
            product_id, lambda result, _n: self.results.append(decoded(result) if isinstance(result, list) else result)
        )

    def run(self) -> int:
        steps = 0
        while self.later:
            self.later.pop(0)()
            steps += 1
        return steps


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_copy, "PAGE", 5)


@pytest.mark.usefixtures("small_pages")
class TestCopies:
    def test_concurrent_requests_share_one_copy(self) -> None:
        exchange = Exchange()
        for number in range(50):
            exchange.send(buy(number))
        desk = Desk(exchange)
        for _ in range(20):
            desk.ask()
        assert desk.run() < 60
        assert desk.results == [exchange.view()] * 20
        desk.ask()
        assert desk.results == [exchange.view()] * 21, "it has not moved: no new copy"
        exchange.send(buy(1_000))
        desk.ask()
        assert len(desk.results) == 21
        desk.run()
        assert desk.results[-1] == exchange.view()

    def test_a_snapshot_that_replaces_the_state_begins_it_again(self) -> None:
        exchange, other = Exchange(), Exchange()
        for number in range(50):
            exchange.send(buy(number))
            other.send(buy(number, price=7))
        desk = Desk(exchange)
        desk.ask()
        desk.later.pop(0)()
        exchange.machine.replace(other.engine)
        desk.run()
        assert desk.results == [exchange.view()]
        assert {order.price for order in exchange.view().bid_orders} == {7}

    def test_more_events_than_are_kept_begin_it_again(self) -> None:
        exchange = Exchange(events_kept=50)
        for number in range(50):
            exchange.send(buy(number))
        desk = Desk(exchange)
        desk.ask()
        desk.later.pop(0)()
        for number in range(1_000, 1_400):
            exchange.send(buy(number))
        desk.run()
        assert desk.results == [exchange.view()]

    def test_a_book_that_is_too_large_is_refused_with_the_way_to_read_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(book_copy, "ORDERS_MAX", 20)
        exchange = Exchange()
        for number in range(50):
            exchange.send(buy(number))
        desk = Desk(exchange)
        desk.ask()
        desk.run()
        (error,) = desk.results
        assert isinstance(error, RequestFailed)
        assert error.code is FailCode.BAD_REQUEST
        assert "more than 20 orders: read it with BookPageQuery" in error.message


def test_its_frame_is_that_of_an_answer() -> None:
    chunks = [msgspec.msgpack.encode([1, 2])[:1], b"\x01", b"\x02"]
    (body,) = FrameSplitter().feed(b"".join(LongAnswer(300, chunks).frame()))
    assert response_decoder.decode(body) == Answer(300, msgspec.Raw(msgspec.msgpack.encode([1, 2])))


async def test_a_session_gets_a_large_book_while_others_continue(tmp_path: Path) -> None:
    async with running(config_of(tmp_path)) as node:
        gateway, reader = await NativeConnection.open(node.address), await NativeConnection.open(node.address)
        await gateway.submit(WORLD)
        for start in range(0, 5_000, 500):
            await gateway.submit([buy(number, price=number + 1) for number in range(start, start + 500)])
        asked = asyncio.ensure_future(reader.query(BookQuery(PRODUCT, 3), linearizable=True))
        meanwhile = 0
        while not asked.done():
            await gateway.submit([sell(10_000 + meanwhile, price=1_000_000)])  # bob's: alice has used up most of her share
            meanwhile += 1
        assert meanwhile >= 5
        assert len((await asked).bid_orders) >= 5_000
        await gateway.close()
        await reader.close()
