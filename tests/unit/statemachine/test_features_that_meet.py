"""Rules of one feature that another feature must respect: risk limits and order options, auctions and timers, bounds of
work and queues.
"""

from __future__ import annotations

import msgspec
import pytest

from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    Batch,
    CancelAll,
    CancelAllAfter,
    NewOrder,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutProduct,
    PutRiskLimits,
    ReplaceOrder,
)
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, OrderDone, Paired, Placed, Rejected, Replaced
from statemachine.limits import AMOUNT_MAX, DISPLAYS_PER_ORDER, MAKERS_PER_ORDER, OPERATOR, WORK_PER_ENTRY
from statemachine.types import (
    DoneReason,
    GoodFor,
    OrderStatus,
    OrderType,
    ProductStatus,
    Reason,
    Scope,
    Side,
    StopType,
    TimeInForce,
)
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send

SECOND = 10**9
MONEY = 10**15
change = msgspec.structs.replace


def risk(command_id: str = "risk", currency: str = "", **limits: int) -> PutRiskLimits:
    return PutRiskLimits(OPERATOR, command_id, Scope.ACCOUNT, "ann", currency, **limits)


def status(to: ProductStatus, command_id: str) -> PutProduct:
    return PutProduct(OPERATOR, command_id, PRODUCT, "XBT", "USD", 1, 1, 1, AMOUNT_MAX, 0, 0, to)


def refused(outcome: AnyOutcome) -> tuple[Reason, str]:
    assert isinstance(outcome, Rejected), outcome
    return outcome.reason, outcome.field


def iceberg(command_id: str, size: int, price: int, display: int, side: Side = Side.BUY) -> PlaceOrder:
    return change(limit("ann", command_id, side, size, price), options=OrderOptions(display_size=display))


def test_the_position_counts_the_hidden_size_of_an_iceberg() -> None:
    engine = market()
    send(engine, risk(currency="XBT", position_max=MONEY + 1_000))
    placed(engine, iceberg("iceberg", 1_000, 5, 10))
    assert refused(send(engine, limit("ann", "more", Side.BUY, 1, 5))) == (Reason.RISK_LIMIT, "position_max")


def test_the_position_counts_what_a_stop_order_by_funds_would_buy() -> None:
    engine = market()
    send(engine, risk(currency="XBT", position_max=MONEY + 1_000))
    stop = PlaceOrder("ann", "stop", PRODUCT, Side.BUY, OrderType.MARKET, 0, 0, 9_000, stop=StopType.ENTRY, stop_price=10)
    placed(engine, stop)
    assert refused(send(engine, change(stop, command_id="again"))) == (Reason.RISK_LIMIT, "position_max")
    placed(engine, limit("ann", "less", Side.BUY, 100, 5))


def test_the_position_counts_one_order_of_a_pair() -> None:
    """When one order of a pair trades or leaves, the other one is cancelled."""
    engine = market()
    send(engine, risk(currency="XBT", position_max=MONEY + 1_000))
    paired = send(engine, PlacePair("ann", "pair", PRODUCT, Side.BUY, 1_000, 5, 20, 21))
    assert isinstance(paired, Paired)
    assert refused(send(engine, limit("ann", "more", Side.BUY, 1, 5))) == (Reason.RISK_LIMIT, "position_max")
    new = NewOrder(PRODUCT, Side.BUY, OrderType.LIMIT, price=5, size=1_001)
    assert refused(send(engine, ReplaceOrder("ann", "larger", paired.limit.order_id, "", PRODUCT, new))) == (
        Reason.RISK_LIMIT,
        "position_max",
    )
    fits = ReplaceOrder("ann", "fits", paired.limit.order_id, "", PRODUCT, change(new, size=1_000))
    assert isinstance(send(engine, fits), Replaced), "both orders of the pair leave"
    assert refused(send(engine, limit("ann", "again", Side.BUY, 1, 5))) == (Reason.RISK_LIMIT, "position_max")


@pytest.mark.parametrize("field", ["orders_max", "rate_max"])
def test_a_pair_counts_as_two_orders(field: str) -> None:
    engine = market()
    pair = PlacePair("ann", "pair", PRODUCT, Side.SELL, 1, 110, 90)
    send(engine, change(risk(), **{field: 1}))
    assert refused(send(engine, pair)) == (Reason.RISK_LIMIT, field)
    assert not engine.orders("ann")
    send(engine, change(risk("more"), **{field: 2}))
    assert isinstance(send(engine, change(pair, command_id="again")), Paired)


def test_an_amended_iceberg_has_no_more_slices_than_a_new_one() -> None:
    engine = market()
    order = placed(engine, iceberg("iceberg", 100, 5, 1))
    more = AmendOrder("ann", "more", order.order_id, size=DISPLAYS_PER_ORDER + 1)
    assert refused(send(engine, more)) == (Reason.INVALID_SIZE, "size")
    engine.check()


def test_fill_or_kill_meets_no_more_slices_than_it_needs() -> None:
    engine = market()
    icebergs = [iceberg(f"{n}", 100, 10 + n % 2, 1, Side.SELL) for n in range(2 * MAKERS_PER_ORDER // 100)]
    engine.apply(Batch(2, list[AnyCommand](icebergs)))
    taker = change(limit("bob", "fok", Side.BUY, 25, 11), time_in_force=TimeInForce.FOK)
    assert placed(engine, taker).filled_size == 25
    most = change(taker, command_id="most", size=MAKERS_PER_ORDER)
    assert placed(engine, most).filled_size == MAKERS_PER_ORDER
    over = placed(engine, change(taker, command_id="over", size=975))
    assert (over.filled_size, over.done_reason) == (975, DoneReason.FILLED)
    assert not engine.orders("ann")


def test_a_mass_cancel_checks_its_session() -> None:
    engine = market()
    assert refused(send(engine, CancelAll("ann", "all", session="no\nname"))) == (Reason.INVALID_ID, "session")


def test_an_order_for_an_auction_that_waits_for_its_turn_leaves_when_the_auction_is_over() -> None:
    engine = market()
    send(engine, status(ProductStatus.AUCTION, "auction"))
    engine._state.work_max = 1
    commands: list[AnyCommand] = [
        limit("ann", "first", Side.BUY, 1, 5),
        change(limit("ann", "second", Side.BUY, 1, 6), options=OrderOptions(good_for=GoodFor.AUCTION)),
        status(ProductStatus.ONLINE, "open"),
    ]
    engine.apply(Batch(3, commands))
    engine._state.work_max = WORK_PER_ENTRY
    events = engine.apply(Batch(4, [])).events
    assert [(event.order_id, event.reason) for event in events if isinstance(event, OrderDone)] == [(2, DoneReason.AUCTION_OVER)]
    assert [order.order_id for order in engine.orders("ann")] == [1]
    engine.check()


def opening() -> Engine:
    """Return an engine with a product whose auction is opening. Some orders of ann will not trade in it."""
    engine = market()
    send(engine, status(ProductStatus.AUCTION, "auction"))
    for name, side, price in (("ann", Side.BUY, 20), ("bob", Side.SELL, 10)):
        for first in range(0, 3_000, 1_000):
            commands = [limit(name, f"{name}-{number}", side, 1, price) for number in range(first, first + 1_000)]
            engine.apply(Batch(engine.time + 1, list[AnyCommand](commands)))
    for number in range(3):
        placed(engine, limit("ann", f"low-{number}", Side.BUY, 1, 5))
    return engine


def test_a_timer_that_fires_while_an_auction_opens_cancels_afterwards() -> None:
    engine = opening()
    send(engine, CancelAllAfter("ann", "timer", SECOND))
    engine.apply(Batch(engine.time + SECOND - 1, [status(ProductStatus.ONLINE, "open")]))
    assert engine.has_pending_work
    engine.apply(Batch(engine.time + 1, []))
    assert engine.orders("ann")
    engine = Engine.restore(dict(engine.tables()))
    for _ in range(20):
        engine.apply(Batch(engine.time + 1, []))
        engine.check()
    assert not engine.has_pending_work
    assert not engine.orders("ann")
    assert engine.orders("ann", done=True, limit=1)[0].done_reason is DoneReason.TIMER


def test_post_only_orders_that_are_cancelled_at_their_turn_are_work() -> None:
    engine = market()
    engine._state.work_max = 1
    orders = [limit("bob", "bid", Side.BUY, 1, 10)]
    orders += [change(limit("ann", f"{n}", Side.SELL, 1, 10), post_only=True) for n in range(5)]
    engine.apply(Batch(2, [limit("bob", "work", Side.BUY, 1, 1), *orders]))
    engine._state.work_max = WORK_PER_ENTRY
    engine.apply(Batch(3, []))
    assert engine._state.work == len(orders)
    assert not engine.orders("ann")


def test_an_entry_without_units_of_work_compares_no_order_with_the_accounts_own() -> None:
    engine = market()
    placed(engine, limit("bob", "ask", Side.SELL, 10, 10))
    for first in range(0, 2_000, 1_000):
        commands = [limit("ann", f"{number}", Side.BUY, 1, 5) for number in range(first, first + 1_000)]
        engine.apply(Batch(engine.time + 1, list[AnyCommand](commands)))
    send(engine, status(ProductStatus.AUCTION, "auction"))
    crossing = [limit("ann", f"crossing-{number}", Side.BUY, 1, 10) for number in range(300)]
    applied = engine.apply(Batch(engine.time + 1, list[AnyCommand](crossing)))
    assert all(isinstance(outcome, Placed) for outcome in applied.outcomes)
    assert engine._state.work < WORK_PER_ENTRY + 100
    while engine.has_pending_work:
        engine.apply(Batch(engine.time + 1, []))
    assert [order.status for order in engine.orders("ann", limit=300)] == [OrderStatus.ACTIVE] * 300
    engine.check()
