"""Every bound of the state is kept, by the same rule on every node."""

from __future__ import annotations

import msgspec
import pytest

from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    CancelOrder,
    Deposit,
    OpenAccount,
    PlaceOrder,
    PutCurrency,
    PutProduct,
)
from statemachine.engine import Engine
from statemachine.events import Cancelled, Placed, Rejected
from statemachine.exact import executed
from statemachine.limits import (
    AMOUNT_MAX,
    CANCEL_AFTER_MAX,
    CANCEL_AFTER_MIN,
    COMMAND_ID_MAX,
    DONE_ORDERS_PER_ACCOUNT,
    EXECUTED_MAX,
    LOG_TIME_MAX,
    NAME_MAX,
    OPEN_ORDERS_PER_ACCOUNT,
    OPERATOR,
    OUTCOMES_PER_ACCOUNT,
    TIME_MAX,
    WORK_PER_ENTRY,
)
from statemachine.types import OrderType, ProductStatus, Reason, Side, StopType, TimeInForce
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send

FRAME_MAX = 4 * 1024 * 1024


def test_the_number_of_open_orders_of_an_account_is_bounded() -> None:
    engine = market()
    for first in range(0, OPEN_ORDERS_PER_ACCOUNT, 1_000):
        engine.apply(Batch(2, [limit("ann", f"{n}", Side.BUY, 1, 10) for n in range(first, first + 1_000)]))
    refused = send(engine, limit("ann", "more", Side.BUY, 1, 10))
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.TOO_MANY_OPEN_ORDERS
    stop = msgspec.structs.replace(limit("ann", "stop", Side.BUY, 1, 10, ioc=True), stop=StopType.ENTRY, stop_price=11)
    lasting = msgspec.structs.replace(
        limit("ann", "gtt", Side.BUY, 1, 10), time_in_force=TimeInForce.GTT, cancel_after=CANCEL_AFTER_MIN
    )
    for order in (stop, lasting):
        refused = send(engine, order)
        assert isinstance(refused, Rejected)
        assert refused.reason is Reason.TOO_MANY_OPEN_ORDERS
    assert placed(engine, limit("ann", "ioc", Side.BUY, 1, 10, ioc=True)).filled_size == 0
    assert placed(engine, limit("bob", "other", Side.BUY, 1, 9)).order_id == OPEN_ORDERS_PER_ACCOUNT + 2
    many = send(engine, CancelAll("ann", "all"))
    assert isinstance(many, Cancelled)
    assert [order.order_id for order in many.orders] == list(range(1, WORK_PER_ENTRY + 1))
    assert many.pending
    while engine.has_pending_work:
        engine.apply(Batch(engine.time + 1, []))
    assert engine.orders("ann") == []
    assert len(engine.orders("ann", open=True, done=True, limit=10**6)) == DONE_ORDERS_PER_ACCOUNT
    placed(engine, limit("ann", "again", Side.BUY, 1, 10))
    engine.check()


def test_the_largest_answer_to_cancel_all_fits_a_frame() -> None:
    engine = market(money=AMOUNT_MAX // 4)
    order = placed(engine, limit("ann", "1", Side.BUY, 1, 10))
    order.account_id = order.product_id = "x" * NAME_MAX
    order.client_oid = "x" * COMMAND_ID_MAX
    numbers = [
        "order_id",
        "price",
        "size",
        "funds",
        "created_at",
        "remaining",
        "hold",
        "filled_size",
        "executed_value",
        "fill_fees",
        "done_at",
        "stop_price",
        "expires_at",
        "opened_sequence",
    ]
    for name in numbers:
        setattr(order, name, 2**64 - 1)
    order.maker_fee_ppm = order.taker_fee_ppm = 10**6
    assert len(msgspec.msgpack.encode(order)) * WORK_PER_ENTRY < FRAME_MAX


def test_the_oldest_outcome_is_forgotten_first() -> None:
    engine = market()
    first = limit("ann", "first", Side.BUY, 1, 10, ioc=True)
    assert placed(engine, first).order_id == 1
    fillers = [limit("ann", f"filler-{n}", Side.BUY, 1, 9, ioc=True) for n in range(OUTCOMES_PER_ACCOUNT - 1)]
    for start in range(0, len(fillers), 1_000):
        engine.apply(Batch(engine.time + 1, [*fillers[start : start + 1_000]]))
    again = send(engine, first)
    assert isinstance(again, Placed)
    assert again.duplicate
    engine = Engine.restore(dict(engine.tables()))
    placed(engine, limit("ann", "one-too-many", Side.BUY, 1, 9, ioc=True))
    anew = send(engine, first)
    assert isinstance(anew, Placed)
    assert (anew.duplicate, anew.order.order_id) == (False, OUTCOMES_PER_ACCOUNT + 2)
    assert sum(len(rows) for name, rows in engine.tables() if name == "outcome") == OUTCOMES_PER_ACCOUNT + 4 + 2 + 3
    engine.check()


def test_a_forgotten_command_cannot_enter_an_open_order_twice() -> None:
    engine = market()
    order = limit("ann", "c:mine", Side.BUY, 1, 10, oid="mine")
    placed(engine, order)
    fillers = [limit("ann", f"filler-{n}", Side.BUY, 1, 9, ioc=True) for n in range(OUTCOMES_PER_ACCOUNT)]
    for start in range(0, len(fillers), 1_000):
        engine.apply(Batch(engine.time + 1, [*fillers[start : start + 1_000]]))
    again = send(engine, order)
    assert isinstance(again, Rejected)
    assert (again.reason, again.field) == (Reason.COMMAND_ID_REUSED, "client_oid")


def test_done_orders_are_forgotten_in_the_order_in_which_they_left_the_book() -> None:
    engine = market()
    placed(engine, limit("ann", "resting", Side.BUY, 1, 10, oid="resting"))
    flow = [limit("ann", f"{n}", Side.BUY, 1, 9, ioc=True, oid=f"{n}") for n in range(DONE_ORDERS_PER_ACCOUNT)]
    engine.apply(Batch(2, list(flow)))
    assert engine.order_by_client_oid("ann", "0") is not None
    send(engine, CancelOrder("ann", "cancel", 0, "resting"))
    assert engine.order_by_client_oid("ann", "0") is None
    assert engine.order(2) is None
    assert engine.order(1) is not None, "the order with the lowest id left the book last"
    engine = Engine.restore(dict(engine.tables()))
    placed(engine, limit("ann", "next", Side.BUY, 1, 9, ioc=True))
    numbers = [msgspec.msgpack.decode(key)[1] for key, _ in dict(engine.tables())["done_order"]]
    assert numbers == list(range(3, DONE_ORDERS_PER_ACCOUNT + 3)), "the key of a row never changes"
    assert engine.order_by_client_oid("ann", "1") is None
    assert engine.order_by_client_oid("ann", "2") is not None
    engine.check()


def test_a_client_oid_names_the_latest_order() -> None:
    engine = market()
    placed(engine, limit("ann", "1", Side.BUY, 1, 9, ioc=True, oid="same"))
    latest = placed(engine, limit("ann", "2", Side.BUY, 2, 9, oid="same"))
    for state in (engine, Engine.restore(dict(engine.tables()))):
        found = state.order_by_client_oid("ann", "same")
        assert found == latest
    assert engine.order_by_client_oid("bob", "same") is None
    assert engine.order_by_client_oid("nobody", "same") is None


def test_forgetting_an_old_order_leaves_a_newer_one_of_the_same_client_oid() -> None:
    engine = market()
    placed(engine, limit("ann", "1", Side.BUY, 1, 9, ioc=True, oid="same"))
    latest = placed(engine, limit("ann", "2", Side.BUY, 2, 9, oid="same"))
    fillers = [limit("ann", f"filler-{n}", Side.BUY, 1, 9, ioc=True) for n in range(DONE_ORDERS_PER_ACCOUNT)]
    engine.apply(Batch(2, list(fillers)))
    assert engine.order(1) is None
    assert engine.order_by_client_oid("ann", "same") == latest
    engine.check()


def test_an_answer_to_a_cancel_is_a_copy() -> None:
    engine = market()
    placed(engine, limit("ann", "1", Side.BUY, 1, 9))
    answer = send(engine, CancelOrder("ann", "x", 1))
    assert isinstance(answer, Cancelled)
    answer.orders[0].hold = 99
    engine.check()


def test_the_running_hash_covers_the_events() -> None:
    """Two engines with equal outcomes and different events have different running hashes."""
    engine, other = market(), market()
    assert engine.state_hash == other.state_hash
    other._state.products[PRODUCT].sequence += 1
    command = limit("ann", "1", Side.BUY, 1, 9, ioc=True)
    assert send(engine, command) == send(other, command)
    assert engine.state_hash != other.state_hash


def test_an_outcome_of_the_reply_cache_is_a_copy() -> None:
    """Neither a later change of the order nor a change of the returned outcome alters the cached outcome."""
    engine = market()
    command = limit("ann", "1", Side.SELL, 5, 10)
    answer = placed(engine, command)
    answer.remaining = 99
    placed(engine, limit("bob", "2", Side.BUY, 2, 10))
    again = send(engine, command)
    assert isinstance(again, Placed)
    assert (again.duplicate, again.order.remaining, again.sequence) == (True, 5, 10)
    now = engine.order(1)
    assert now is not None
    assert now.remaining == 3
    engine.check()


def test_a_cancel_of_very_many_orders_keeps_the_rest() -> None:
    engine = market()
    for n in range(50):
        account = "ann" if n % 2 else "bob"
        placed(engine, limit(account, f"{n}", Side.BUY, 1, 10 + n % 3))
    send(engine, CancelAll("ann", "all"))
    assert {order_id % 2 for _, _, order_id in engine.book_orders(PRODUCT, Side.BUY)} == {1}
    assert engine.levels(PRODUCT, Side.BUY, 10) == [(12, 8, 8), (11, 8, 8), (10, 9, 9)]
    engine.check()


def test_orders_are_paged_newest_first() -> None:
    engine = market()
    for n in range(1, 8):
        placed(engine, limit("ann", f"{n}", Side.BUY, 1, 10))
    send(engine, CancelOrder("ann", "x", 4))

    def ids(**query: bool | int | str) -> list[int]:
        return [order.order_id for order in engine.orders("ann", **query)]  # type: ignore[arg-type]  # passed through

    assert ids() == [7, 6, 5, 3, 2, 1]
    assert ids(done=True, limit=3) == [7, 6, 5]
    assert ids(done=True, limit=3, before_id=5) == [4, 3, 2]
    assert ids(open=False, done=True) == [4]
    assert ids(product_id="ETH-USD") == []
    assert engine.orders("nobody") == []


def test_a_market_order_by_size_spends_at_most_the_available_balance() -> None:
    engine = market(money=1_000, taker_ppm=100_000)
    placed(engine, limit("bob", "1", Side.SELL, 100, 20))
    order = placed(engine, PlaceOrder("ann", "2", PRODUCT, Side.BUY, OrderType.MARKET, 0, 100, 0, TimeInForce.IOC))
    assert (order.filled_size, order.executed_value, order.fill_fees, order.hold) == (45, 900, 90, 0)
    assert engine.balances("ann")[0].available == 10


def test_a_sum_over_many_orders_stops_at_the_largest_amount() -> None:
    engine = Engine()
    product = PutProduct(OPERATOR, "product", "BIG-USD", "BIG", "USD", 1, 10**12, 10**12, AMOUNT_MAX, 0, 0)
    size = AMOUNT_MAX // 10**12 * 10**12
    orders = [PlaceOrder("ann", f"{n}", "BIG-USD", Side.BUY, OrderType.LIMIT, 1, size) for n in range(3)]
    setting_up: list[AnyCommand] = [
        PutCurrency(OPERATOR, "usd", "USD", 0),
        PutCurrency(OPERATOR, "big", "BIG", 12),
        product,
        OpenAccount(OPERATOR, "ann", "ann"),
        Deposit("ann", "money", "USD", 10**15),
    ]
    engine.apply(Batch(1, [*setting_up, *orders]))
    assert engine.levels("BIG-USD", Side.BUY, 1) == [(1, AMOUNT_MAX, 3)]
    send(engine, msgspec.structs.replace(product, command_id="auction", status=ProductStatus.AUCTION))
    indication = engine.auction("BIG-USD")
    assert indication is not None
    assert indication.best_bid_size == AMOUNT_MAX
    engine.check()


def test_the_executed_value_of_an_order_stops_at_what_a_row_can_hold() -> None:
    """Only an order of version 0.2.0 can exceed this value: it traded in auctions with orders of its own account."""
    assert executed(EXECUTED_MAX - 5, 4) == EXECUTED_MAX - 1
    assert executed(EXECUTED_MAX - 5, 6) == EXECUTED_MAX
    assert executed(EXECUTED_MAX, AMOUNT_MAX) == EXECUTED_MAX


@pytest.mark.parametrize("time", [LOG_TIME_MAX - 1, LOG_TIME_MAX, LOG_TIME_MAX + 1, TIME_MAX, 2**63, 2**64 - 1], ids=str)
def test_no_order_expires_after_the_largest_time(time: int) -> None:
    """The log's time stops so early that the longest life ends at the largest time."""
    engine = market()
    order = msgspec.structs.replace(
        limit("ann", "gtt", Side.BUY, 1, 10), time_in_force=TimeInForce.GTT, cancel_after=CANCEL_AFTER_MAX
    )
    (outcome,) = engine.apply(Batch(time, [order])).outcomes
    assert engine.time == min(time, LOG_TIME_MAX)
    assert isinstance(outcome, Placed)
    assert outcome.order.expires_at == TIME_MAX - (time == LOG_TIME_MAX - 1)
    engine.check()
