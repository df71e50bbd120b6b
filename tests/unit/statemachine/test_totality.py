"""Apply is total: every batch that decodes gets its outcomes, and leaves a consistent state that can be written and
read.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    CancelOrder,
    Deposit,
    OpenAccount,
    PlaceOrder,
    PutApiKey,
    PutCurrency,
    PutProduct,
    Transfer,
    Withdraw,
    decode_batch,
    encode_batch,
)
from statemachine.engine import Engine
from statemachine.events import Done, Rejected
from statemachine.limits import AMOUNT_MAX, CANCEL_AFTER_MAX, CANCEL_AFTER_MIN, LOG_TIME_MAX, OPERATOR
from statemachine.types import OrderType, ProductStatus, SelfTradePrevention, Side, StopType, TimeInForce
from tests.property.worlds import foundations

LARGEST, SMALLEST = 2**64 - 1, -(2**63)

numbers = st.one_of(
    st.integers(SMALLEST, LARGEST),
    st.integers(-3, 200),
    st.sampled_from([LARGEST, SMALLEST, AMOUNT_MAX, AMOUNT_MAX + 1, AMOUNT_MAX - 1, 10**18, 0, 1, -1, 25, 40, 50]),
)
texts = st.one_of(st.text(max_size=5), st.sampled_from(["", "x" * 65, "x" * 97, "a/b", "\x00", "é", "ok", "a\n"]))
owners = st.one_of(st.sampled_from(["ann", "bob", "eve", OPERATOR]), texts)
ids = st.one_of(st.integers(0, 10**6).map(str), texts)
currencies = st.one_of(st.sampled_from(["USD", "ETH", "XBT"]), texts)
products = st.one_of(st.sampled_from(["ETH-USD", "XBT-ETH", "NEW"]), texts)

anything: st.SearchStrategy[AnyCommand] = st.one_of(
    st.builds(PutCurrency, owners, ids, currencies, numbers),
    st.builds(
        PutProduct,
        owners,
        ids,
        products,
        currencies,
        currencies,
        numbers,
        numbers,
        numbers,
        numbers,
        numbers,
        numbers,
        st.sampled_from(ProductStatus),
    ),
    st.builds(OpenAccount, owners, ids, owners),
    st.builds(
        PutApiKey,
        owners,
        ids,
        texts,
        owners,
        texts,
        texts,
        numbers,
        texts | st.text("0123456789abcdef.:/,%", max_size=20) | st.sampled_from(["192.0.2.0/24,::1", "10.0.0.0/8,"]),
        st.just(0) | numbers,
    ),
    st.builds(Deposit, owners, ids, currencies, numbers),
    st.builds(Withdraw, owners, ids, currencies, numbers),
    st.builds(Transfer, owners, ids, owners, currencies, numbers),
    st.builds(
        PlaceOrder,
        owners,
        ids,
        products,
        st.sampled_from(Side),
        st.sampled_from(OrderType),
        numbers,
        numbers,
        numbers | st.just(0),
        st.sampled_from(TimeInForce),
        st.booleans(),
        st.sampled_from(SelfTradePrevention),
        texts,
        st.sampled_from([StopType.NONE, *StopType]),
        st.just(0) | numbers,
        st.just(0) | numbers | st.sampled_from([CANCEL_AFTER_MIN, CANCEL_AFTER_MAX]),
    ),
    st.builds(CancelOrder, owners, ids, numbers, texts, products | st.just("")),
    st.builds(CancelAll, owners, ids, products | st.just("")),
)


@given(st.lists(st.tuples(numbers, st.lists(anything, max_size=8)), max_size=8))
@settings(max_examples=150)
def test_any_batch_that_decodes_is_answered(flow: list[tuple[int, list[AnyCommand]]]) -> None:
    engine = Engine()
    engine.apply(Batch(1, foundations((1_000, 3_000), 10**17)))
    for time, commands in flow:
        before, sequence = engine.time, engine.sequence
        applied = engine.apply(decode_batch(encode_batch(Batch(time, commands))))
        assert len(applied.outcomes) == len(commands)
        assert engine.sequence == sequence + len(commands)
        assert engine.time == max(before, min(time, LOG_TIME_MAX))
        engine.check()
    assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()


def test_an_empty_batch_moves_time_only() -> None:
    engine = Engine()
    first = engine.state_hash
    assert engine.apply(Batch(5, [])).outcomes == []
    assert (engine.time, engine.sequence) == (5, 0)
    moved = engine.state_hash
    assert moved != first
    for time in (3, 5):
        engine.apply(Batch(time, []))
        assert (engine.time, engine.state_hash) == (5, moved), "an empty batch without a later time changes nothing"


def test_the_largest_trades_stay_within_the_schema() -> None:
    """All money that can exist changes hands in one order, and back. Every row still fits its 64-bit fields."""
    engine = Engine()
    engine.apply(
        Batch(
            1,
            [
                PutCurrency(OPERATOR, "1", "USD", 0),
                PutCurrency(OPERATOR, "2", "XBT", 0),
                PutProduct(OPERATOR, "3", "XBT-USD", "XBT", "USD", 1, 1, 1, AMOUNT_MAX, 0, 0),
                OpenAccount(OPERATOR, "4", "ann"),
                OpenAccount(OPERATOR, "5", "bob"),
                Deposit("ann", "6", "USD", AMOUNT_MAX),
                Deposit("bob", "7", "XBT", AMOUNT_MAX),
            ],
        )
    )
    flow: list[AnyCommand] = [
        PlaceOrder("ann", "8", "XBT-USD", Side.BUY, OrderType.LIMIT, AMOUNT_MAX, 1),
        PlaceOrder("bob", "9", "XBT-USD", Side.SELL, OrderType.LIMIT, 1, AMOUNT_MAX),
        PlaceOrder("ann", "10", "XBT-USD", Side.SELL, OrderType.MARKET, 0, 1),
        Withdraw("bob", "11", "USD", 2**62),
        PlaceOrder("bob", "12", "XBT-USD", Side.BUY, OrderType.LIMIT, 2**62 - 1, 1),
        PlaceOrder("ann", "13", "XBT-USD", Side.SELL, OrderType.MARKET, 0, 1),
    ]
    for time, command in enumerate(flow, 2):
        assert not isinstance(engine.apply(Batch(time, [command])).outcomes[0], Rejected)
        engine.check()
        assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()
    order = engine.order(2)
    assert order is not None
    assert order.executed_value >= AMOUNT_MAX


def test_every_command_that_only_the_operator_may_send_is_refused_to_others() -> None:
    engine = Engine()
    engine.apply(Batch(1, foundations((0, 0), 100)))
    before = {name: rows for name, rows in engine.tables() if name not in ("counter", "outcome")}
    commands: list[AnyCommand] = [
        PutCurrency("ann", "1", "EUR", 2),
        PutProduct("ann", "2", "ETH-USD", "ETH", "USD", 4, 25, 25, 100, 0, 0, ProductStatus.OFFLINE),
        OpenAccount("ann", "3", "mallory"),
        PutApiKey("ann", "4", "key", "bob", "c2VjcmV0", "", 15),
    ]
    outcomes = engine.apply(Batch(2, commands)).outcomes
    assert all(isinstance(outcome, Rejected) and outcome.field == "account_id" for outcome in outcomes)
    assert {name: rows for name, rows in engine.tables() if name not in ("counter", "outcome")} == before
    again: list[AnyCommand] = [PutCurrency(OPERATOR, "9", "EUR", 2), OpenAccount(OPERATOR, "10", "mallory")]
    assert all(isinstance(outcome, Done) and outcome.changed for outcome in engine.apply(Batch(3, again)).outcomes)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        encode_batch(Batch(1, []))[:-1],
        encode_batch(Batch(1, [OpenAccount("a", "b", "name")])).replace(b"name", b"\xffame"),
        encode_batch(Batch(1, [OpenAccount("a", "b", "name")])).replace(b"\x94\x03", b"\x94\x63"),
        msgspec.msgpack.encode([1, [[5, "ann", "1", "USD", True]]]),
        msgspec.msgpack.encode([1, [[5, "ann", "1", "USD", 1.0]]]),
        msgspec.msgpack.encode([1, [[5, "ann", "1", "USD", 1, "more"]]]),
    ],
)
def test_bytes_that_are_no_batch_raise_a_decode_error(payload: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_batch(payload)
