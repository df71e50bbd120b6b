"""Auctions beyond the comparison with the twin: the price is checked against the written rules, then the state after an
opening, and rows that no auction can have written.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.commands import AnyCommand, Batch, PutProduct
from statemachine.engine import Engine
from statemachine.errors import StateError
from statemachine.events import OrderMatched, OrderOpened, OrderState, Rejected, StatusChanged
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.tables import ProductRow
from statemachine.types import ProductStatus, Side, TimeInForce
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send

Order = tuple[Side, int, int]
"""Side, size, price."""

orders = st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 50), st.integers(1, 60)), max_size=14)
NAMES = tuple(f"trader-{number}" for number in range(14))


def status(wanted: ProductStatus, command_id: str) -> PutProduct:
    return PutProduct(OPERATOR, command_id, PRODUCT, "XBT", "USD", 1, 1, 1, AMOUNT_MAX, 0, 0, wanted)


def collecting(given_orders: list[Order], last_price: int = 0) -> Engine:
    """Return an engine with an auction that has collected these orders, each of another account. `last_price` is the
    price of a trade before the auction; 0 means that there was none.
    """
    engine = market(names=NAMES)
    if last_price:
        placed(engine, limit(NAMES[0], "before-sell", Side.SELL, 1, last_price))
        placed(engine, limit(NAMES[1], "before-buy", Side.BUY, 1, last_price))
    assert not isinstance(send(engine, status(ProductStatus.AUCTION, "close")), Rejected)
    for number, (side, size, price) in enumerate(given_orders):
        placed(engine, limit(NAMES[number], f"order-{number}", side, size, price))
    return engine


def tried(given_orders: list[Order], price: int) -> tuple[int, int]:
    """Return the size that would trade at a price, and the surplus."""
    buys = sum(size for side, size, at in given_orders if side is Side.BUY and at >= price)
    sells = sum(size for side, size, at in given_orders if side is Side.SELL and at <= price)
    return min(buys, sells), buys - sells


@given(orders, st.integers(0, 70))
@settings(max_examples=200)
def test_the_auction_price_is_the_one_that_the_rules_name(given_orders: list[Order], last_price: int) -> None:
    auction = collecting(given_orders, last_price).auction(PRODUCT)
    assert auction is not None
    prices = range(1, 62)
    most = max(tried(given_orders, price)[0] for price in prices)
    assert auction.size == most
    if most == 0:
        assert (auction.price, auction.surplus) == (0, 0)
        return
    assert tried(given_orders, auction.price) == (most, auction.surplus)
    equal = [price for price in prices if tried(given_orders, price)[0] == most]
    least = min(abs(tried(given_orders, price)[1]) for price in equal)
    assert abs(auction.surplus) == least
    best = [price for price in equal if abs(tried(given_orders, price)[1]) == least]
    surpluses = [tried(given_orders, price)[1] for price in best]
    if min(surpluses) > 0:
        assert auction.price == max(best)
    elif max(surpluses) < 0 or last_price == 0:
        assert auction.price == min(best)
    else:
        assert abs(auction.price - last_price) == min(abs(price - last_price) for price in best)


@given(orders)
@settings(max_examples=100)
def test_an_opening_trades_at_the_indication_and_leaves_no_crossing_orders(given_orders: list[Order]) -> None:
    """No account has orders on both sides. All trades are at the indicated price, and their sizes add up to the
    indicated size.
    """
    engine = collecting(given_orders)
    auction = engine.auction(PRODUCT)
    assert auction is not None
    events = engine.apply(Batch(engine.time, [status(ProductStatus.ONLINE, "open")])).events
    trades = [event for event in events if isinstance(event, OrderMatched)]
    assert {trade.price for trade in trades} <= {auction.price}
    assert all(trade.auction for trade in trades)
    assert sum(trade.size for trade in trades) == auction.size
    assert [event for event in events if isinstance(event, StatusChanged)] == [events[-1]]
    assert events[-1] == StatusChanged(
        PRODUCT, events[-1].product_sequence, engine.time, ProductStatus.ONLINE, auction.price, auction.size
    )
    opened = [event.order_id for event in events if isinstance(event, OrderOpened)]
    assert opened == sorted(opened)
    left = sum(size for _, size, _ in given_orders) - 2 * auction.size
    assert sum(size for side in Side for _, size, _ in engine.book_orders(PRODUCT, side)) == left
    engine.check()


def test_a_product_without_an_auction_indicates_nothing() -> None:
    engine = market()
    assert engine.auction(PRODUCT) is None
    assert engine.auction("NO-SUCH") is None


def test_sums_of_sizes_that_exceed_a_field_do_no_harm() -> None:
    """The sizes at one price may add up to more than an order's field can carry. Only deposited money and goods can
    trade.
    """
    engine = market(AMOUNT_MAX // 4, names=("ann", "bob", "eve"))
    send(engine, status(ProductStatus.AUCTION, "close"))
    for name in ("ann", "bob"):
        placed(engine, limit(name, "buy", Side.BUY, AMOUNT_MAX // 4, 1))
    placed(engine, limit("eve", "sell", Side.SELL, AMOUNT_MAX // 4, 1))
    auction = engine.auction(PRODUCT)
    assert auction is not None
    assert (auction.price, auction.size, auction.surplus) == (1, AMOUNT_MAX // 4, AMOUNT_MAX // 4)
    send(engine, status(ProductStatus.ONLINE, "open"))
    engine.check()


def collected_tables() -> dict[str, list[tuple[bytes, bytes]]]:
    return dict(collecting([(Side.BUY, 5, 10), (Side.SELL, 5, 8)]).tables())


def changed(table: str, row_type: type[msgspec.Struct], **fields: object) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return the tables of an auction with other values in the first row of one of them."""
    tables = collected_tables()
    key, payload = tables[table][0]
    row = msgspec.structs.replace(msgspec.msgpack.decode(payload, type=row_type), **fields)
    return {**tables, table: [(key, msgspec.msgpack.encode(row)), *tables[table][1:]]}


@pytest.mark.parametrize(
    ("table", "row_type", "fields", "text"),
    [
        ("product", ProductRow, {"status": ProductStatus.ONLINE}, "trades, but has collected orders"),
        ("product", ProductRow, {"last_price": 7}, "a last price, but no trade"),
        ("product", ProductRow, {"last_price": -1}, "last price -1"),
        ("order", OrderState, {"time_in_force": TimeInForce.IOC}, "collected, but cannot rest"),
        ("order", OrderState, {"post_only": True}, "collected, but cannot rest"),
        ("order", OrderState, {"opened_sequence": 99}, "waits, but was on the book"),
        ("order", OrderState, {"filled_size": 1}, "waits, but has traded"),
    ],
)
def test_rows_that_no_auction_can_have_written_are_refused(
    table: str, row_type: type[msgspec.Struct], fields: dict[str, object], text: str
) -> None:
    with pytest.raises(StateError, match=text):
        Engine.restore(changed(table, row_type, **fields))


def test_a_restored_auction_opens_as_the_original_does() -> None:
    engine = collecting([(Side.BUY, 5, 10), (Side.SELL, 3, 8), (Side.BUY, 5, 10), (Side.SELL, 4, 9)])
    restored = Engine.restore(dict(engine.tables()))
    opening: list[AnyCommand] = [status(ProductStatus.ONLINE, "open")]
    assert restored.apply(Batch(9, opening)) == engine.apply(Batch(9, opening))
    assert restored.full_hash() == engine.full_hash()
