"""Controls beyond the scripts: many orders, work in several entries, rates in one second, random ends of auctions."""

from __future__ import annotations

from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelOrder,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PutCalendar,
    PutFirm,
    PutMember,
    PutProduct,
    PutProductLimits,
    PutRiskLimits,
    SetCalendar,
    SetSwitches,
)
from statemachine.engine import Engine
from statemachine.events import OrderDone, Placed, Rejected, StatusChanged, Switched
from statemachine.limits import AMOUNT_MAX, CALENDARS_MAX, MEMBERS_PER_FIRM, OPERATOR, PENDING_WORK_PER_ENTRY, WORK_PER_ENTRY
from statemachine.types import (
    CollarAction,
    DoneReason,
    OrderType,
    Phase,
    ProductStatus,
    Reason,
    Scope,
    Side,
    StatusCause,
    StopType,
    Switch,
)
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send

SECOND = 10**9
KILL = int(Switch.KILL)


def many(engine: Engine, account: str, count: int) -> None:
    """Place orders of an account at a hundred prices. Every tenth one is a stop order."""
    for first in range(0, count, 1_000):
        commands: list[AnyCommand] = []
        for number in range(first, min(first + 1_000, count)):
            stop = (StopType.LOSS, 5) if number % 10 == 0 else (StopType.NONE, 0)
            price = 10 + number % 100
            commands.append(
                PlaceOrder(
                    account, f"{account}-{number}", PRODUCT, Side.BUY, OrderType.LIMIT, price, 1, stop=stop[0], stop_price=stop[1]
                )
            )
        outcomes = engine.apply(Batch(engine.time + 1, commands)).outcomes
        assert all(isinstance(outcome, Placed) for outcome in outcomes)


def switch(scope: Scope, name: str, switches: int, command_id: str) -> SetSwitches:
    return SetSwitches(OPERATOR, command_id, scope, name, switches)


def test_a_kill_of_many_orders_takes_several_entries_and_lets_no_order_in() -> None:
    """The work of each entry is bounded, and the engine restarts between entries. The switch cannot be reset before the
    end. The owner can still cancel orders.
    """
    engine = market(names=("ann", "bob"))
    for name in ("ann", "bob"):
        many(engine, name, 4_000)
    outcome = send(engine, switch(Scope.VENUE, "", KILL, "kill"))
    assert isinstance(outcome, Switched)
    assert (outcome.changed, outcome.pending) == (True, True)
    assert 0 < outcome.cancelled <= WORK_PER_ENTRY
    refused = send(engine, switch(Scope.VENUE, "", 0, "too-soon"))
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.KILL_UNDER_WAY
    entries, left = 0, 8_000 - outcome.cancelled - PENDING_WORK_PER_ENTRY
    while engine.has_pending_work:
        entries += 1
        engine = Engine.restore(dict(engine.tables()))
        own = next(order for name in ("ann", "bob") for order in engine.orders(name, limit=1))
        commands: list[AnyCommand] = [
            CancelOrder(own.account_id, f"own-{entries}", own.order_id),
            limit("ann", f"new-{entries}", Side.BUY, 1, 10),
        ]
        applied = engine.apply(Batch(engine.time + 1, commands))
        killed = [event for event in applied.events if isinstance(event, OrderDone) and event.reason is DoneReason.KILLED]
        assert len(killed) <= PENDING_WORK_PER_ENTRY
        new = applied.outcomes[1]
        assert isinstance(new, Rejected)
        assert new.reason is Reason.KILL_SWITCH
        left -= len([event for event in applied.events if isinstance(event, OrderDone)])
        engine.check()
    assert left == 0
    assert entries >= 4
    assert not engine.orders("ann") + engine.orders("bob")
    assert isinstance(send(engine, switch(Scope.VENUE, "", 0, "on")), Switched)
    placed(engine, limit("ann", "again", Side.BUY, 1, 10))


def test_a_kill_waits_until_an_auction_has_opened() -> None:
    engine = market()
    send(engine, _status(ProductStatus.AUCTION, "auction"))
    for name, side, price in (("ann", Side.BUY, 20), ("bob", Side.SELL, 10)):
        for first in range(0, 3_000, 1_000):
            commands: list[AnyCommand] = [
                limit(name, f"{name}-{number}", side, 1, price) for number in range(first, first + 1_000)
            ]
            engine.apply(Batch(engine.time + 1, commands))
    send(engine, _status(ProductStatus.ONLINE, "open"))
    assert engine.has_pending_work
    outcome = send(engine, switch(Scope.PRODUCT, PRODUCT, KILL, "kill"))
    assert isinstance(outcome, Switched)
    assert (outcome.cancelled, outcome.pending) == (0, True)
    for _ in range(20):
        engine.apply(Batch(engine.time + 1, []))
        engine.check()
    assert not engine.orders("ann") + engine.orders("bob")


def _status(status: ProductStatus, command_id: str) -> PutProduct:
    return PutProduct(OPERATOR, command_id, PRODUCT, "XBT", "USD", 1, 1, 1, AMOUNT_MAX, 0, 0, status)


def test_the_number_of_accounts_of_a_firm_is_bounded() -> None:
    engine = market()
    engine.apply(Batch(2, [OpenAccount(OPERATOR, f"o{n}", f"member-{n}") for n in range(MEMBERS_PER_FIRM + 1)]))
    send(engine, PutFirm(OPERATOR, "firm", "acme"))
    outcomes = engine.apply(
        Batch(3, [PutMember(OPERATOR, f"m{n}", f"member-{n}", "acme") for n in range(MEMBERS_PER_FIRM + 1)])
    ).outcomes
    assert [isinstance(outcome, Rejected) for outcome in outcomes] == [False] * MEMBERS_PER_FIRM + [True]
    assert isinstance(outcomes[-1], Rejected)
    assert outcomes[-1].reason is Reason.FIRM_TOO_LARGE
    engine.check()


def test_the_number_of_calendars_is_bounded() -> None:
    engine = market()
    outcomes = engine.apply(Batch(2, [_calendar(f"c{n}") for n in range(CALENDARS_MAX + 1)])).outcomes
    assert isinstance(outcomes[-1], Rejected)
    assert outcomes[-1].reason is Reason.TOO_MANY_RULES


def test_the_order_rate_counts_orders_in_one_second_of_log_time() -> None:
    engine = market()
    send(engine, PutRiskLimits(OPERATOR, "rate", Scope.ACCOUNT, "ann", rate_max=2))
    for time, accepted in ((5 * SECOND, 2), (5 * SECOND + 7, 0), (6 * SECOND, 2)):
        outcomes = engine.apply(Batch(time, [limit("ann", f"{time}-{n}", Side.BUY, 1, 10) for n in range(3)])).outcomes
        assert sum(isinstance(outcome, Placed) for outcome in outcomes) == accepted
        engine.check()
    refused = outcomes[-1]
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.field) == (Reason.RISK_LIMIT, "rate_max")
    assert "is 2" in refused.detail


def test_exits_count_in_the_second_in_which_they_enter() -> None:
    engine = market()
    send(engine, PutRiskLimits(OPERATOR, "rate", Scope.ACCOUNT, "ann", rate_max=3))
    options = OrderOptions(take_profit=20, stop_loss=5)
    entry = PlaceOrder("ann", "entry", PRODUCT, Side.BUY, OrderType.LIMIT, 10, 1, options=options)
    commands: list[AnyCommand] = [entry, limit("bob", "sell", Side.SELL, 1, 10), limit("ann", "next", Side.BUY, 1, 3)]
    outcomes = engine.apply(Batch(9 * SECOND, commands)).outcomes
    assert isinstance(outcomes[2], Rejected)
    assert (outcomes[2].reason, outcomes[2].field) == (Reason.RISK_LIMIT, "rate_max")
    assert [order.order_id for order in engine.orders("ann")] == [4, 3]


def test_summing_up_a_position_is_bounded_in_each_entry() -> None:
    """Each order under the limit reads thousands of orders. An entry reads no more than its bound, and the next entry
    can check further orders.
    """
    engine = market(names=("ann", "bob"))
    many(engine, "ann", 8_000)
    send(engine, PutRiskLimits(OPERATOR, "limit", Scope.ACCOUNT, "ann", "XBT", position_max=AMOUNT_MAX))
    for entry in range(2):
        outcomes = engine.apply(
            Batch(engine.time + 1, [limit("ann", f"{entry}-{number}", Side.BUY, 1, 10) for number in range(20)])
        ).outcomes
        accepted = sum(isinstance(outcome, Placed) for outcome in outcomes)
        assert 2 <= accepted < 8
        refused = outcomes[-1]
        assert isinstance(refused, Rejected)
        assert "send it again" in refused.detail
        engine.check()


def _calendar(calendar_id: str, random_ns: int = 0) -> PutCalendar:
    day = [(0, Phase.AUCTION), (60, Phase.CONTINUOUS)]
    return PutCalendar(OPERATOR, f"put-{calendar_id}", calendar_id, "UTC", [(0, 0)], [day] * 7, [], random_ns)


def test_an_auction_ends_at_a_random_moment_that_is_the_same_on_every_node() -> None:
    ends = []
    for seed in range(8):
        engine = market(names=("ann", "bob", f"other-{seed}"))  # another history, hence another running hash
        send(engine, _calendar("c", 30 * SECOND))
        send(engine, SetCalendar(OPERATOR, "set", Scope.VENUE, "", "c"))
        engine.apply(Batch(2 * SECOND, []))
        phase = engine.phase(PRODUCT)
        assert phase is not None
        assert 60 * SECOND <= phase.ends_at <= 90 * SECOND
        assert phase.ends_at == engine.next_expiry
        ends.append(phase.ends_at)
        other = Engine.restore(dict(engine.tables()))
        for each in (engine, other):
            early = each.apply(Batch(phase.ends_at - 1, [])).events
            late = each.apply(Batch(phase.ends_at, [])).events
            assert early == []
            assert [event.status for event in late if isinstance(event, StatusChanged)] == [ProductStatus.ONLINE]
        assert engine.state_hash == other.state_hash
    assert len(dict.fromkeys(ends)) > 4


def test_a_volatility_interruption_ends_at_a_random_moment() -> None:
    ends = []
    for seed in range(6):
        engine = market(names=("ann", "bob", f"other-{seed}"))
        limits = PutProductLimits(OPERATOR, "l", PRODUCT, 50_000, 0, CollarAction.AUCTION, 0, 60 * SECOND, 30 * SECOND)
        for command in (limit("ann", "s1", Side.SELL, 1, 100), limit("bob", "b1", Side.BUY, 1, 100), limits):
            send(engine, command)
        placed(engine, limit("ann", "s2", Side.SELL, 1, 110))
        order = placed(engine, limit("bob", "b2", Side.BUY, 1, 110))
        assert order.remaining == 1
        (row,) = engine.records("interruption")
        assert 60 * SECOND <= row.ends_at - engine.time <= 90 * SECOND
        ends.append(row.ends_at - engine.time)
        status = engine.apply(Batch(row.ends_at, [])).events[-1]
        assert isinstance(status, StatusChanged)
        assert (status.cause, status.open_price) == (StatusCause.COLLAR, 110)
    assert len(dict.fromkeys(ends)) > 3


def test_the_clock_jumps_over_a_night_and_a_closing_auction_opens_on_the_way() -> None:
    """However many phases lie between two entries, there is one change of status, and the collected orders trade."""
    engine = market()
    day = [(0, Phase.CLOSING_AUCTION), (60, Phase.CLOSED)]
    send(engine, PutCalendar(OPERATOR, "put", "c", "UTC", [(0, 0)], [day] * 7))
    send(engine, SetCalendar(OPERATOR, "set", Scope.PRODUCT, PRODUCT, "c"))
    engine.apply(Batch(SECOND, []))
    placed(engine, limit("ann", "b", Side.BUY, 3, 20))
    placed(engine, limit("bob", "s", Side.SELL, 3, 20))
    events = engine.apply(Batch(40 * 86_400 * SECOND + 3_600 * SECOND, [])).events
    (status,) = [event for event in events if isinstance(event, StatusChanged)]
    assert (status.status, status.open_size, status.cause) == (ProductStatus.CANCEL_ONLY, 3, StatusCause.CALENDAR)
    engine.check()


def test_the_flag_that_controls_exist_is_set_only_while_they_do() -> None:
    engine = market()
    found = [engine._state.guarded]
    for number, switches in enumerate((1, 0)):
        send(engine, switch(Scope.ACCOUNT, "ann", switches, f"switch-{number}"))
        found.append(engine._state.guarded)
    assert found == [False, True, False]
