"""The cost of reads: the price at which an auction would open is computed again only as often as its share of the time
allows.
"""

from __future__ import annotations

import msgspec

from node.engine.feed import Audience, Feed
from node.engine.queries import AUCTION_SHARE, Views
from node.native.protocol import AuctionQuery, AuctionView
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PlaceOrder, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.types import OrderType, ProductStatus, Side

COST = 0.25


class Clock:
    """A clock of which every read takes `COST` seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += COST
        return self.now


def test_the_price_of_an_auction_takes_at_most_its_share_of_the_time() -> None:
    engine, clock = Engine(), Clock()
    views = Views(Feed(1), clock)

    def apply(*commands: AnyCommand) -> None:
        engine.apply(Batch(engine.sequence + 1, list(commands)))

    def auction() -> AuctionView | None:
        answer = views.answer(engine, AuctionQuery("BTC-USD"), Audience.PUBLIC)
        return msgspec.msgpack.decode(answer, type=AuctionView | None)

    def order(number: int) -> PlaceOrder:
        return PlaceOrder("a", f"o{number}", "BTC-USD", Side.BUY, OrderType.LIMIT, 100 + number, 10**8)

    def put(number: int, status: ProductStatus) -> PutProduct:
        return PutProduct("operator", f"p{number}", "BTC-USD", "BTC", "USD", 1, 10**8, 10**8, 10**12, 0, 0, status)

    apply(PutCurrency("operator", "c1", "USD", 2), PutCurrency("operator", "c2", "BTC", 8))
    apply(OpenAccount("operator", "c3", "a"), Deposit("a", "c4", "USD", 10**6), put(1, ProductStatus.AUCTION))
    first = auction()
    assert first is not None
    assert (first.product_sequence, first.best_bid) == (1, 0)
    apply(order(1))
    assert auction() == first, "a moment old"
    clock.now += COST / AUCTION_SHARE
    apply(order(2))
    again = auction()
    assert again is not None
    assert (again.product_sequence, again.best_bid) == (3, 102)
    apply(put(2, ProductStatus.ONLINE))
    assert auction() is None
