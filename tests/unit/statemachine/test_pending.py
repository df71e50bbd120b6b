"""No entry does more work than its bound. Unfinished work continues in the next entries, with the same result as one
entry without a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from statemachine import limits, stops
from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    CancelOrder,
    Deposit,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PutProduct,
)
from statemachine.engine import Engine
from statemachine.entities import Order
from statemachine.events import AnyEvent, Cancelled, OrderDone, OrderMatched, OrderOpened, Placed, Rejected, StatusChanged
from statemachine.limits import (
    AMOUNT_MAX,
    ARRIVAL_WORK,
    EVENTS_PER_ENTRY,
    MAKERS_PER_ORDER,
    OPERATOR,
    PENDING_WORK_PER_ENTRY,
    WORK_PER_ENTRY,
)
from statemachine.state import State
from statemachine.types import (
    DoneReason,
    OrderStatus,
    OrderType,
    ProductStatus,
    Reason,
    SelfTradePrevention,
    Side,
    StopType,
    TimeInForce,
)
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send

SECOND = 10**9
MOST = WORK_PER_ENTRY + MAKERS_PER_ORDER
change = msgspec.structs.replace


def status(to: ProductStatus, name: str) -> PutProduct:
    return PutProduct(OPERATOR, name, PRODUCT, "XBT", "USD", 1, 1, 1, AMOUNT_MAX, 0, 0, to)


def apply(engine: Engine, commands: list[AnyCommand], time: int = 0) -> list[AnyEvent]:
    """Apply a batch, and check the bounds of the entry and the state."""
    applied = engine.apply(Batch(time or engine.time + 1, commands))
    assert not [outcome for outcome in applied.outcomes if isinstance(outcome, Rejected)]
    assert engine._state.work <= MOST + len(commands)
    assert len(applied.events) <= EVENTS_PER_ENTRY
    return applied.events


def in_pieces(engine: Engine, commands: list[AnyCommand]) -> list[AnyEvent]:
    """Apply commands a thousand at a time, then let their work finish."""
    events = []
    for first in range(0, len(commands), 1_000):
        events += apply(engine, commands[first : first + 1_000])
    return events + finish(engine)


def finish(engine: Engine) -> list[AnyEvent]:
    """Apply empty entries until no work is unfinished. After the second entry the engine is restored from its tables."""
    events: list[AnyEvent] = []
    entries = 0
    while engine.has_pending_work:
        events += apply(engine, [])
        engine.check()
        entries += 1
        assert entries < 1_000, "the work does not end"
        if entries == 2:
            restored = Engine.restore({name: list(reversed(rows)) for name, rows in engine.tables()})
            assert restored.full_hash() == engine.full_hash()
            engine._state = restored._state
    return events


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], None]:
    """Return a function that removes the bound of an entry from an engine. The bound of an order stays."""

    def take_away(engine: Engine) -> None:
        engine._state.work_max = 10**9
        monkeypatch.setattr("statemachine.pending.PENDING_WORK_PER_ENTRY", 10**9)
        monkeypatch.setattr("statemachine.stops.STOPS_TAKEN", 10**9)

    return take_away


def trades(events: list[AnyEvent]) -> list[tuple[int, int, int, int]]:
    return [(e.maker_order_id, e.taker_order_id, e.price, e.size) for e in events if isinstance(e, OrderMatched)]


def cascade() -> list[AnyCommand]:
    """Return commands after which one trade triggers 5,000 stop orders. Each of them sells to the next bid."""
    resting: list[AnyCommand] = [limit("bob", f"bid-{n}", Side.BUY, 1, 100 + n % 50) for n in range(6_000)]
    stops: list[AnyCommand] = [
        change(limit("ann", f"stop-{n}", Side.SELL, 1, 1), stop=StopType.LOSS, stop_price=149) for n in range(5_000)
    ]
    return [*resting, *stops, limit("bob", "trade", Side.SELL, 1, 149, ioc=True), limit("ann", "trade", Side.SELL, 1, 100)]


def test_a_cascade_of_stop_orders_continues_in_later_entries() -> None:
    engine = market()
    apply_all = cascade()
    in_pieces(engine, apply_all[:-2])
    events = apply(engine, apply_all[-1:])
    assert engine.has_pending_work
    assert 0 < len(trades(events)) <= MOST
    new = send(engine, limit("bob", "new", Side.BUY, 1, 200))
    assert isinstance(new, Placed)
    assert (new.order.status, new.order.queued > 0) == (OrderStatus.ACTIVE, True), "the new order waits behind the cascade"
    gone = send(engine, CancelOrder("ann", "cancel", engine.orders("ann")[0].order_id))
    assert isinstance(gone, Cancelled), "a cancel does not wait"
    finish(engine)
    assert engine.orders("bob", limit=10_000)[0].order_id != new.order.order_id or engine.orders("bob")[0].queued == 0


def test_a_cascade_in_several_entries_trades_the_same_as_in_one(unbounded: Callable[[Engine], None]) -> None:
    bounded = market()
    pieces = in_pieces(bounded, cascade())
    whole = market()
    unbounded(whole)
    at_once: list[AnyEvent] = []
    for first in range(0, len(cascade()), 1_000):
        at_once += whole.apply(Batch(whole.time + 1, cascade()[first : first + 1_000])).events
    assert trades(pieces) == trades(at_once)
    assert len(trades(pieces)) == 5_001
    assert bounded.book_orders(PRODUCT, Side.BUY) == whole.book_orders(PRODUCT, Side.BUY)
    assert bounded.balances("ann") == whole.balances("ann")


def test_an_order_trades_with_a_bounded_number_of_makers_and_its_rest_is_cancelled() -> None:
    engine = market()
    in_pieces(engine, [limit("ann", f"{n}", Side.SELL, 1, 10 + n) for n in range(MAKERS_PER_ORDER + 5)])
    for tif in (TimeInForce.GTC, TimeInForce.IOC):
        killed = change(limit("bob", f"fok-{tif}", Side.BUY, MAKERS_PER_ORDER + 1, 10**4), time_in_force=TimeInForce.FOK)
        order = placed(engine, killed)
        assert (order.filled_size, order.done_reason) == (0, DoneReason.MAKERS_MAX)
        whole = change(killed, command_id=f"whole-{tif}", size=MAKERS_PER_ORDER)
        assert placed(engine, whole).filled_size == MAKERS_PER_ORDER
        in_pieces(engine, [limit("ann", f"{tif}-{n}", Side.SELL, 1, 10 + n) for n in range(MAKERS_PER_ORDER)])
        order = placed(engine, change(limit("bob", f"{tif}", Side.BUY, 10**6, 10**5), time_in_force=tif))
        assert (order.filled_size, order.status, order.hold) == (MAKERS_PER_ORDER, OrderStatus.DONE, 0)
        assert order.done_reason is DoneReason.MAKERS_MAX
        in_pieces(engine, [limit("ann", f"{tif}-again-{n}", Side.SELL, 1, 10 + n) for n in range(MAKERS_PER_ORDER)])
    engine.check()


def test_a_fill_or_kill_order_within_its_bound_trades_past_its_own_orders() -> None:
    engine = market()
    own = MAKERS_PER_ORDER - 1
    in_pieces(engine, [limit("bob", f"own-{n}", Side.SELL, 1, 10) for n in range(own)])
    placed(engine, limit("ann", "a", Side.SELL, 5, 11))
    placed(engine, limit("ann", "b", Side.SELL, 5, 12))
    order = change(limit("bob", "x", Side.BUY, 5, 12), time_in_force=TimeInForce.FOK, stp=SelfTradePrevention.CO)
    assert placed(engine, change(order, command_id="y", size=6)).done_reason is DoneReason.MAKERS_MAX
    assert placed(engine, order).filled_size == 5
    assert engine.orders("bob") == []


def test_expiries_continue_in_later_entries_and_no_order_trades_after_its_time(unbounded: Callable[[Engine], None]) -> None:
    engine = market()
    lasting = change(limit("ann", "", Side.SELL, 1, 10), time_in_force=TimeInForce.GTT, cancel_after=SECOND)
    for first in range(0, 5_000, 1_000):
        apply(engine, [change(lasting, command_id=f"{n}", price=10 + n) for n in range(first, first + 1_000)], time=2)
    buy = limit("bob", "late", Side.BUY, 5, 10**4)
    events = apply(engine, [buy], time=2 + SECOND)
    assert engine.has_pending_work
    assert trades(events) == []
    left = [event for event in events if isinstance(event, OrderDone)]
    assert len(left) == PENDING_WORK_PER_ENTRY + ARRIVAL_WORK
    assert {event.reason for event in left} == {DoneReason.EXPIRED}
    assert trades(finish(engine)) == []
    assert engine.levels(PRODUCT, Side.SELL, 1) == []
    assert engine.levels(PRODUCT, Side.BUY, 1) == [(10**4, 5, 1)]


def auction(accounts: int, each: int) -> list[AnyCommand]:
    return [
        limit(f"t{account}", f"{n}", Side.SELL if account % 2 else Side.BUY, 1 + n % 3, 100 + n % 7)
        for n in range(each)
        for account in range(accounts)
    ]


def test_an_auction_that_opens_in_several_entries_trades_the_same_as_in_one(unbounded: Callable[[Engine], None]) -> None:
    names = tuple(f"t{n}" for n in range(10))

    def collected() -> Engine:
        engine = market(names=names)
        send(engine, status(ProductStatus.AUCTION, "auction"))
        in_pieces(engine, auction(10, 1_500))
        return engine

    bounded, whole = collected(), collected()
    indication = bounded.auction(PRODUCT)
    assert indication is not None
    events = apply(bounded, [status(ProductStatus.ONLINE, "open")])
    assert bounded.has_pending_work
    resting = bounded.orders("t0", limit=1)[0]
    for refused in (
        CancelOrder("t0", "no", resting.order_id),
        status(ProductStatus.OFFLINE, "no"),
        CancelAll("t0", "none", PRODUCT),
    ):
        applied = bounded.apply(Batch(bounded.time + 1, [refused]))
        events += applied.events
        outcome = applied.outcomes[0]
        assert isinstance(outcome, Rejected)
        assert outcome.reason is Reason.AUCTION_OPENING
    events += apply(bounded, [limit("t1", "new", Side.SELL, 1, 1)])
    assert bounded.orders("t1", limit=1)[0].queued > 0
    events += finish(bounded)
    (opening_change,) = [event for event in events if isinstance(event, StatusChanged)]
    assert (opening_change.open_price, opening_change.open_size) == (indication.price, indication.size)
    unbounded(whole)
    at_once = whole.apply(Batch(whole.time + 1, [status(ProductStatus.ONLINE, "open")])).events
    assert not whole.has_pending_work
    assert [e for e in trades(events) if e[1] != bounded.orders("t1", done=True, limit=1)[0].order_id] == trades(at_once)
    opened = [event.order_id for event in at_once if isinstance(event, OrderOpened)]
    assert [event.order_id for event in events if isinstance(event, OrderOpened)] == opened


def test_a_mass_cancel_continues_in_later_entries_and_keeps_later_orders() -> None:
    engine = market()
    in_pieces(engine, [limit("ann", f"{n}", Side.BUY, 1, 10) for n in range(5_000)])
    outcome = send(engine, CancelAll("ann", "all"))
    assert isinstance(outcome, Cancelled)
    assert outcome.pending
    later = placed(engine, limit("ann", "later", Side.BUY, 1, 10))
    finish(engine)
    assert [order.order_id for order in engine.orders("ann")] == [later.order_id]


def test_many_mass_cancels_in_one_entry_share_its_bound_of_work() -> None:
    names = tuple(f"t{n}" for n in range(8))
    engine = market(names=names)
    for name in names:
        in_pieces(engine, [limit(name, f"{n}", Side.BUY, 1, 10) for n in range(1_000)])
    events = apply(engine, [CancelAll(name, "all", PRODUCT if name == "t7" else "") for name in names])
    assert len(events) <= MOST
    assert engine.has_pending_work
    finish(engine)
    assert engine.levels(PRODUCT, Side.BUY, 1) == []


def test_orders_beyond_the_bound_of_an_entry_enter_in_the_next_one(unbounded: Callable[[Engine], None]) -> None:
    """Four orders each trade with as many makers as an order may. The fourth enters in the next entry, before the
    commands of that entry.
    """
    engine = market()
    in_pieces(engine, [limit("ann", f"{n}", Side.SELL, 1, 10) for n in range(4_500)])
    flow = [limit("bob", f"take-{n}", Side.BUY, MAKERS_PER_ORDER, 10) for n in range(4)]
    late = change(limit("bob", "post", Side.BUY, 1, 9), post_only=True)
    applied = engine.apply(Batch(engine.time + 1, [*flow, late]))
    states = [outcome.order.status for outcome in applied.outcomes if isinstance(outcome, Placed)]
    assert states == [OrderStatus.DONE] * 3 + [OrderStatus.ACTIVE] * 2
    bigger = engine.apply(Batch(engine.time + 1, [limit("bob", "more", Side.BUY, 100, 10)]))
    fills = [event.taker_order_id for event in bigger.events if isinstance(event, OrderMatched)]
    assert fills == sorted(fills)
    assert len(fills) == MAKERS_PER_ORDER + 100
    assert engine.order_by_client_oid("bob", "post") is None
    engine.check()


def test_a_product_that_is_busy_does_not_delay_another() -> None:
    engine = market()
    setting_up: list[AnyCommand] = [
        change(status(ProductStatus.ONLINE, "second"), product_id="XBT-2", base="XBT"),
        OpenAccount(OPERATOR, "zoe", "zoe"),
        Deposit("zoe", "money", "USD", 10**6),
        Deposit("zoe", "coins", "XBT", 10**6),
    ]
    apply(engine, setting_up)
    commands = cascade()
    in_pieces(engine, commands[:-2])
    apply(engine, commands[-1:])
    assert engine.has_pending_work
    other = placed(engine, PlaceOrder("zoe", "1", "XBT-2", Side.BUY, OrderType.LIMIT, 10, 1))
    assert other.status is OrderStatus.OPEN


def test_queued_orders_are_cancelled_when_their_product_accepts_no_more_orders() -> None:
    engine = market()
    commands = cascade()
    in_pieces(engine, commands[:-2])
    apply(engine, commands[-1:])
    queued = placed(engine, limit("bob", "new", Side.SELL, 1, 500))
    assert queued.queued > 0
    apply(engine, [status(ProductStatus.CANCEL_ONLY, "stop")])
    finish(engine)
    after = engine.order(queued.order_id)
    assert after is not None
    assert after.done_reason is DoneReason.CANCELLED
    waiting = [order for order in engine.orders("ann", limit=10**4) if order.queued]
    assert waiting, "triggered stop orders wait until the product trades again"
    apply(engine, [status(ProductStatus.ONLINE, "go-on")])
    finish(engine)
    assert not [order for order in engine.orders("ann", limit=10**4) if order.stop]


def test_the_bounds_of_an_entry_are_consistent() -> None:
    assert PENDING_WORK_PER_ENTRY <= limits.WORK_PER_ENTRY
    assert limits.EVENTS_PER_ENTRY >= MOST * 2


def test_a_queued_order_that_is_cancelled_leaves_no_unfinished_work() -> None:
    """A product is busy after an entry if and only if it is busy after a restart, so both engines continue with the
    same bytes.
    """
    engine = market()
    engine._state.work_max = 2
    ids = iter(range(1, 10))
    buys: list[AnyCommand] = [limit("ann", f"buy-{number}", Side.BUY, 1, number) for number in ids]
    apply(engine, [*buys[:3], CancelOrder("ann", "cancel", 3)])
    assert not engine.has_pending_work
    other = Engine.restore(dict(engine.tables()))
    other._state.work_max = 2
    for command in buys[3:]:
        assert engine.apply(Batch(engine.time + 1, [command])) == other.apply(Batch(other.time + 1, [command]))
        assert engine.full_hash() == other.full_hash()


def test_a_cascade_beside_orders_with_options_examines_each_of_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stop order of a cascade trades and triggers others. The linked orders of earlier trades have left the book
    already.
    """
    looks = []

    def unlink(state: State, order: Order) -> None:
        looks.append(order.order_id)
        original(state, order)

    original = stops.unlink
    monkeypatch.setattr(stops, "unlink", unlink)
    engine, exits, tag = market(), OrderOptions(take_profit=20_000, stop_loss=5), OrderOptions(session="s")
    first = [change(limit("ann", f"first-{n}", Side.BUY, 1, 9_999), options=exits) for n in range(100)]
    deeper = [change(limit("ann", f"deeper-{n}", Side.BUY, 1, 9_000), options=tag) for n in range(100)]
    cascade = [
        PlaceOrder("ann", f"s{n}", PRODUCT, Side.SELL, OrderType.MARKET, 0, 1, stop=StopType.LOSS, stop_price=price)
        for n, price in enumerate([3, *[9_999] * 100])
    ]
    stopped = [change(order, account_id="bob") for order in cascade]
    for orders in (first, deeper, stopped):
        apply(engine, list[AnyCommand](orders))
    looks.clear()
    events = apply(engine, [limit("bob", "sell", Side.SELL, 100, 1, ioc=True)])
    assert len([event for event in events if isinstance(event, OrderMatched)]) == 200
    assert len(looks) <= 2 * len([*first, *deeper, *stopped])
