"""A state returns to the level before. It loses nothing if nothing new is in use, and otherwise the error names what is
in use.
"""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from snapshots.levels import states
from snapshots.levels.level import OWN, V0_2_0, CheckLevel, SetLevel, abi_behind, encode_level_entry
from snapshots.levels.lowering import LossError, lowered
from snapshots.levels.raising import raised
from statemachine.commands import (
    AnyCommand,
    Batch,
    Deposit,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PutCurrency,
    PutFirm,
    PutProduct,
    SetSwitches,
    Withdraw,
)
from statemachine.engine import Engine
from statemachine.events import Placed, Rejected
from statemachine.limits import OPERATOR
from statemachine.order_lists import Wanted
from statemachine.reply_cache import ANY_CONTENTS
from statemachine.tables import BalanceRow
from statemachine.types import OrderType, Scope, Side
from tests.unit.snapshots.levels.markets import Market

Tables = dict[str, list[tuple[bytes, bytes]]]


def former(seed: int, entries: int) -> tuple[Engine, Market]:
    """Return a state of 0.2.0 that has traded, and the flow that continues it."""
    engine, flow = states.empty(V0_2_0), Market(seed)
    engine.apply(flow.foundations())
    for batch in flow.batches(entries):
        engine.apply(batch)
    return engine, flow


def comparable(engine: Engine) -> Tables:
    """Return the tables without the running hash and the fingerprints of cached commands, which are new at each level."""
    tables = {name: list(rows) for name, rows in engine.tables()}
    outcomes = (msgspec.msgpack.decode(payload, type=list) for _, payload in tables["outcome"])
    counters = (msgspec.msgpack.decode(payload, type=list) for _, payload in tables["counter"])
    tables["outcome"] = [
        (key, msgspec.msgpack.encode([*row[:2], ANY_CONTENTS, *row[3:]]))
        for (key, _), row in zip(tables["outcome"], outcomes, strict=True)
    ]
    tables["counter"] = [(b"", msgspec.msgpack.encode([*row[:3], bytes(16), *row[4:]])) for row in counters]
    return tables


def money(engine: Engine) -> dict[tuple[str, str], int]:
    """Return what each account has of each currency."""
    rows = (msgspec.msgpack.decode(payload, type=BalanceRow) for _, payload in dict(engine.tables())["balance"])
    return {(row.account_id, row.currency): row.available + row.hold for row in rows}


@pytest.mark.parametrize("seed", range(10))
def test_a_state_raised_and_lowered_equals_one_that_stayed(seed: int) -> None:
    engine, flow = former(seed, Random(seed).choice((0, 30, 200)))
    up = raised(engine, V0_2_0, OWN)
    down = lowered(up, V0_2_0)
    assert states.level_of(down) is V0_2_0
    assert comparable(down) == comparable(engine)
    down.check()
    assert comparable(raised(down, V0_2_0, OWN)) == comparable(up), "and up again"
    fresh = Market(seed + 1000)
    fresh._time = flow._time
    for batch in fresh.batches(30):
        mine, theirs = down.apply(batch), engine.apply(batch)
        assert mine.encoded_outcomes == theirs.encoded_outcomes or "COMMAND_ID_REUSED" in repr(theirs.outcomes)
        assert mine.encoded_events == theirs.encoded_events
    down.check()


@pytest.mark.parametrize("seed", range(12))
def test_trades_at_the_new_level_are_kept(seed: int) -> None:
    engine, _ = former(seed, 40)
    up = raised(engine, V0_2_0, OWN)
    flow = Market(seed + 500)
    flow._time, flow._number = up.time, 10_000
    for batch in flow.batches(60):
        up.apply(batch)
    before, rows = money(up), {name: list(found) for name, found in up.tables()}
    down = lowered(up, V0_2_0)
    assert {name: list(found) for name, found in up.tables()} == rows, "the state is not changed"
    down.check()
    assert money(down) == before
    assert (down.sequence, down.time, down.sequences()) == (up.sequence, up.time, up.sequences())
    for product in up.products():
        for side in Side:
            assert down.book_orders(product.product_id, side) == up.book_orders(product.product_id, side)
    for batch in flow.batches(40):
        down.apply(batch)
    down.check()


def market(*further: AnyCommand) -> Engine:
    """Return a state of the present level with an account that has money, after these commands."""
    engine = Engine()
    commands = [
        PutCurrency(OPERATOR, "usd", "USD", 2),
        PutCurrency(OPERATOR, "btc", "BTC", 2),
        PutProduct(OPERATOR, "p", "BTC-USD", "BTC", "USD", 100, 1, 1, 1_000, 333, 777),
        OpenAccount(OPERATOR, "open", "ann"),
        Deposit("ann", "d1", "USD", 1_000_000),
        Deposit("ann", "d2", "BTC", 1_000_000),
        *further,
    ]
    for outcome in engine.apply(Batch(2, commands)).outcomes:
        assert not isinstance(outcome, Rejected), outcome
    return engine


def buy(command_id: str = "c1", **options: object) -> PlaceOrder:
    """Return a buy order of ann."""
    order = PlaceOrder("ann", command_id, "BTC-USD", Side.BUY, OrderType.LIMIT, 300, 50)
    return msgspec.structs.replace(order, **options)


def test_ids_that_are_reused_across_kinds_are_named() -> None:
    with pytest.raises(LossError, match=r"table outcome: two commands of an account have one command id .*ann, id d1"):
        lowered(market(buy("d1")), V0_2_0)


def test_an_open_buy_order_holds_what_the_former_rules_require() -> None:
    up = market(buy())
    (before,) = (row for row in up.balances("ann") if row.currency == "USD")
    down = lowered(up, V0_2_0)
    (after,) = (row for row in down.balances("ann") if row.currency == "USD")
    cost = 300 * 50 // 100
    assert before.hold == cost + 1, "0.3.0 rounds the fee up"
    assert (after.hold, after.available) == (cost, before.available + 1)
    (order,) = down.order_list("ann", Wanted(), 5)
    assert (order.hold, order.fee_credit) == (cost, 0)


def test_outcomes_of_every_reply_cache_are_kept() -> None:
    withdraw, order = Withdraw("ann", "w1", "USD", 10), buy()
    down = lowered(market(order, withdraw), V0_2_0)
    placed, withdrawn = down.apply(Batch(9, [order, withdraw])).outcomes
    assert isinstance(placed, Placed)
    assert placed.duplicate
    assert withdrawn.duplicate
    down.check()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (PutFirm(OPERATOR, "f", "acme"), r"table firm: 0\.2\.0 has no such table \(1 row, the first is acme\)"),
        (SetSwitches(OPERATOR, "s", Scope.ACCOUNT, "ann", 1), r"table switch: 0\.2\.0 has no such table"),
        (
            buy(options=OrderOptions(session="desk")),
            r"table order: terms is in use, which 0\.2\.0 does not have \(1 row, the first is 1\)",
        ),
    ],
)
def test_features_in_use_are_named_as_obstacles(command: AnyCommand, message: str) -> None:
    up = market(command)
    with pytest.raises(LossError, match=message):
        lowered(up, V0_2_0)
    up.check()


def test_level_entries_lower_and_raise_a_state() -> None:
    engine = market(buy())
    check, down = encode_level_entry(CheckLevel(OWN, V0_2_0)), encode_level_entry(SetLevel(OWN, V0_2_0))
    assert abi_behind(check) is None
    assert states.apply(engine, check) == (engine, None)
    assert abi_behind(down) == V0_2_0.abi
    before, _ = states.apply(engine, down)
    assert states.level_of(before) is V0_2_0
    assert states.apply(before, down) == (before, None), "the second time it has no effect"
    after, _ = states.apply(before, encode_level_entry(SetLevel(V0_2_0, OWN)))
    assert states.level_of(after) is OWN
    assert after.state_hash != engine.state_hash
    after.check()
