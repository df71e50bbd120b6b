"""The state at the level before, kept ready: it equals a conversion of the whole state whenever it is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from random import Random

import pytest

from snapshots.levels import returning
from snapshots.levels.level import OWN, V0_2_0
from snapshots.levels.lowering import LossError, lowered
from snapshots.levels.raising import raised
from snapshots.levels.returning import PreparedReturn, ReturnError
from snapshots.levels.v0_2_0 import FormerEngine
from snapshots.levels.v0_2_0_patch import Patch
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PlaceOrder, PutFirm, SetSwitches
from statemachine.engine import Engine
from statemachine.freezing import RowChunk
from statemachine.limits import DONE_ORDERS_PER_ACCOUNT, OPERATOR, OUTCOMES_PER_ACCOUNT, REJECTS_CACHED
from statemachine.types import Scope, TimeInForce
from tests.unit.snapshots.levels.markets import Market
from tests.unit.snapshots.levels.test_lowering import buy, former, market
from tests.unit.snapshots.levels.test_shadow import goes_on_alike, same


class Node:
    """An engine, a return that is prepared from its newest snapshot, and further snapshots as a node takes them: each
    is frozen first, and encoded later.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._time = engine.time
        for _ in engine.freeze():
            pass
        self.prepared = PreparedReturn(engine, V0_2_0)
        self._base = {name: list(rows) for name, rows in engine.tables()}

    def build(self) -> None:
        self.prepared.build(self._base)

    def apply(self, commands: Sequence[AnyCommand]) -> None:
        self._time += 1
        self.engine.apply(Batch(self._time, list(commands)))

    def snapshot(self, *, whole: bool = False) -> Iterator[RowChunk]:
        """Begin a snapshot, and return what it writes."""
        return iter(self.prepared.freeze(whole=whole))

    def follow(self) -> None:
        """Take a snapshot, and let the return take it over."""
        for _ in self.snapshot():
            pass
        self.prepared.follow()


def traded(seed: int, entries: int) -> tuple[Engine, Market]:
    """Return a state of this software that was raised from 0.2.0 and has traded since, and the market that goes on."""
    engine, _ = former(seed, entries)
    up = raised(engine, V0_2_0, OWN)
    flow = Market(seed + 500)
    flow._time, flow._number = up.time, 10_000
    for batch in flow.batches(entries):
        up.apply(batch)
    return up, flow


def taken(node: Node) -> Engine:
    """Return what the prepared return gives, which is what a conversion of the whole state gives."""
    whole = lowered(node.engine, V0_2_0)
    made = node.prepared.take()
    assert made.state_hash == whole.state_hash
    same(made, whole)
    return made


@pytest.mark.parametrize("seed", range(16))
def test_a_prepared_return_equals_the_conversion_of_the_whole_state(seed: int) -> None:
    random = Random(seed)
    engine, flow = traded(seed, random.choice((3, 40)))
    node = Node(engine)
    going_on = flow.batches(400)
    for batch in islice(going_on, random.randrange(20)):
        engine.apply(batch)
    node.build()
    for _ in range(random.randrange(6)):
        encoding = node.snapshot()
        for batch in islice(going_on, random.randrange(30)):
            engine.apply(batch)
            for _ in islice(encoding, 3):
                pass
        for _ in encoding:
            pass
        if random.random() < 0.7:
            node.prepared.follow()
    for batch in islice(going_on, random.randrange(60)):
        engine.apply(batch)
    made = taken(node)
    goes_on_alike(made, lowered(engine, V0_2_0), flow)


def test_done_orders_that_were_dropped_meanwhile_are_dropped() -> None:
    node = Node(market(buy("open", client_oid="x")))
    node.build()
    for number in (3, 4):
        node.apply([leaving(f"{number}-{each}") for each in range(DONE_ORDERS_PER_ACCOUNT // number)])
        node.follow()
    node.apply([leaving(f"{each}") for each in range(DONE_ORDERS_PER_ACCOUNT - 5)])
    node.follow()
    node.apply([leaving(f"last-{each}") for each in range(2 * DONE_ORDERS_PER_ACCOUNT)])
    taken(node)


def leaving(command_id: str) -> PlaceOrder:
    """Return an order that is done at once."""
    return buy(command_id, time_in_force=TimeInForce.IOC, client_oid="o")


@pytest.mark.parametrize("rejected", [False, True])
def test_entries_of_every_reply_cache_that_were_dropped_meanwhile_are_dropped(rejected: bool) -> None:
    """Rejected deposits have a small cache of their own, so entries leave from the middle of the one of 0.2.0."""
    node = Node(market())
    node.build()
    number = 0
    for count in (REJECTS_CACHED // 2, REJECTS_CACHED // 2 + 20, 40, OUTCOMES_PER_ACCOUNT, 30):
        for each in range(count):
            number += 1
            node.apply(
                [Deposit("ann", f"d{number}", "USD", 0 if rejected else 1)] + ([buy(f"b{number}")] if each % 9 == 0 else [])
            )
        node.follow()
    node.apply([Deposit("ann", f"last{each}", "USD", 0 if rejected else 1) for each in range(25)])
    taken(node)


@pytest.mark.parametrize("followed", [False, True])
def test_a_feature_that_came_into_use_meanwhile_is_named_as_an_obstacle(followed: bool) -> None:
    node = Node(market(buy()))
    node.build()
    node.apply([PutFirm(OPERATOR, "f", "acme"), SetSwitches(OPERATOR, "s", Scope.ACCOUNT, "ann", 1)])
    with pytest.raises(LossError) as whole:
        lowered(node.engine, V0_2_0)
    with pytest.raises(LossError) as found:
        node.follow() if followed else node.prepared.take()
    assert set(found.value.obstacles) <= set(whole.value.obstacles), "the next attempt names all of them"
    assert not node.prepared.ready


def test_one_command_id_of_two_kinds_is_named() -> None:
    node = Node(market(buy()))
    node.build()
    node.apply([buy("d1")])
    with pytest.raises(LossError, match=r"table outcome: two commands of an account have one command id .*ann, id d1"):
        node.prepared.take()


def test_a_full_snapshot_ends_the_preparation() -> None:
    node = Node(market(buy()))
    node.build()
    for _ in node.snapshot(whole=True):
        pass
    assert not node.prepared.ready
    with pytest.raises(ReturnError, match="written in full"):
        node.prepared.take()


def test_a_snapshot_that_is_not_encoded_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "ENCODED_SECONDS", 0.01)
    node = Node(market(buy()))
    node.build()
    node.apply([buy("c2")])
    encoding = node.snapshot()
    next(encoding)
    assert node.prepared.follow() == 0
    with pytest.raises(ReturnError, match="not encoded in time"):
        node.prepared.take()


def test_too_many_untaken_changes_end_the_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returning, "CHANGES_MAX", 5)
    node = Node(market(buy()))
    node.build()
    for number in range(3):
        node.apply([buy(f"n{number}")])
        for _ in node.snapshot():
            pass
    with pytest.raises(ReturnError, match="more changed"):
        node.prepared.follow()


def test_a_state_with_another_number_of_rows_is_not_taken() -> None:
    node = Node(market(buy()))
    node.build()
    made = node.prepared._made
    assert made is not None
    made.apply(Batch(10**15, [OpenAccount(OPERATOR, "x", "other")]))
    with pytest.raises(ReturnError, match="another number of rows: account"):
        node.prepared.take()


def test_a_returning_state_cannot_be_taken_before_it_is_made_or_after_it_ended() -> None:
    node = Node(market(buy()))
    assert not node.prepared.ready
    with pytest.raises(ReturnError, match="not made yet"):
        node.prepared.take()
    node = Node(market(buy()))
    node.build()
    assert node.prepared.ready
    made = node.prepared.stop()
    assert made is not None
    made.release()
    with pytest.raises(ReturnError, match="it was ended"):
        node.prepared.take()


def test_a_state_that_was_ended_while_a_thread_worked_on_it_is_released_there(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[Engine] = []
    monkeypatch.setattr(FormerEngine, "release", lambda engine: released.append(engine))
    node = Node(market(buy()))
    node.build()
    made = node.prepared._made
    node.apply([buy("c2")])
    for _ in node.snapshot():
        pass
    take = Patch.take

    def ended(patch: Patch, chunks: Iterable[RowChunk]) -> None:
        assert node.prepared.stop() is None
        take(patch, chunks)

    monkeypatch.setattr(Patch, "take", ended)
    with pytest.raises(ReturnError, match="it was ended"):
        node.prepared.follow()
    assert released == [made]
