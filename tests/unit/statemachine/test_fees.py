"""An account cannot save fees by splitting, neither into many fills nor into many orders."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from random import Random

import pytest

from snapshots.levels.level import OWN, V0_2_0
from snapshots.levels.raising import raised
from snapshots.levels.states import empty
from statemachine.commands import Batch, PutFeeTiers, PutProduct
from statemachine.events import OrderMatched
from statemachine.fees import Fees
from statemachine.limits import DAY_NS, OPERATOR
from statemachine.types import Side
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send


@pytest.mark.parametrize("seed", range(10))
def test_an_order_pays_its_exact_fee_rounded_up_however_it_is_filled(seed: int) -> None:
    random = Random(seed)
    maker_ppm, taker_ppm = random.randrange(100_000), random.randrange(100_000)
    engine = market(maker_ppm=maker_ppm, taker_ppm=taker_ppm)
    first = placed(engine, limit("ann", "maker", Side.BUY, 400, 7))
    taken = 0
    while taken < 400:
        size = min(random.randrange(1, 60), 400 - taken)
        taken += size
        small = placed(engine, limit("bob", f"{taken}", Side.SELL, size, 7))
        assert small.fill_fees == ceil(Fraction(7 * size * taker_ppm, 10**6))
        now = engine.order(first.order_id)
        assert now is not None
        assert now.fill_fees == ceil(Fraction(7 * taken * maker_ppm, 10**6))
        engine.check()


def rates(command_id: str, maker_ppm: int, taker_ppm: int) -> PutProduct:
    return PutProduct(OPERATOR, command_id, PRODUCT, "BTC", "USD", 1, 1, 1, 10**6, maker_ppm, taker_ppm)


def test_many_small_orders_pay_no_less_than_one_large_order() -> None:
    def earned(orders: int) -> int:
        engine = market(maker_ppm=1_500, taker_ppm=2_500)
        placed(engine, limit("ann", "maker", Side.SELL, 1_000, 10))
        for number in range(orders):
            placed(engine, limit("bob", f"{number}", Side.BUY, 1_000 // orders, 10))
        row = engine.currency("USD")
        assert row is not None
        return row.fees

    assert earned(1) == 15 + 25
    assert earned(1_000) == 15 + 1_000


def test_the_hold_of_a_buy_covers_its_fees_at_both_rates() -> None:
    """The buy trades as a taker first and as a maker later. Either rate may be the larger one. The hold always
    suffices.
    """
    for rates in ((100_000, 1), (1, 100_000), (33_333, 33_334)):
        engine = market(money=10**6, maker_ppm=rates[0], taker_ppm=rates[1])
        for number in range(7):
            placed(engine, limit("bob", f"s{number}", Side.SELL, 3, 11))
        order = placed(engine, limit("ann", "buy", Side.BUY, 100, 11))
        for number in range(79):
            placed(engine, limit("bob", f"t{number}", Side.SELL, 1, 11))
            engine.check()
        done = engine.order(order.order_id)
        assert done is not None
        assert (done.remaining, done.hold) == (0, 0)


@pytest.mark.parametrize("seed", range(10))
def test_the_exchange_never_pays_a_rebate(seed: int) -> None:
    """Rates change while orders rest, and orders trade in small parts. The fees of both sides of each fill add up to
    zero or more.
    """
    random = Random(seed)
    engine = market(maker_ppm=-100_000, taker_ppm=100_000)
    for number in range(120):
        if random.random() < 0.1:
            taker = random.choice([0, 7, 30_000, 100_000])
            send(engine, rates(f"p{number}", -random.choice([0, taker // 2, taker]), taker))
        account, side = random.choice(["ann", "bob"]), random.choice(list(Side))
        applied = engine.apply(
            Batch(engine.time + 1, [limit(account, f"{number}", side, random.randrange(1, 40), random.randrange(5, 9))])
        )
        for event in applied.events:
            assert not isinstance(event, OrderMatched) or event.maker_fee + event.taker_fee >= 0
        engine.check()


def test_the_volume_for_fee_tiers_is_bounded_and_expires() -> None:
    engine = market(maker_ppm=0, taker_ppm=0)
    send(engine, PutFeeTiers(OPERATOR, "tiers", "USD", "", [(0, 5, 5), (10, 1, 1)]))
    for day in range(80):
        now = day * DAY_NS + 1
        commands = [limit("ann", f"a{day}", Side.SELL, 1, 1 + day % 2), limit("bob", f"b{day}", Side.BUY, 1, 1 + day % 2)]
        engine.apply(Batch(now, [*commands] if day % 3 else []))
        found = engine.fees_of("ann", PRODUCT)
        assert found is not None
        volume = sum(1 + each % 2 for each in range(max(0, day - 29), day + 1) if each % 3)
        assert found == Fees(*((1, 1) if volume >= 10 else (5, 5)), [("USD", volume)])
        engine.check()
    rows = [row for name, rows in engine.tables() if name == "fee_volume" for row in rows]
    assert len(rows) == 2
    engine.apply(Batch(10**19, [limit("ann", "later", Side.SELL, 1, 1), limit("bob", "later", Side.BUY, 1, 1)]))
    assert engine.fees_of("ann") == Fees(5, 5, [("USD", 1)])


def test_an_order_of_version_0_2_0_keeps_its_hold() -> None:
    former = market(money=10**6, maker_ppm=12_345, taker_ppm=54_321, engine=empty(V0_2_0))
    former.apply(Batch(former.time + 1, [limit("ann", "old", Side.BUY, 77, 13)]))
    engine = raised(former, V0_2_0, OWN)
    filled = 0
    for number in range(77):
        applied = engine.apply(Batch(engine.time + 1, [limit("bob", f"s{number}", Side.SELL, 1, 13)]))
        filled += sum(isinstance(event, OrderMatched) for event in applied.events)
        engine.check()
    assert filled == 77
    assert engine.levels(PRODUCT, Side.BUY, 1) == []
    assert send(engine, limit("ann", "next", Side.BUY, 1, 13)).sequence == engine.sequence
