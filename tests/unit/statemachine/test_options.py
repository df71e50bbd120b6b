"""Bounds of orders with options, of mass cancels and of the timers that cancel all orders."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    CancelAllAfter,
    Deposit,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PutCurrency,
    PutProduct,
)
from statemachine.engine import Engine
from statemachine.events import Armed, Cancelled, OrderDone, Placed, Rejected
from statemachine.limits import (
    CANCEL_AFTERS_PER_ACCOUNT,
    DAY_NS,
    MASS_CANCELS_PER_ACCOUNT,
    OPERATOR,
    TRAILING_PER_PRODUCT,
    WORK_PER_ENTRY,
)
from statemachine.types import DoneReason, GoodFor, OrderType, Reason, Side, StopType, TimeInForce

SECOND = 10**9
PRODUCT = "XBT-USD"


def market() -> Engine:
    engine = Engine()
    commands: list[AnyCommand] = [
        PutCurrency(OPERATOR, "c1", "USD", 0),
        PutCurrency(OPERATOR, "c2", "XBT", 0),
        PutProduct(OPERATOR, "p", PRODUCT, "XBT", "USD", 1, 1, 1, 10**6, 0, 0),
    ]
    for name in ("ann", "bob"):
        commands += [OpenAccount(OPERATOR, f"o-{name}", name)]
        commands += [Deposit(name, f"d-{currency}", currency, 10**12) for currency in ("USD", "XBT")]
    engine.apply(Batch(1, commands))
    return engine


def order(number: int, side: Side, price: int, options: OrderOptions | None = None, account: str = "ann") -> PlaceOrder:
    return PlaceOrder(account, f"n{number}", PRODUCT, side, OrderType.LIMIT, price, 1, options=options)


def fill(engine: Engine, count: int, side: Side, price: int, options: OrderOptions | None = None) -> None:
    for start in range(0, count, 1_000):
        engine.apply(Batch(2, [order(number, side, price, options) for number in range(start, min(start + 1_000, count))]))


def test_a_mass_cancel_of_one_side_continues_in_later_entries_and_keeps_the_other_side() -> None:
    engine = market()
    engine.apply(Batch(2, [order(10_000, Side.SELL, 900)]))
    fill(engine, WORK_PER_ENTRY + 500, Side.BUY, 100)
    first = engine.apply(Batch(3, [CancelAll("ann", "all", PRODUCT, int(Side.BUY))])).outcomes[0]
    assert isinstance(first, Cancelled)
    assert first.pending
    assert engine.has_pending_work
    engine.check()
    engine = Engine.restore(dict(engine.tables()))
    time = 4
    while engine.has_pending_work:
        engine.apply(Batch(time, []))
        time += 1
    engine.check()
    assert [each.side for each in engine.orders("ann")] == [Side.SELL]


def test_the_number_of_unfinished_mass_cancels_of_an_account_is_bounded() -> None:
    engine = market()
    fill(engine, WORK_PER_ENTRY + 100, Side.BUY, 100)
    more: list[AnyCommand] = [
        CancelAll("ann", f"m{number}", PRODUCT, 0, number + 1) for number in range(MASS_CANCELS_PER_ACCOUNT)
    ]
    applied = engine.apply(Batch(3, [CancelAll("ann", "all"), *more]))
    last = applied.outcomes[-1]
    assert isinstance(last, Rejected)
    assert last.reason is Reason.TOO_MANY_CANCELS
    engine.check()


def test_the_number_of_timers_of_an_account_is_bounded() -> None:
    engine = market()
    commands: list[AnyCommand] = [
        CancelAllAfter("ann", f"t{number}", 5 * SECOND, f"s{number}") for number in range(CANCEL_AFTERS_PER_ACCOUNT + 1)
    ]
    outcomes = engine.apply(Batch(SECOND, commands)).outcomes
    assert all(isinstance(outcome, Armed) for outcome in outcomes[:-1])
    assert isinstance(outcomes[-1], Rejected)
    assert outcomes[-1].reason is Reason.TOO_MANY_TIMERS
    again = engine.apply(Batch(SECOND, [CancelAllAfter("ann", "again", 5 * SECOND, "s0")])).outcomes[0]
    assert isinstance(again, Armed), "a timer that is set may be moved"
    freed = [CancelAllAfter("ann", "off", 0, "s1"), CancelAllAfter("ann", "new", 9 * SECOND, "new")]
    assert all(isinstance(outcome, Armed) for outcome in engine.apply(Batch(SECOND, [*freed])).outcomes)
    engine.check()
    for same in (engine, Engine.restore(dict(engine.tables()))):
        (full,) = same.apply(Batch(2 * SECOND, [CancelAllAfter("ann", "full", SECOND, "more")])).outcomes
        assert isinstance(full, Rejected)
        (later,) = same.apply(Batch(7 * SECOND, [CancelAllAfter("ann", "later", SECOND, "more")])).outcomes
        assert isinstance(later, Armed), "the other timers have expired"
        same.check()


def test_a_timer_cancels_more_orders_than_fit_one_entry() -> None:
    engine = market()
    fill(engine, WORK_PER_ENTRY + 500, Side.BUY, 100, OrderOptions("s"))
    engine.apply(Batch(3, [order(20_000, Side.BUY, 100), CancelAllAfter("ann", "t", SECOND, "s")]))
    done = 0
    for time in range(SECOND + 3, SECOND + 10):
        events = engine.apply(Batch(time, [])).events
        done += sum(1 for event in events if isinstance(event, OrderDone) and event.reason is DoneReason.TIMER)
    assert done == WORK_PER_ENTRY + 500
    assert not engine.has_pending_work
    assert len(engine.orders("ann")) == 1
    engine.check()


def test_the_number_of_trailing_stops_is_bounded_and_they_move_together() -> None:
    engine = market()
    engine.apply(Batch(2, [order(50_000, Side.SELL, 1_000), order(50_001, Side.BUY, 1_000, account="bob")]))

    def trailing(number: int) -> PlaceOrder:
        stop = {"stop": StopType.LOSS, "options": OrderOptions(trail=100)}
        return PlaceOrder("ann", f"n{number}", PRODUCT, Side.SELL, OrderType.MARKET, 0, 1, **stop)  # type: ignore[arg-type]

    outcomes = engine.apply(Batch(3, [trailing(number) for number in range(TRAILING_PER_PRODUCT + 1)])).outcomes
    assert isinstance(outcomes[-1], Rejected)
    assert outcomes[-1].reason is Reason.TOO_MANY_TRAILING
    engine.apply(Batch(4, [order(50_002, Side.SELL, 1_500), order(50_003, Side.BUY, 1_500, account="bob")]))
    assert {each.stop_price for each in engine.orders("ann", limit=10_000)} == {1_400}
    engine.check()
    assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()


@pytest.mark.parametrize("before", [2 * SECOND, SECOND, 1])
def test_an_order_that_is_good_for_the_day_enters_in_the_last_second_of_the_day(before: int) -> None:
    engine = market()
    good = replace(order(1, Side.BUY, 100, OrderOptions(good_for=GoodFor.DAY)), time_in_force=TimeInForce.GTT)
    (outcome,) = engine.apply(Batch(DAY_NS - before, [good])).outcomes
    assert isinstance(outcome, Placed)
    assert outcome.order.expires_at == DAY_NS
    (done,) = engine.apply(Batch(DAY_NS, [])).events
    assert isinstance(done, OrderDone)
    assert done.reason is DoneReason.EXPIRED
