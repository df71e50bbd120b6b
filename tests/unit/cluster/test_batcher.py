"""The batcher answers every item exactly once and in order, whatever happens to the proposals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.batcher import Batcher, Refusal, _Queued, _Turns
from cluster.raft import Done, ProposeError, ProposeResult

Item = tuple[int, int]
"""An item's number and its units."""


class Bench:
    """A batcher whose consensus the test plays. `proposals` are in progress, and `ready` is what the event loop would
    run next.
    """

    def __init__(self, *, units_max: int = 10, bytes_max: int = 1_000, queue_max: int = 100, in_flight_max: int = 2) -> None:
        self.proposals: list[tuple[bytes, Done]] = []
        self.sealed: list[list[Item]] = []
        self.ready: list[Callable[[], None]] = []
        self.answers: list[tuple[int, Refusal | None, list[Any]]] = []
        self.batcher: Batcher[Item] = Batcher(
            lambda payload, done: self.proposals.append((payload, done)),
            self._seal,
            later=self.ready.append,
            units_max=units_max,
            bytes_max=bytes_max,
            queue_max=queue_max,
            in_flight_max=in_flight_max,
        )

    def _seal(self, items: list[Item]) -> bytes:
        self.sealed.append(items)
        return len(self.sealed).to_bytes(4, "big")

    def submit(self, number: int, units: int = 1, size: int = 10, share: str = "") -> None:
        def done(refusal: Refusal | None, results: Sequence[Any]) -> None:
            self.answers.append((number, refusal, list(results)))

        self.batcher.submit((number, units), units, size, done, share)

    def run(self) -> None:
        while self.ready:
            self.ready.pop(0)()

    def resolve(self, place: int = 0, error: ProposeError | None = None) -> None:
        """End a proposal. Its results are (item, unit)."""
        payload, done = self.proposals.pop(place)
        values = [(number, unit) for number, units in self.sealed[int.from_bytes(payload, "big") - 1] for unit in range(units)]
        done(ProposeResult(error=error, index=1, value=None if error else values))


def test_a_lone_item_is_proposed_at_once() -> None:
    bench = Bench()
    bench.submit(1)
    bench.run()
    assert bench.sealed == [[(1, 1)]]
    bench.resolve()
    assert bench.answers == [(1, None, [(1, 0)])]


def test_items_that_arrive_together_are_one_proposal() -> None:
    bench = Bench()
    for number in range(3):
        bench.submit(number)
    bench.run()
    assert bench.sealed == [[(0, 1), (1, 1), (2, 1)]]


def test_items_queue_while_proposals_are_in_progress_and_then_go_as_one() -> None:
    bench = Bench(in_flight_max=1)
    bench.submit(0)
    bench.run()
    for number in (1, 2, 3):
        bench.submit(number)
        bench.run()
    assert len(bench.proposals) == 1
    assert bench.batcher.queued == 3
    bench.resolve()
    bench.run()
    assert bench.sealed == [[(0, 1)], [(1, 1), (2, 1), (3, 1)]]


def test_a_proposal_is_bounded_by_units_and_by_bytes() -> None:
    bench = Bench(units_max=4, bytes_max=100, in_flight_max=9)
    for number, (units, size) in enumerate([(2, 10), (2, 10), (1, 10), (1, 80), (1, 20), (1, 1)]):
        bench.submit(number, units, size)
    bench.run()
    assert [[number for number, _ in items] for items in bench.sealed] == [[0, 1], [2, 3], [4, 5]]


def test_an_item_with_more_units_than_a_proposal_goes_alone() -> None:
    bench = Bench(units_max=4)
    bench.submit(0, units=7)
    bench.submit(1)
    bench.run()
    assert bench.sealed == [[(0, 7)], [(1, 1)]]
    bench.resolve()
    assert bench.answers == [(0, None, [(0, unit) for unit in range(7)])]


def test_an_item_with_more_bytes_than_a_proposal_is_refused() -> None:
    bench = Bench(bytes_max=100)
    bench.submit(0, size=101)
    assert bench.answers == [(0, Refusal.TOO_LARGE, [])]
    assert bench.batcher.idle


def test_a_full_queue_refuses() -> None:
    bench = Bench(queue_max=3)
    for number in range(4):
        bench.submit(number, share=f"share {number}")
    assert bench.answers == [(3, Refusal.OVERLOADED, [])]
    bench.run()
    bench.submit(4)
    assert len(bench.answers) == 1, "there is room again"


def test_an_empty_queue_takes_an_item_longer_than_itself() -> None:
    bench = Bench(queue_max=3, units_max=2)
    bench.submit(0, units=5)
    assert bench.answers == []


@pytest.mark.parametrize(
    ("error", "refusal"),
    [(ProposeError.NOT_LEADER, Refusal.NOT_LEADER), (ProposeError.OUTCOME_UNKNOWN, Refusal.OUTCOME_UNKNOWN)],
)
def test_every_item_of_a_failed_proposal_gets_the_refusal(error: ProposeError, refusal: Refusal) -> None:
    bench = Bench()
    bench.submit(0)
    bench.submit(1, units=2)
    bench.run()
    bench.resolve(error=error)
    assert bench.answers == [(0, refusal, []), (1, refusal, [])]
    assert bench.batcher.idle


def test_fail_queued_spares_proposals_in_progress() -> None:
    bench = Bench(in_flight_max=1)
    bench.submit(0)
    bench.run()
    bench.submit(1)
    bench.batcher.fail_queued(Refusal.NOT_LEADER)
    assert bench.answers == [(1, Refusal.NOT_LEADER, [])]
    bench.resolve()
    assert bench.answers[1:] == [(0, None, [(0, 0)])]
    assert bench.batcher.idle


def test_items_submitted_by_an_answer_are_proposed() -> None:
    """This is a client that sends its next command as soon as it has an answer."""
    bench = Bench(in_flight_max=1)
    bench.batcher.submit((0, 1), 1, 1, lambda refusal, results: bench.submit(1))
    bench.run()
    bench.resolve()
    bench.run()
    assert bench.sealed == [[(0, 1)], [(1, 1)]]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["submit", "submit to a", "submit to b"]), st.integers(1, 6), st.integers(1, 120)),
        st.tuples(st.just("run"), st.just(0), st.just(0)),
        st.tuples(st.just("resolve"), st.integers(0, 3), st.sampled_from([0, 0, 0, 1, 2])),
        st.tuples(st.just("fail"), st.just(0), st.just(0)),
    ),
    max_size=60,
)
ERRORS = [None, ProposeError.NOT_LEADER, ProposeError.OUTCOME_UNKNOWN]


@given(steps=STEPS)
def test_every_item_is_answered_once_with_its_own_results_and_order_is_kept(steps: list[tuple[str, int, int]]) -> None:
    bench = Bench(units_max=8, bytes_max=100, queue_max=20, in_flight_max=3)
    submitted: dict[int, int] = {}
    shares: dict[int, str] = {}
    for kind, first, second in steps:
        if kind.startswith("submit"):
            number = len(submitted)
            submitted[number], shares[number] = first, kind
            bench.submit(number, units=first, size=second, share=kind)
        elif kind == "run":
            bench.run()
        elif kind == "fail":
            bench.batcher.fail_queued(Refusal.NOT_LEADER)
        elif bench.proposals:
            bench.resolve(first % len(bench.proposals), ERRORS[second])
        assert bench.batcher.in_flight == len(bench.proposals) <= 3
        assert bench.batcher.queued >= 0
    while not bench.batcher.idle:
        bench.run()
        bench.resolve()
    assert sorted(number for number, _, _ in bench.answers) == sorted(submitted)
    for number, refusal, results in bench.answers:
        assert results == ([] if refusal else [(number, unit) for unit in range(submitted[number])])
    proposed = [number for items in bench.sealed for number, _ in items]
    for share in set(shares.values()):
        of_share = [number for number in proposed if shares[number] == share]
        assert of_share == sorted(of_share), "a share's items are proposed in the order of submission"
    for items in bench.sealed:
        assert len(items) == 1 or sum(units for _, units in items) <= 8


class TestShares:
    """The work of one share delays that share only."""

    def test_a_share_with_much_work_lets_the_others_through(self) -> None:
        bench = Bench(units_max=10, queue_max=1_000, in_flight_max=1)
        for number in range(100):
            bench.submit(number, share="greedy")
        bench.submit(1_000, share="modest")
        bench.run()
        bench.resolve()
        bench.run()
        assert (1_000, 1) in bench.sealed[0] + bench.sealed[1]

    def test_shares_get_equal_parts_whatever_the_size_of_their_items(self) -> None:
        bench = Bench(units_max=50, bytes_max=10**9, queue_max=100_000, in_flight_max=1)
        for number in range(40):
            bench.submit(number, units=50, share="large items")
        for number in range(100, 1_100):
            bench.submit(number, units=1, share="small items")
        for _ in range(20):
            bench.run()
            bench.resolve()
        units = {"large": 0, "small": 0}
        for items in bench.sealed:
            for number, count in items:
                units["large" if number < 100 else "small"] += count
        assert abs(units["large"] - units["small"]) <= 50

    def test_a_share_does_not_get_its_turn_again_by_having_been_empty(self) -> None:
        """One share sends its next large item each time the one before was sealed. A share that waits all the time gets
        as many units.
        """
        bench = Bench(units_max=50, bytes_max=10**9, queue_max=100_000, in_flight_max=1)
        for number in range(1_000, 2_000):
            bench.submit(number, share="steady")
        for number in range(100):
            bench.submit(number, units=50, share="by turns")
            bench.run()
            bench.resolve()
        sealed = [item for items in bench.sealed for item in items]
        steady = sum(units for number, units in sealed if number >= 1_000)
        assert steady == 1_000
        shown = next(place for place, items in enumerate(bench.sealed) if any(number == 1_999 for number, _ in items))
        assert sum(units for items in bench.sealed[:shown] for number, units in items if number < 1_000) <= 1_000 + 100

    @settings(max_examples=40)
    @given(
        taken=st.integers(0, 6),
        items=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 9)), max_size=12),
        last=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 9)), min_size=1, max_size=8),
    )
    def test_a_queue_that_is_taken_whole_is_in_the_order_of_the_turns(
        self, taken: int, items: list[tuple[str, int]], last: list[tuple[str, int]]
    ) -> None:
        """Taking all items at once gives the order of taking one after the other, whatever was taken before."""
        whole, single = (_Turns[Item](), _Turns[Item]())
        for turns in (whole, single):
            for number, (share, units) in enumerate(items):
                turns.add(share, _Queued((number, units), units, 10, lambda _refusal, _results: None), 10_000)
            for _ in range(min(taken, len(items))):
                turns.pop()
            for number, (share, units) in enumerate(last, 100):
                turns.add(share, _Queued((number, units), units, 10, lambda _refusal, _results: None), 10_000)
        assert whole.pop_all(whole.units - 1, 10_000) is None
        assert whole.pop_all(10_000, whole.size - 1) is None
        found = whole.pop_all(whole.units, whole.size)
        held = [whole.units_of(share) for share in "abcdefgh"]
        expected = []
        while single:
            expected.append(single.pop().item)
        if found is not None:
            assert [queued.item for queued in found] == expected
            assert (held, bool(whole), whole.units, whole.size) == ([0] * 8, False, 0, 0)
        else:
            assert len({item[0] for item in expected}) > sum(1 for units in held if units), "a share has two items"

    def test_one_share_fills_at_most_half_of_the_queue(self) -> None:
        bench = Bench(queue_max=100)
        for number in range(200):
            bench.submit(number, share="greedy")
        assert bench.batcher.queued == 50
        bench.submit(1_000, units=20, share="modest")
        assert (1_000, Refusal.OVERLOADED, []) not in bench.answers

    def test_many_greedy_shares_leave_room_for_one_that_comes_new(self) -> None:
        bench = Bench(queue_max=1_000)
        for number in range(100_000):
            bench.submit(number, share=f"greedy {number % 30}")
        refused = len(bench.answers)
        bench.submit(-1, units=10, share="modest")
        assert len(bench.answers) == refused

    def test_ever_new_shares_starve_no_other_share(self) -> None:
        bench = Bench(units_max=4, queue_max=100_000, in_flight_max=1)
        bench.submit(-1, units=4, share="steady")
        bench.submit(-2, share="steady")
        for number in range(1_000):
            bench.submit(number, units=2, share=f"share {number}")
            bench.submit(1_000 + number, units=2, share=f"another share {number}")
            bench.run()
            bench.resolve()
        assert (-2, 1) in [item for items in bench.sealed[:20] for item in items]

    def test_the_number_of_kept_shares_is_bounded(self) -> None:
        bench = Bench(units_max=4, queue_max=100_000, in_flight_max=1)
        for number in range(2_000):
            bench.submit(number, units=4, share=f"share {number}")
            bench.submit(2_000 + number, units=1, share="steady")
            bench.run()
            bench.resolve()
        assert len(bench.batcher._turns._ahead) < 10
        assert len(bench.batcher._turns._ends) < 10

    def test_the_units_in_progress_before_a_new_item_are_bounded(self) -> None:
        bench = Bench(units_max=10, queue_max=1_000, in_flight_max=4)
        for number in range(200):
            bench.submit(number, share="greedy")
        bench.run()
        assert sum(units for items in bench.sealed for _, units in items) == 20
        bench.submit(1_000, share="modest")
        bench.resolve()
        bench.run()
        assert (1_000, 1) in bench.sealed[2]
        assert bench.batcher.in_flight == 2
        while not bench.batcher.idle:
            bench.resolve()
            bench.run()
        assert len(bench.answers) == 201


class TestHolds:
    def test_nothing_is_proposed_before_every_hold_has_ended(self) -> None:
        bench = Bench()
        first, second = bench.batcher.hold(), bench.batcher.hold()
        bench.submit(1)
        bench.run()
        first()
        first()
        bench.run()
        assert bench.sealed == []
        second()
        bench.run()
        assert bench.sealed == [[(1, 1)]]

    def test_the_end_of_an_old_hold_does_not_end_a_new_one(self) -> None:
        bench = Bench()
        old = bench.batcher.hold()
        old()
        bench.batcher.hold()
        old()
        bench.submit(1)
        bench.run()
        assert bench.sealed == []
