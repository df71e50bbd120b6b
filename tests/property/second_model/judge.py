"""The engine and the second model get the same commands, and everything that a client can see is compared."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from statemachine.commands import AnyCommand, Batch
from statemachine.engine import Engine
from statemachine.events import OrderMatched, Rejected
from statemachine.types import ProductStatus, Side
from tests.property.second_model.crowd import CURRENCIES, TRADERS, Crowd
from tests.property.second_model.model import SecondModel
from tests.property.second_model.orders import DAY, SECOND, seen

_BEGIN = 1_700_000_000 * SECOND


def run(seed: int, entries: int) -> SecondModel:
    """Give both the same log entries, and compare after each of them. Times sometimes jump over all lifetimes, and
    sometimes the engine is restored from its tables.
    """
    random, engine, model = Random(seed), Engine(), SecondModel()
    crowd, now = Crowd(random, model), _BEGIN
    commands: Sequence[AnyCommand] = crowd.begin()
    for _ in range(entries):
        if random.random() < 0.02:
            engine = Engine.restore(dict(engine.tables()))
        applied = engine.apply(Batch(now, list(commands)))
        accepted = model.apply(now, commands)
        for command, outcome, expected in zip(commands, applied.outcomes, accepted, strict=True):
            assert isinstance(outcome, Rejected) is not expected, (command, outcome)
        assert [_trade(event) for event in applied.events if isinstance(event, OrderMatched)] == model.trades
        compare(engine, model)
        now += random.choice([1, SECOND // 2, SECOND, 3 * SECOND]) if random.random() < 0.98 else DAY // random.choice([1, 2])
        commands = [crowd.command() for _ in range(random.choice([0, 1, 1, 1, 2, 4]))]
    engine.check()
    return model


def _trade(event: OrderMatched) -> tuple[object, ...]:
    ids = event.maker_order_id, event.taker_order_id
    return event.product_id, event.trade_id, *ids, event.price, event.size, event.maker_fee, event.taker_fee, event.auction


def compare(engine: Engine, model: SecondModel) -> None:
    """Compare orders, balances, fees, books, statuses and auctions."""
    for order in (*model.open, *model.done):
        state = engine.order(order.order_id)
        assert state is not None
        assert seen(state, order) == order.view(model.hold(order))
    assert engine.order(model.last_id + 1) is None
    for trader in TRADERS:
        rows = {row.currency: (row.available, row.hold) for row in engine.balances(trader)}
        for currency in CURRENCIES:
            assert rows.get(currency, (0, 0)) == (model.available(trader, currency), model.held(trader, currency))
    for currency in CURRENCIES:
        row = engine.currency(currency)
        assert row is not None
        assert row.fees == model.earned.get(currency, 0)
    for name, product in model.products.items():
        state_of = engine.product(name)
        assert state_of is not None
        assert (state_of.status, state_of.last_price, state_of.last_trade_id) == (
            product.status,
            product.last_price,
            product.trades,
        )
        for side in Side:
            book = [(order.price, order.shown, order.order_id) for order in model.book(product, side)]
            assert engine.book_orders(name, side) == book
        found = engine.auction(name)
        expected = model.indication(product) if product.status is ProductStatus.AUCTION else None
        assert (found[:3] if found is not None else None) == expected
