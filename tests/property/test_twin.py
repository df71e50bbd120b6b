"""The engine against its slow and simple twin: outcomes, events, books and balances are compared after every command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import pending
from statemachine.commands import AnyCommand, Batch
from statemachine.engine import Engine
from statemachine.events import (
    Amended,
    AnyEvent,
    AnyOutcome,
    Armed,
    Cancelled,
    OrderState,
    Paired,
    Placed,
    Proposed,
    Rejected,
    Replaced,
)
from statemachine.types import Permission, ProductStatus, Side
from tests.property.operators import operators, venue_flow
from tests.property.twin import Twin
from tests.property.twin_trading import Fact, TwinOrder
from tests.property.worlds import (
    ACCOUNTS,
    CURRENCIES,
    PRODUCTS,
    SECOND,
    auction_command,
    busy_command,
    commands,
    control_command,
    fee_command,
    foundations,
    options_command,
    rates,
)


def fact(event: AnyEvent) -> Fact:
    """Return an event without its time."""
    fields = [getattr(event, name) for name in event.__struct_fields__ if name != "time"]
    return (type(event).__name__, *fields)


def assert_order(state: OrderState, order: TwinOrder, twin: Twin, *, now: bool) -> None:
    """Check that both sides have the same order. `now` is given when the state is of this moment and not a cached one."""
    command = order.command
    assert (state.order_id, state.account_id, state.product_id) == (order.order_id, order.owner, command.product_id)
    assert (state.side, state.order_type, state.expires_at) == (command.side, command.order_type, order.expires)
    assert (state.funds, state.client_oid) == (command.funds, command.client_oid)
    if now:
        assert (state.size, state.price) == (command.size, command.price)
        assert (state.stop, state.stop_price) == (command.stop, command.stop_price)
        assert (state.remaining, state.filled_size) == (order.left, order.filled)
        assert (state.executed_value, state.fill_fees) == (order.value, order.fees)
        assert (state.status, state.done_reason) == (twin.status(order), order.reason)
        assert state.hold == (twin.hold(order) if order.open else 0)
        assert state.opened_sequence == order.opened or order not in twin.resting


def assert_answer(outcome: AnyOutcome, answer: object, twin: Twin) -> None:
    """Check that the engine's outcome agrees with the twin's answer."""
    again = isinstance(answer, tuple) and answer[0] == "again"
    if again:
        assert isinstance(answer, tuple)
        answer = answer[1]
    assert outcome.duplicate is again
    now = not again and not twin.has_exits  # the outcome is of the moment before exits entered
    if isinstance(outcome, Rejected):
        assert outcome.reason is answer, outcome
    elif isinstance(outcome, Paired):
        assert isinstance(answer, tuple)
        assert_order(outcome.limit, answer[1], twin, now=now)
        assert_order(outcome.stop, answer[2], twin, now=now)
    elif isinstance(outcome, Proposed):
        assert answer == ("proposed", outcome.proposal_id, outcome.expires_at)
    elif isinstance(outcome, Armed):
        assert answer == ("armed", outcome.fires_at)
    elif isinstance(outcome, Replaced):
        assert isinstance(answer, tuple)
        _, old, new = answer
        assert_order(outcome.cancelled, old, twin, now=now)
        assert_order(outcome.placed, new, twin, now=now)
    elif isinstance(outcome, Placed | Amended):
        assert isinstance(answer, TwinOrder)
        assert_order(outcome.order, answer, twin, now=now)
    elif isinstance(outcome, Cancelled):
        assert isinstance(answer, list)
        assert [order.order_id for order in outcome.orders] == [order.order_id for order in answer]
        for state, order in zip(outcome.orders, answer, strict=True):
            assert_order(state, order, twin, now=True)
    else:
        assert answer == "ok"


def assert_same_world(engine: Engine, twin: Twin) -> None:
    """Compare books in priority, balances, orders and money."""
    totals = twin.totals()
    for name in PRODUCTS:
        for side in Side:
            resting = [order for order in twin.resting if order.product.product_id == name and order.command.side is side]
            resting.sort(key=lambda order: -order.command.price if order.buys else order.command.price)
            book = [(order.command.price, order.shown, order.order_id) for order in resting]
            assert engine.book_orders(name, side) == book
            prices = list(dict.fromkeys(price for price, _, _ in book))
            levels = [(p, sum(s for q, s, _ in book if q == p), sum(1 for q, _, _ in book if q == p)) for p in prices]
            assert engine.levels(name, side, 3) == levels[:3]
        assert engine.product_sequence(name) == twin.sequences[name]
        in_auction = twin.products[name].status is ProductStatus.AUCTION
        best = (*twin.best(name, Side.BUY), *twin.best(name, Side.SELL))
        assert engine.auction(name) == ((*twin.auction(name), *best) if in_auction else None)
    for account in ACCOUNTS:
        rows = {row.currency: row for row in engine.balances(account)}
        for currency in CURRENCIES:
            held = twin.held(account, currency)
            assert rows[currency].hold == held
            assert rows[currency].available == totals[account, currency] - held
    times = [order.expires for order in twin.known() if order.expires] + [at for at, *_ in twin.clocks()]
    assert engine.next_expiry == min(times, default=0)
    for row in engine.currencies():
        assert row.fees == totals.get(("fees", row.currency), 0)
        assert row.deposited - row.withdrawn == sum(t for (_, currency), t in totals.items() if currency == row.currency)
    for order in twin.orders:
        state = engine.order(order.order_id)
        assert state is not None
        assert_order(state, order, twin, now=True)


def assert_same_operators(engine: Engine, twin: Twin) -> None:
    """Compare the places of products in their calendars, the permissions of keys, and the commands that wait for
    consent.
    """
    for name in PRODUCTS:
        product, row, session = engine.product(name), engine.phase(name), twin.sessions.get(name)
        assert product is not None
        assert (product.status, product.until) == (twin.products[name].status, twin.until.get(name, 0))
        if row is None or session is None:
            assert row is None
            assert session is None
            continue
        assert (row.phase if row.entered else None, row.ends_at, row.by_hand) == (session.phase, session.ends, session.by_hand)
    for key_id, key in twin.keys.items():
        found = engine.usable_key(key_id)
        assert found is not None
        assert found.permissions == sum(Permission[word.upper()] for word in twin.key_allows(key)), key_id
    waiting = {row.proposal_id: (row.proposer, row.expires_at) for row in engine.records("proposal")}
    assert waiting == {number: (proposal.proposer, proposal.ends) for number, proposal in twin.proposals.items()}


def compare(
    fees: tuple[int, int],
    money: int,
    flow: Iterable[tuple[AnyCommand | int, bool]],
    ground: Sequence[AnyCommand] = (),
    results: list[object] | None = None,
) -> Twin:
    """Give both the same commands and compare everything after each. Where the flag says so, the engine is restarted
    before the command. Each command takes one second. A number in place of a command lets so many seconds pass without
    a command. `results` gets the events and outcomes at once, for a flow that depends on them.
    """
    engine, twin = Engine(), Twin()

    def drawn(what: str, name: str, earliest: int, most: int) -> int:
        """Return the end that the engine has drawn, and check that it is in the range that the twin allows."""
        ends = next((int(row.ends_at) for row in engine.records(what) if row.product_id == name), 0)
        if ends <= twin.now:  # it is over already, or the calendar is about to be read again
            return earliest
        assert earliest <= ends <= earliest + most
        return ends

    twin.draw = drawn
    for foundation in [*foundations(fees, money), *ground]:
        twin.apply(foundation)
        engine.apply(Batch(1, [foundation]))
    for command, restarted in flow:
        if restarted:
            engine = restore(engine)
        now = twin.now + SECOND * (command if isinstance(command, int) else 1)
        applied = engine.apply(Batch(now, [] if isinstance(command, int) else [command]))
        if results is not None:
            results += [*applied.events, *applied.outcomes]
        twin.tick(now)
        if not isinstance(command, int):
            assert_answer(applied.outcomes[0], twin.apply(command), twin)
        assert [fact(event) for event in applied.events] == twin.facts
        engine.check()
        assert_same_world(engine, twin)
        assert_same_operators(engine, twin)
    return twin


@given(rates, st.integers(1, 600), st.lists(st.tuples(st.one_of(commands, st.integers(0, 6)), st.booleans()), max_size=60))
@settings(max_examples=150)
def test_the_engine_equals_the_twin(fees: tuple[int, int], money: int, flow: list[tuple[AnyCommand | int, bool]]) -> None:
    compare(fees, money, flow)


@pytest.mark.parametrize("seed", range(40))
def test_the_engine_equals_the_twin_in_a_busy_market(seed: int) -> None:
    random = Random(seed)
    fees = random.choice([(0, 0), (1_000, 3_000), (100_000, 100_000)])
    flow: list[tuple[AnyCommand | int, bool]] = [
        (busy_command(random, number) if random.random() < 0.97 else random.randrange(10), random.random() < 0.05)
        for number in range(150)
    ]
    compare(fees, random.choice([60, 600, 5_000]), flow)


@pytest.mark.parametrize("seed", range(30))
def test_the_engine_equals_the_twin_from_auction_to_auction(seed: int) -> None:
    random = Random(seed)
    fees = random.choice([(0, 0), (1_000, 3_000), (100_000, 100_000)])
    compare(
        fees, random.choice([600, 50_000]), [(auction_command(random, number), random.random() < 0.1) for number in range(120)]
    )


@pytest.mark.parametrize("seed", range(60))
def test_the_engine_equals_the_twin_under_controls(seed: int) -> None:
    random = Random(seed)
    fees = random.choice([(0, 0), (1_000, 3_000)])
    flow: list[tuple[AnyCommand | int, bool]] = [
        (control_command(random, number) if random.random() < 0.97 else random.randrange(10), random.random() < 0.05)
        for number in range(200)
    ]
    compare(fees, random.choice([600, 5_000]), flow)


@pytest.mark.parametrize("seed", range(40))
def test_the_engine_equals_the_twin_with_options(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow has exits, trailing stops, lifetimes, sessions and the dead man's switch. The twin does all work at
    once.
    """
    monkeypatch.setattr(pending, "ARRIVAL_WORK", 1_000)
    random = Random(seed)
    flow: list[tuple[AnyCommand | int, bool]] = []
    for number in range(150):
        kind = random.random()
        command: AnyCommand | int = options_command(random, number)
        if kind < 0.03:
            command = random.choice([1, 5, 30, 86_400])
        elif kind < 0.08:
            command = control_command(random, number)
        flow.append((command, random.random() < 0.05))
    compare(random.choice([(0, 0), (1_000, 3_000), (-1_000, 3_000)]), random.choice([600, 50_000]), flow)


@pytest.mark.parametrize("seed", range(30))
def test_the_engine_equals_the_twin_under_fee_rules(seed: int) -> None:
    """Days pass in this flow, so that volume gets old."""
    random = Random(seed)
    flow: list[tuple[AnyCommand | int, bool]] = []
    for number in range(150):
        kind = random.random()
        command: AnyCommand | int = busy_command(random, number)
        if kind < 0.1:
            command = fee_command(random, f"c{number}")
        elif kind < 0.14:
            command = random.choice([1, 40_000, 86_400, 9 * 86_400, 31 * 86_400])
        flow.append((command, random.random() < 0.05))
    compare(random.choice([(0, 0), (-1_000, 3_000)]), random.choice([600, 50_000]), flow)


@pytest.mark.parametrize("seed", range(30))
def test_the_engine_equals_the_twin_for_operators_of_the_venue(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow has calendars, users with roles, keys, consent, corrections of trades, and all that traders do
    meanwhile. The twin does all work at once.
    """
    monkeypatch.setattr(pending, "ARRIVAL_WORK", 1_000)
    random, results = Random(seed), list[object]()
    fees, money = random.choice([(0, 0), (1_000, 3_000), (-1_000, 3_000)]), random.choice([600, 50_000])
    compare(fees, money, venue_flow(random, 300, results), operators(), results)


def restore(engine: Engine) -> Engine:
    """Restart the engine from its tables, with their rows in reverse order."""
    other = Engine.restore({name: list(reversed(rows)) for name, rows in engine.tables()})
    assert other.full_hash() == engine.full_hash()
    return other


@given(rates, st.lists(st.tuples(commands, st.booleans()), max_size=80))
@settings(max_examples=60)
def test_batching_changes_nothing_but_times(fees: tuple[int, int], flow: list[tuple[AnyCommand, bool]]) -> None:
    """The same commands run one by one and in batches of any size with one timestamp. Answers, events and tables are
    the same.
    """
    single, batched = Engine(), Engine()
    base = foundations(fees, 300)
    batches: list[list[AnyCommand]] = [base]
    for command, cut in flow:
        if cut:
            batches.append([])
        batches[-1].append(command)
    alone = [single.apply(Batch(7, [command])) for batch in batches for command in batch]
    together = [batched.apply(Batch(7, batch)) for batch in batches]
    assert [a.outcomes[0] for a in alone] == [outcome for a in together for outcome in a.outcomes]
    assert [event for a in alone for event in a.events] == [event for a in together for event in a.events]
    assert dict(list(single.tables())[1:]) == dict(list(batched.tables())[1:])
    assert (single.sequence, single.time) == (batched.sequence, batched.time)


@given(rates, st.lists(commands, max_size=60), st.integers(0, 60))
@settings(max_examples=60)
def test_a_restored_engine_continues_byte_for_byte(fees: tuple[int, int], flow: list[AnyCommand], cut: int) -> None:
    """The engine is restored at any point. The later batches give the same bytes and the same running hash as without a
    restart.
    """
    engine = Engine()
    engine.apply(Batch(1, foundations(fees, 300)))
    for time, command in enumerate(flow[:cut], 2):
        engine.apply(Batch(time * SECOND, [command]))
    restored = Engine.restore(dict(engine.tables()))
    for time, command in enumerate(flow[cut:], 2 + cut):
        assert engine.apply(Batch(time * SECOND, [command])) == restored.apply(Batch(time * SECOND, [command]))
        assert engine.state_hash == restored.state_hash
    assert engine.full_hash() == restored.full_hash()


@given(rates, st.lists(commands, max_size=60))
@settings(max_examples=60)
def test_a_refused_command_leaves_no_trace(fees: tuple[int, int], flow: list[AnyCommand]) -> None:
    """Every table except the counters and the cached outcomes is as before."""
    engine = Engine()
    engine.apply(Batch(1, foundations(fees, 300)))
    for command in flow:
        before = dict(engine.tables())
        applied = engine.apply(Batch(1, [command]))
        if isinstance(applied.outcomes[0], Rejected) or applied.outcomes[0].duplicate:
            after = dict(engine.tables())
            assert applied.events == []
            assert {n: r for n, r in after.items() if n not in ("counter", "outcome")} == {
                n: r for n, r in before.items() if n not in ("counter", "outcome")
            }
            assert set(after["outcome"]) >= set(before["outcome"]), "a refusal pushed something out"


@given(rates, st.lists(commands, max_size=60))
@settings(max_examples=30)
def test_sequences_have_no_gap(fees: tuple[int, int], flow: list[AnyCommand]) -> None:
    """Each product's events count from 1 without a gap, and outcomes that are not repetitions count commands."""
    engine = Engine()
    first = engine.apply(Batch(1, foundations(fees, 300)))
    events: list[AnyEvent] = list(first.events)
    for place, command in enumerate(flow, engine.sequence + 1):
        applied = engine.apply(Batch(place * SECOND, [command]))
        outcome = applied.outcomes[0]
        assert outcome.duplicate or outcome.sequence == place
        events.extend(applied.events)
    for name in PRODUCTS:
        numbers = [event.product_sequence for event in events if event.product_id == name]
        assert numbers == list(range(1, len(numbers) + 1))
