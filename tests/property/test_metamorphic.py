"""Two ways to the same end: flows of commands that must lead to equal exchanges though they differ.

No model of the rules is needed for that. All kinds of commands take part, with controls, options, auctions, fee rules
and corrections of trades.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec
import pytest

from statemachine import pending
from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    Batch,
    CancelOrder,
    DecideProposal,
    Grant,
    NewOrder,
    PlaceOrder,
    PutApiKey,
    PutProductLimits,
    PutUser,
    ReplaceOrder,
    SetAccess,
)
from statemachine.engine import Engine
from statemachine.events import Amended, AnyEvent, OrderMatched, OrderState, Rejected, Replaced
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import (
    CollarAction,
    Decision,
    OrderType,
    Permission,
    ProductStatus,
    Role,
    Scope,
    Side,
    StopType,
    TimeInForce,
)
from tests.property.flows import fortune, fortunes
from tests.property.operators import calendar_command, correction
from tests.property.worlds import (
    ACCOUNTS,
    PRODUCTS,
    SECOND,
    auction_command,
    busy_command,
    control_command,
    fee_command,
    foundations,
    options_command,
)

RICH = ("rich", "richer")

Flow = list[tuple[int, AnyCommand]]
"""Commands with their times."""


USERS = ("rita", "vera")


def users(consent: int) -> list[AnyCommand]:
    """Return two users who may do everything. A command of the permissions `consent` of one waits for the other one."""
    grants = [Grant(Role.MARKET_OPERATOR, Scope.VENUE), Grant(Role.ADMINISTRATOR, Scope.VENUE)]
    made: list[AnyCommand] = [PutUser(OPERATOR, f"user-{name}", name, grants) for name in USERS]
    key = ("c2VjcmV0", "", Permission.ADMIN)
    made += [PutApiKey(OPERATOR, f"key-{name}", f"k-{name}", OPERATOR, *key, user_id=name) for name in USERS]
    return [*made, SetAccess(OPERATOR, "access", True, consent, 600 * SECOND if consent else 0)]


def everything(random: Random, count: int, money: int = 5_000, *, sessions: bool = True) -> tuple[Flow, Engine]:
    """Draw a flow with all kinds of commands, with calendars if there are `sessions`. Returns it and the engine after
    it.
    """
    engine, flow, trades = Engine(), Flow(), list[OrderMatched]()
    for foundation in foundations(random.choice([(0, 0), (1_000, 3_000), (-1_000, 3_000)]), money):
        flow.append((1, foundation))
        engine.apply(Batch(1, [foundation]))
    makers: list[Callable[[Random, int], AnyCommand]] = [busy_command, options_command, control_command, auction_command]
    for command in users(random.choice([0, Permission.SWITCH + Permission.LIMIT])):
        flow.append((1, command))
        assert not any(isinstance(outcome, Rejected) for outcome in engine.apply(Batch(1, [command])).outcomes)
    now = 1
    for number in range(count):
        now += random.choice([0, 1, SECOND, SECOND, 20 * SECOND, 90 * SECOND])
        command = random.choice(makers)(random, number)
        chance = random.random()
        if chance < 0.05:
            command = correction(random, number, trades)
        elif chance < 0.08:
            command = fee_command(random, f"c{number}")
        elif chance < 0.11 and sessions:
            command = calendar_command(random, number)
        elif chance < 0.15:
            proposal = random.randrange(1, len(flow) + 1)
            command = DecideProposal(OPERATOR, f"c{number}", proposal, random.choice(list(Decision)))
        if command.account_id == OPERATOR and random.random() < 0.7:
            command = msgspec.structs.replace(command, account_id=f"operator/{random.choice(USERS)}")
        flow.append((now, command))
        trades += [event for event in engine.apply(Batch(now, [command])).events if isinstance(event, OrderMatched)]
    return flow, engine


def tables(engine: Engine) -> dict[str, Any]:
    """Return all tables except the counters and the reply caches."""
    return {name: rows for name, rows in engine.tables() if name not in ("counter", "outcome")}


def copy(engine: Engine) -> Engine:
    return Engine.restore(dict(engine.tables()))


def bounded(engine: Engine) -> Engine:
    """Make an engine that does so little work in an entry that it leaves most of it to the next entries."""
    engine._state.work_max, engine._state.makers_max = 6, 4
    return engine


@pytest.mark.parametrize("seed", range(20))
def test_a_restart_at_any_command_changes_no_later_byte(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most entries leave unfinished work."""
    monkeypatch.setattr(pending, "PENDING_WORK_PER_ENTRY", 3)
    random = Random(seed)
    flow, _ = everything(random, 150)
    engine, other = bounded(Engine()), bounded(Engine())
    for place, (now, command) in enumerate(flow):
        if place > len(flow) // 3 and random.random() < 0.3:
            other = bounded(copy(other))
        batch = Batch(now, [command])
        assert engine.apply(batch) == other.apply(batch)
        assert engine.state_hash == other.state_hash
    assert engine.full_hash() == other.full_hash()


@pytest.mark.parametrize("seed", range(20))
def test_commands_of_one_time_may_come_in_any_batches(seed: int) -> None:
    random = Random(seed)
    flow, _ = everything(random, 200, sessions=False)  # a calendar is read with the next entry
    alone, together = Engine(), Engine()
    events: tuple[list[AnyEvent], list[AnyEvent]] = ([], [])
    place = 0
    while place < len(flow):
        now, end = flow[place][0], place + 1
        while end < len(flow) and flow[end][0] == now and random.random() < 0.9:
            end += 1
        commands = [command for _, command in flow[place:end]]
        events[0].extend(event for command in commands for event in alone.apply(Batch(now, [command])).events)
        events[1].extend(together.apply(Batch(now, commands)).events)
        place = end
    assert events[0] == events[1]
    assert dict(list(alone.tables())[1:]) == dict(list(together.tables())[1:])


def open_orders(engine: Engine) -> Iterator[OrderState]:
    for account in ACCOUNTS:
        yield from engine.orders(account, limit=1_000)


@pytest.mark.parametrize("seed", range(20))
def test_an_amendment_to_the_same_values_changes_nothing(seed: int) -> None:
    random = Random(seed)
    _, engine = everything(random, 150)
    engine.apply(Batch(engine.time + 30 * SECOND, []))
    before, now = tables(engine), engine.time
    for order in list(open_orders(engine)):
        whole = order.size == order.filled_size + order.remaining  # self-trade prevention may have decremented it
        size = order.size if order.order_type is OrderType.LIMIT and whole else 0
        same = AmendOrder(order.account_id, f"same-{order.order_id}", order.order_id, size=size, price=order.price)
        applied = engine.apply(Batch(now, [same]))
        assert applied.events == []
        assert isinstance(applied.outcomes[0], Amended | Rejected)
        assert tables(engine) == before


def plain(order: OrderState) -> bool:
    """Return whether a new order can stand in for this one: nothing of it has traded, and it has no options and no
    stop.
    """
    fresh = order.remaining == order.size and order.terms is None and order.stop is StopType.NONE and not order.queued
    return fresh and order.order_type is OrderType.LIMIT and order.time_in_force is TimeInForce.GTC


def market_of(engine: Engine) -> list[object]:
    """Return books, money and open orders without order ids."""
    found: list[object] = [engine.levels(name, side, 100) for name in PRODUCTS for side in Side]
    found += [(row.currency, row.available, row.hold) for name in ACCOUNTS for row in engine.balances(name)]
    found += [(row.currency, row.fees) for row in engine.currencies()]
    found += [[(each.price, each.remaining, each.hold) for each in engine.orders(name, limit=1_000)] for name in ACCOUNTS]
    found += [(row.last_price, row.last_trade_id, row.status) for row in engine.products()]
    return found


def without_ids(events: list[AnyEvent]) -> list[object]:
    """Return the trades and what left the book, without ids."""
    return [(event.price, event.size, event.maker_fee, event.taker_fee) for event in events if isinstance(event, OrderMatched)]


@pytest.mark.parametrize("seed", range(25))
def test_a_replacement_is_a_cancel_and_an_order(seed: int) -> None:
    random = Random(seed)
    _, engine = everything(random, 120)
    engine.apply(Batch(engine.time + 1, []))
    compared = 0
    for number, old in enumerate(open_orders(engine)):
        if not plain(old) or engine.records("interruption"):
            continue
        ids = (old.account_id, f"r{number}")
        order = busy_order(random, old)
        new = NewOrder(**{field: getattr(order, field) for field in NewOrder.__struct_fields__})
        one, two = copy(engine), copy(engine)
        replaced = one.apply(Batch(engine.time + 1, [ReplaceOrder(*ids, old.order_id, "", "", new)]))
        cancel = CancelOrder(old.account_id, f"x{number}", old.order_id)
        both = two.apply(Batch(engine.time + 1, [cancel, msgspec.structs.replace(order, command_id=ids[1])]))
        if isinstance(replaced.outcomes[0], Rejected):
            continue
        compared += 1
        assert isinstance(replaced.outcomes[0], Replaced)
        assert without_ids(replaced.events) == without_ids(both.events)
        if not (one.records("interruption") or two.records("interruption")):
            assert market_of(one) == market_of(two)
    assert compared or seed


def busy_order(random: Random, old: OrderState) -> PlaceOrder:
    """Draw an order that could stand in for another one."""
    tick = 4 if old.product_id == "ETH-USD" else 1
    price = max(tick, old.price + random.randrange(-2, 3) * tick)
    return PlaceOrder(old.account_id, "", old.product_id, old.side, OrderType.LIMIT, price, old.size, stp=old.stp)


@pytest.mark.parametrize("seed", range(25))
def test_an_order_amended_to_another_price_acts_like_a_new_one(seed: int) -> None:
    """An amendment that loses its priority trades and rests like a cancel and a new order, at the fee rates of its
    entry.
    """
    random = Random(seed)
    _, engine = everything(random, 120)
    engine.apply(Batch(engine.time + 1, []))
    for number, old in enumerate(open_orders(engine)):
        order = busy_order(random, old)
        if not plain(old) or order.price == old.price or engine.records("interruption") or old.post_only:
            continue
        one, two = copy(engine), copy(engine)
        amend = AmendOrder(old.account_id, f"a{number}", old.order_id, price=order.price)
        amended = one.apply(Batch(engine.time + 1, [amend]))
        cancel = CancelOrder(old.account_id, f"x{number}", old.order_id)
        both = two.apply(Batch(engine.time + 1, [cancel, msgspec.structs.replace(order, command_id=f"a{number}")]))
        rates = two.fees_of(old.account_id, old.product_id)
        if isinstance(amended.outcomes[0], Rejected) or isinstance(both.outcomes[1], Rejected) or rates is None:
            continue
        sizes = [[trade[:2] for trade in without_ids(applied.events)] for applied in (amended, both)]  # type: ignore[index]
        assert sizes[0] == sizes[1]
        assert [one.levels(name, side, 100) for name in PRODUCTS for side in Side] == [
            two.levels(name, side, 100) for name in PRODUCTS for side in Side
        ]


def of_one(command: AnyCommand, accounts: list[str], product: str) -> bool:
    """Return whether a command concerns only these accounts and this product, and names no order by a number."""
    names = [getattr(command, field) for field in ("account_id", "to_account_id", "name") if hasattr(command, field)]
    mine = all(name in (*accounts, product, OPERATOR) for name in names)
    if command.account_id == OPERATOR and "account_id" in names and len(names) == 1 and not hasattr(command, "product_id"):
        return False
    return mine and getattr(command, "product_id", product) == product and not getattr(command, "order_id", 0)


@pytest.mark.parametrize("seed", range(15))
def test_trading_of_others_in_another_product_changes_nothing(seed: int) -> None:
    """There are two products with accounts of their own. However their commands are interleaved, each product's events
    are the same except for ids.
    """
    random = Random(seed)
    sides = [(["ann", "bob"], PRODUCTS[0]), (["dan", "eve"], PRODUCTS[1])]
    streams: list[list[AnyCommand]] = [[], []]
    number = 0
    while min(len(stream) for stream in streams) < 80:
        number += 1
        command = random.choice([busy_command, options_command, control_command, auction_command])(random, number)
        if command.account_id == "eve" and random.random() < 0.5:
            command = msgspec.structs.replace(command, account_id="dan")
        for stream, (accounts, product) in zip(streams, sides, strict=True):
            if of_one(command, accounts, product):
                stream.append(command)
    event_lists: list[list[list[object]]] = []
    money = []
    for way in range(2):
        engine = Engine()
        base = [
            msgspec.structs.replace(each, account_id="dan") for each in foundations((0, 0), 5_000) if each.account_id == "ann"
        ]
        opened = [each for each in foundations((0, 0), 5_000) if getattr(each, "new_account_id", "") == "ann"]
        opened = [msgspec.structs.replace(each, command_id="f:dan", new_account_id="dan") for each in opened]
        events = list(engine.apply(Batch(1, [*foundations((1_000, 3_000), 5_000), *opened, *base])).events)
        turns = [0] * len(streams[0]) + [1] * len(streams[1])
        Random(way).shuffle(turns)
        at = [0, 0]
        for turn in turns:
            events += engine.apply(Batch(SECOND, [streams[turn][at[turn]]])).events
            at[turn] += 1
        engine.check()
        event_lists.append([renumbered([event for event in events if event.product_id == name]) for name in PRODUCTS])
        money.append(
            [(row.currency, row.available, row.hold) for name in ("ann", "bob", "dan", "eve") for row in engine.balances(name)]
        )
    assert event_lists[0] == event_lists[1]
    assert money[0] == money[1]


def renumbered(events: list[AnyEvent]) -> list[object]:
    """Return the events with orders numbered in the order in which the events first name them."""
    numbers: dict[int, int] = {}
    found: list[object] = []
    for event in events:
        fields = msgspec.structs.asdict(event)
        for name in ("order_id", "maker_order_id", "taker_order_id"):
            if name in fields:
                fields[name] = numbers.setdefault(fields[name], len(numbers))
        found.append((type(event).__name__, fields))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_the_largest_amounts_are_conserved(seed: int) -> None:
    """The owners have most of the largest possible amount, and there are collars, limit states, rebates, busts and
    corrected prices.
    """
    random, engine, trades = Random(seed), Engine(), list[OrderMatched]()
    first = [PlaceOrder(name, "first", "RICH-USD", side, OrderType.LIMIT, 100, 1) for name, side in zip(RICH, Side, strict=True)]
    applied = engine.apply(Batch(1, [*fortunes(), *first]))
    trades += [event for event in applied.events if isinstance(event, OrderMatched)]
    assert len(trades) == 1
    now = 1
    for number in range(250):
        now += random.choice([0, 1, SECOND, 20 * SECOND])
        command, chance = fortune(random, number), random.random()
        if chance < 0.15:
            command = correction(random, number, trades)
        elif chance < 0.2:
            command = extreme_limits(random, number)
        elif chance < 0.25:
            status = random.choice([ProductStatus.AUCTION, ProductStatus.ONLINE, ProductStatus.ONLINE])
            command = msgspec.structs.replace(
                fortunes()[2], command_id=f"s{number}", maker_fee_ppm=random.choice([-100_000, 0, 100_000]), status=status
            )
        trades += [event for event in engine.apply(Batch(now, [command])).events if isinstance(event, OrderMatched)]
        engine.check()
    assert copy(engine).full_hash() == engine.full_hash()


def extreme_limits(random: Random, number: int) -> PutProductLimits:
    """Draw a collar around a price at the end of the range, with a limit state."""
    ppm, static = random.choice([1, 50_000, 999_999, 10_000_000]), random.choice([0, 1, 10**12, AMOUNT_MAX])
    action = random.choice([CollarAction.AUCTION, CollarAction.HALT])
    times = (SECOND, SECOND, 0, 1, 0, 0, 0, static, 5 * SECOND)
    return PutProductLimits(OPERATOR, f"l{number}", "RICH-USD", ppm, random.choice([0, ppm]), action, *times)
