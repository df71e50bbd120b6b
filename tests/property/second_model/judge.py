"""The engine and the second model get the same commands, and everything that a client can see is compared."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from statemachine.commands import AnyCommand, Batch
from statemachine.engine import Engine
from statemachine.events import AnyEvent, OrderMatched, Rejected
from statemachine.types import DoneReason, ProductStatus, Side
from tests.property.second_model.crowd import CURRENCIES, TRADERS, Crowd
from tests.property.second_model.model import SecondModel
from tests.property.second_model.orders import DAY, SECOND, seen
from tests.property.second_model.venue import VenueCrowd

_MASS_CANCELS = (DoneReason.CANCELLED, DoneReason.TIMER, DoneReason.KILLED)
_BEGIN = 1_700_000_000 * SECOND
_MIDNIGHTS = [1_700_006_400, 1_704_067_200, 1_709_164_800, 1_709_251_200]
"""Days, a year and a leap day that begin."""


def run(seed: int, entries: int, *, venue: bool = False, hurried: bool = False) -> SecondModel:
    """Give both the same log entries, and compare after each of them. Times sometimes jump over all lifetimes, and
    sometimes the engine is restored from its tables.

    Args:
        venue: the venue also has firms, risk limits, calendars and corrections, and commands come again.
        hurried: an entry has one command and may do so little work that most of it is left to the next entries. There
            are no exits, because those enter between the entries of a cascade, and no limits of positions, whose sums
            are work.
    """
    random, engine, model = Random(seed), Engine(), SecondModel()
    crowd, now = (VenueCrowd if venue else Crowd)(random, model), _BEGIN
    if venue:
        now = random.choice([_BEGIN, *((midnight - 20) * SECOND for midnight in _MIDNIGHTS)])
    crowd.hurried = hurried
    commands: Sequence[AnyCommand] = crowd.begin()
    for number in range(entries):
        if random.random() < 0.02:
            engine = Engine.restore(dict(engine.tables()))
        if hurried and number:
            engine._state.work_max = random.choice([1, 1, 2, 3, 5])
        model.trades, model.done = [], []
        events: list[AnyEvent] = []
        if hurried:  # what time causes by itself leaves the command less work, so that it waits for its turn unchecked
            now = _give(engine, model, now, [], events, hurried)
        now = _give(engine, model, now, commands, events, hurried)
        assert [_trade(event) for event in events if isinstance(event, OrderMatched)] == model.trades
        compare(engine, model, ("done_at",) if hurried else ())
        now += random.choice([1, SECOND // 2, SECOND, 3 * SECOND]) if random.random() < 0.98 else DAY // random.choice([1, 2])
        commands = [crowd.command() for _ in range(1 if hurried else random.choice([0, 1, 1, 1, 2, 4]))]
    engine.check()
    return model


def _give(
    engine: Engine, model: SecondModel, now: int, commands: Sequence[AnyCommand], events: list[AnyEvent], hurried: bool
) -> int:
    """Give both a log entry, and if `hurried` the entries with which the engine finishes its work. Returns the time."""
    applied = engine.apply(Batch(now, list(commands)))
    for command, outcome, answer in zip(commands, applied.outcomes, model.apply(now, commands), strict=True):
        assert (not isinstance(outcome, Rejected), outcome.duplicate) == answer, (command, outcome)
    events += applied.events
    while hurried and engine.has_pending_work:
        now += 1
        events += engine.apply(Batch(now, [])).events
        model.apply(now, [])
    return now


def _trade(event: OrderMatched) -> tuple[object, ...]:
    ids = event.maker_order_id, event.taker_order_id
    return event.product_id, event.trade_id, *ids, event.price, event.size, event.maker_fee, event.taker_fee, event.auction


def compare(engine: Engine, model: SecondModel, without: tuple[str, ...] = ()) -> None:
    """Compare orders (but these fields), balances, fees, books, statuses and auctions."""
    for order in (*model.open, *model.done):
        state = engine.order(order.order_id)
        assert state is not None
        told, expected = seen(state, order), order.view(model.hold(order))
        if without and state.done_reason is DoneReason.LINKED and order.reason in _MASS_CANCELS:
            told["done_reason"] = order.reason  # the rest of a mass cancel comes with a later entry
        fields = [name for name in expected if name not in without]
        assert [(name, told[name]) for name in fields] == [(name, expected[name]) for name in fields], order.order_id
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
        indicated = model.indication(product) if product.status is ProductStatus.AUCTION else None
        assert (found[:3] if found is not None else None) == indicated
