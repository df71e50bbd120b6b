"""The judge of histories accepts valid ones whatever their timing, and names each kind of invalid one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.linearizability import AnomalyKind, HistoryVerdict, Operation, Read, Write, body_of, judge
from node.native.protocol import AnyQuery, BalancesQuery, BookQuery, OrderQuery, OrdersQuery, StatusQuery, TradesQuery
from snapshots.levels import states
from snapshots.levels.level import V0_2_0
from statemachine.applied import AppliedBatch
from statemachine.commands import AnyCommand, Batch, CancelOrder, Deposit, OpenAccount, PutApiKey, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import Side
from tests.unit.statemachine.market import PRODUCT, limit

SETUP: list[AnyCommand] = [
    PutCurrency(OPERATOR, "usd", "USD", 0),
    PutCurrency(OPERATOR, "xbt", "XBT", 0),
    PutProduct(OPERATOR, "product", PRODUCT, "XBT", "USD", 1, 1, 1, AMOUNT_MAX, 0, 0),
    OpenAccount(OPERATOR, "open-ann", "ann"),
    OpenAccount(OPERATOR, "open-bob", "bob"),
]
ANN_BALANCE = BalancesQuery("ann")


@dataclass
class Exchange:
    """An engine whose commands and reads are recorded. Each has a moment of its own, and takes no time by default."""

    engine: Engine = field(default_factory=Engine)
    log: list[Batch] = field(default_factory=list)
    history: list[Operation] = field(default_factory=list)
    now: float = 0.0

    def apply(self, *commands: AnyCommand) -> list[AnyOutcome]:
        """Apply one batch without a record of it."""
        self.log.append(Batch(len(self.log) + 1, list(commands)))
        return self.engine.apply(self.log[-1]).outcomes

    def send(self, *commands: AnyCommand) -> None:
        self.now += 1.0
        for command, outcome in zip(commands, self.apply(*commands), strict=True):
            self.history.append(Write(command, self.now, self.now + 0.5, outcome))

    def body(self, query: AnyQuery) -> bytes | None:
        return body_of(self.engine, query, {})

    def read(self, query: AnyQuery) -> None:
        self.now += 1.0
        self.history.append(Read(query, self.now, self.now + 0.5, self.body(query)))

    def judged(self, *, complete: bool = True) -> HistoryVerdict:
        return judge(self.history, self.log, complete=complete)

    def kinds(self) -> list[AnomalyKind]:
        return [anomaly.kind for anomaly in self.judged().anomalies]

    def replace(self, place: int, **fields: object) -> None:
        self.history[place] = msgspec.structs.replace(self.history[place], **fields)


@pytest.fixture
def exchange() -> Exchange:
    """Make an exchange with money in two accounts and an order of ann. The last operations are that order and a read of
    her balances.
    """
    made = Exchange()
    made.send(*SETUP)
    for name in ("ann", "bob"):
        made.send(Deposit(name, "usd-1", "USD", 1000), Deposit(name, "xbt-1", "XBT", 1000))
    made.send(limit("ann", "c:a", Side.BUY, 5, 10, oid="a"))
    made.read(ANN_BALANCE)
    return made


def test_a_right_history_holds(exchange: Exchange) -> None:
    exchange.send(limit("bob", "c:b", Side.SELL, 3, 10, oid="b"))
    exchange.send(CancelOrder("ann", "x", 0, "a"))
    exchange.read(BookQuery(PRODUCT, 3))
    exchange.read(OrderQuery("ann", 0, "a"))
    exchange.read(OrderQuery("ann", 77))
    verdict = exchange.judged()
    assert verdict == HistoryVerdict(answered=12, unanswered=0, reads=4)
    assert verdict.holds


def test_a_history_of_an_earlier_level_is_judged_by_that_level() -> None:
    made = Exchange(states.empty(V0_2_0))
    made.send(*SETUP)
    made.send(Deposit("ann", "usd-1", "USD", 1000), Deposit("bob", "xbt-1", "XBT", 1000))
    made.send(limit("ann", "c:a", Side.BUY, 5, 10, oid="a"), limit("bob", "c:b", Side.SELL, 3, 10, oid="b"))
    made.read(OrderQuery("ann", 0, "a"))
    made.read(ANN_BALANCE)
    assert judge(made.history, made.log, engine=states.empty(V0_2_0)) == HistoryVerdict(answered=9, unanswered=0, reads=2)


def test_an_answer_to_a_repeated_command_is_the_first_one(exchange: Exchange) -> None:
    exchange.send(limit("ann", "c:a", Side.BUY, 5, 10, oid="a"))
    again = exchange.history[-1]
    assert isinstance(again, Write)
    assert again.outcome is not None
    assert again.outcome.duplicate
    assert exchange.judged().holds


def test_an_unanswered_command_may_be_there_or_not(exchange: Exchange) -> None:
    lost, late = Deposit("ann", "lost", "USD", 1), Deposit("ann", "late", "USD", 1)
    exchange.history += [Write(lost, 20.0), Write(late, 20.0)]
    exchange.apply(late)
    exchange.now = 21.0
    exchange.read(ANN_BALANCE)
    verdict = exchange.judged()
    assert verdict.holds
    assert verdict.unanswered == 2


def test_a_refused_command_that_is_sent_again_may_be_in_the_log(exchange: Exchange) -> None:
    deposit = Deposit("ann", "usd-2", "USD", 1)
    exchange.history.append(Write(deposit, 10.0, 10.1))
    exchange.now = 11.0
    exchange.send(deposit)
    assert exchange.judged().holds


def test_rejects_outside_the_reply_cache_may_come_again(exchange: Exchange) -> None:
    for _ in range(2):
        exchange.send(Deposit("nobody", "n", "USD", 1))
    exchange.send(Deposit("ann", "usd-1", "USD", 2))
    exchange.send(OpenAccount(OPERATOR, "open-nobody", "nobody"))
    exchange.send(Deposit("nobody", "n", "USD", 1))
    assert exchange.judged().holds


def test_an_outcome_that_is_not_in_the_log_is_found(exchange: Exchange) -> None:
    outcome = exchange.engine.apply(Batch(9, [Deposit("ann", "usd-2", "USD", 1)])).outcomes[0]
    exchange.history.append(Write(Deposit("ann", "usd-2", "USD", 1), 10.0, 11.0, outcome))
    assert exchange.kinds() == [AnomalyKind.LOST]


@pytest.mark.parametrize("change", [{"available": 7}, {"sequence": 3}, {"time": 9}])
def test_an_outcome_that_differs_from_the_engines_is_found(exchange: Exchange, change: dict[str, int]) -> None:
    exchange.send(Deposit("ann", "usd-2", "USD", 1))
    write = exchange.history[-1]
    assert isinstance(write, Write)
    assert write.outcome is not None
    exchange.replace(-1, outcome=msgspec.structs.replace(write.outcome, **change))
    assert exchange.kinds() == [AnomalyKind.WRONG_OUTCOME]


def test_two_answers_to_one_id_are_found(exchange: Exchange) -> None:
    deposit = Deposit("ann", "usd-2", "USD", 1)
    exchange.send(deposit)
    first = exchange.history[-1]
    assert isinstance(first, Write)
    assert first.outcome is not None
    other = msgspec.structs.replace(first.outcome, sequence=first.outcome.sequence + 1, duplicate=True)
    exchange.history.append(Write(deposit, 20.0, 21.0, other))
    assert exchange.kinds() == [AnomalyKind.CHANGED_ANSWER, AnomalyKind.WRONG_OUTCOME]


def test_a_command_that_has_its_effect_twice_is_found(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Engine.apply

    def apply_and_forget(self: Engine, batch: Batch) -> AppliedBatch:
        applied = apply(self, batch)
        self._state = Engine.restore({**dict(self.tables()), "outcome": []})._state
        return applied

    monkeypatch.setattr(Engine, "apply", apply_and_forget)
    deposit = Deposit("ann", "usd-2", "USD", 1)
    exchange.history.append(Write(deposit, 10.0))
    exchange.apply(deposit)
    exchange.apply(deposit)
    assert exchange.kinds() == [AnomalyKind.APPLIED_TWICE]


def test_a_command_that_took_effect_although_it_was_refused_is_found(exchange: Exchange) -> None:
    deposit = Deposit("ann", "usd-2", "USD", 1)
    exchange.history.append(Write(deposit, 10.0, 11.0))
    exchange.apply(deposit)
    assert exchange.kinds() == [AnomalyKind.REFUSED_BUT_APPLIED]


def test_a_command_that_no_client_sent_is_found(exchange: Exchange) -> None:
    exchange.apply(Deposit("ann", "usd-2", "USD", 1))
    assert exchange.kinds() == [AnomalyKind.NOT_SENT]
    assert exchange.judged(complete=False).holds


@pytest.mark.parametrize("answered", [True, False])
def test_a_command_ordered_before_an_earlier_answer_is_found(exchange: Exchange, answered: bool) -> None:
    first, second = Deposit("ann", "usd-2", "USD", 1), Deposit("bob", "usd-2", "USD", 1)
    outcomes = exchange.apply(second, first)
    exchange.history.append(Write(first, 10.0, 11.0, outcomes[1]))
    exchange.history.append(Write(second, 12.0, 13.0, outcomes[0]) if answered else Write(second, 12.0))
    assert exchange.kinds() == [AnomalyKind.OUT_OF_ORDER]
    exchange.replace(-1, asked=10.9)
    assert exchange.judged().holds


def test_a_read_that_misses_an_earlier_answer_is_found(exchange: Exchange) -> None:
    old = exchange.body(ANN_BALANCE)
    exchange.send(Deposit("ann", "usd-2", "USD", 1))
    exchange.read(ANN_BALANCE)
    exchange.replace(-1, body=old)
    assert exchange.kinds() == [AnomalyKind.WRONG_READ]
    exchange.replace(-1, asked=exchange.now - 0.9)
    assert exchange.judged().holds


def test_a_read_that_sees_a_later_command_is_found(exchange: Exchange) -> None:
    exchange.send(Deposit("ann", "usd-2", "USD", 1))
    exchange.history.append(Read(ANN_BALANCE, 0.0, exchange.now - 0.1, exchange.body(ANN_BALANCE)))
    assert exchange.kinds() == [AnomalyKind.WRONG_READ]
    exchange.replace(-1, answered=exchange.now)
    assert exchange.judged().holds


def test_a_read_older_than_an_earlier_read_is_found(exchange: Exchange) -> None:
    """The deposit is in progress all the time, so either read alone could have seen it or not."""
    old, deposit = exchange.body(ANN_BALANCE), Deposit("ann", "usd-2", "USD", 1)
    exchange.history.append(Write(deposit, 10.0))
    exchange.apply(deposit)
    new = exchange.body(ANN_BALANCE)
    exchange.history.append(Read(ANN_BALANCE, 11.0, 12.0, new))
    exchange.history.append(Read(ANN_BALANCE, 13.0, 14.0, old))
    assert exchange.kinds() == [AnomalyKind.WRONG_READ]
    exchange.replace(-1, asked=11.5)
    assert exchange.judged().holds


@pytest.mark.parametrize("body", [None, b"\x90"])
def test_a_read_of_a_state_that_never_was_is_found(exchange: Exchange, body: bytes | None) -> None:
    exchange.replace(-1, body=body)
    assert exchange.kinds() == [AnomalyKind.WRONG_READ]


def test_an_old_read_is_right_at_its_own_sequence(exchange: Exchange) -> None:
    old, sequence = exchange.body(ANN_BALANCE), exchange.engine.sequence
    exchange.send(Deposit("ann", "usd-2", "USD", 1))
    exchange.history.append(Read(ANN_BALANCE, 20.0, 21.0, old, linearizable=False, sequence=sequence))
    assert exchange.judged().holds
    for wrong in (sequence + 1, sequence - 2, 3, 1000):
        exchange.replace(-1, sequence=wrong)
        assert exchange.kinds() == [AnomalyKind.WRONG_READ]


@pytest.mark.parametrize("query", [TradesQuery(PRODUCT), StatusQuery()])
def test_reads_that_do_not_follow_from_the_state_cannot_be_judged(query: AnyQuery) -> None:
    with pytest.raises(ValueError, match="does not follow"):
        judge([Read(query, 0.0, 1.0, b"")], [])
    with pytest.raises(ValueError, match="of which sequence"):
        judge([Read(ANN_BALANCE, 0.0, 1.0, b"", linearizable=False)], [])


def test_a_history_can_be_stored(exchange: Exchange) -> None:
    exchange.history.append(Write(Deposit("ann", "lost", "USD", 1), 20.0))
    data = msgspec.json.encode(exchange.history)
    assert msgspec.json.decode(data, type=list[Operation]) == exchange.history


def a_history(chance: random.Random, steps: int) -> Exchange:
    """Draw a history of clients whose requests overlap. Each takes effect at one moment, and is sent and answered some
    time before and after it.
    """
    exchange = Exchange()
    exchange.send(*SETUP, Deposit("ann", "usd-1", "USD", 10**6), Deposit("bob", "xbt-1", "XBT", 10**6))
    exchange.now = 10.0
    sent: list[AnyCommand] = []
    queries: list[AnyQuery] = [
        ANN_BALANCE,
        BookQuery(PRODUCT, 1),
        BookQuery(PRODUCT, 3),
        OrdersQuery("bob"),
        OrderQuery("ann", 0, "o4"),
    ]
    for number in range(steps):
        exchange.now += 0.01
        asked, answered = exchange.now - chance.random() * 0.1, exchange.now + chance.random() * 0.1
        query = chance.choice(queries)
        if chance.random() < 0.4:
            exchange.history.append(Read(query, asked, answered, exchange.body(query)))
            continue
        command = _a_command(chance, number, sent)
        outcome = exchange.apply(command)[0]
        known = chance.random() < 0.8
        exchange.history.append(Write(command, asked, answered, outcome) if known else Write(command, asked))
    chance.shuffle(exchange.history)
    return exchange


def _a_command(chance: random.Random, number: int, sent: list[AnyCommand]) -> AnyCommand:
    if sent and chance.random() < 0.2:
        return chance.choice(sent[-5:])
    side, name = chance.choice([(Side.BUY, "ann"), (Side.SELL, "bob")])
    orders: list[Callable[[], AnyCommand]] = [
        lambda: limit(name, f"c:o{number}", side, chance.randint(1, 9), chance.randint(8, 12), oid=f"o{number}"),
        lambda: CancelOrder(name, f"x{number}", 0, f"o{chance.randrange(number + 1)}"),
    ]
    sent.append(chance.choice(orders)())
    return sent[-1]


@given(st.integers(0, 10**6))
def test_every_order_of_overlapping_commands_holds(seed: int) -> None:
    verdict = a_history(random.Random(seed), 60).judged()
    assert verdict.holds, verdict.anomalies


@given(st.integers(0, 10**6))
def test_a_read_of_another_moment_is_found_where_no_operation_overlaps_it(seed: int) -> None:
    """The slow reference says which earlier answers differ from all that the read may return."""
    chance = random.Random(seed)
    exchange = a_history(chance, 60)
    states: list[bytes | None] = []
    engine = Engine()
    for batch in exchange.log:
        states.append(body_of(engine, ANN_BALANCE, {}))
        engine.apply(batch)
    states.append(body_of(engine, ANN_BALANCE, {}))
    now = exchange.now + 1.0
    for body in set(states):
        read = Read(ANN_BALANCE, now, now + 1.0, body)
        verdict = judge([*exchange.history, read], exchange.log)
        answered = max(write.outcome.sequence for write in exchange.history if isinstance(write, Write) and write.outcome)
        if body not in states[-(engine.sequence - answered + 1) :]:
            assert [anomaly.kind for anomaly in verdict.anomalies] == [AnomalyKind.WRONG_READ]
        if body == states[-1]:
            assert verdict.holds


def test_the_outcome_of_a_rejected_command_is_judged_too(exchange: Exchange) -> None:
    exchange.send(Deposit("ann", "usd-2", "NONE", 1))
    write = exchange.history[-1]
    assert isinstance(write, Write)
    assert isinstance(write.outcome, Rejected)
    exchange.replace(-1, outcome=msgspec.structs.replace(write.outcome, field="amount"))
    assert exchange.kinds() == [AnomalyKind.WRONG_OUTCOME]


def test_a_key_that_the_node_encrypted_is_the_one_that_was_sent() -> None:
    exchange = Exchange()
    exchange.send(*SETUP)
    key = PutApiKey(OPERATOR, "key", "k", "ann", "c2VjcmV0", "walrus", 3)
    outcomes = exchange.apply(msgspec.structs.replace(key, secret="c2VhbGVk", passphrase="sealed", sealed_by=1))
    exchange.history.append(Write(key, exchange.now + 1.0, exchange.now + 2.0, outcomes[0]))
    assert not isinstance(outcomes[0], Rejected)
    assert exchange.judged().holds
    exchange.apply(msgspec.structs.replace(key, command_id="other", permissions=7))
    assert [anomaly.kind for anomaly in exchange.judged().anomalies] == [AnomalyKind.NOT_SENT]
