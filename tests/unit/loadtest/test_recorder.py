"""The record of requests and answers: the contents of the file, how the gap is measured, and which contradictions are
detected.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import WrongAnswerError
from loadtest.recorder import Acknowledgement, Gap, Recorder, percentile
from statemachine.commands import CancelAll
from statemachine.events import Cancelled, Rejected
from statemachine.types import Reason


def command(name: str) -> CancelAll:
    return CancelAll("alice", name)


def outcome(sequence: int, duplicate: bool = False) -> Cancelled:
    return Cancelled(sequence, 0, duplicate, [])


def acknowledge(recorder: Recorder, *times: float) -> None:
    for number, moment in enumerate(times, 1):
        recorder.answered([command(f"c{number}")], [outcome(number)], moment, moment)


def test_the_file_has_a_line_for_each_answer(tmp_path: Path) -> None:
    path = tmp_path / "acks.jsonl"
    with Recorder(path) as recorder:
        recorder.sent([command("a"), command("b"), command("c")], 1.0)
        refused = Rejected(5, 0, False, Reason.INVALID_SIZE, "size", "")
        recorder.answered([command("a"), command("b")], [outcome(4), refused], 1.0, 2.5)
    lines = [msgspec.json.decode(line, type=Acknowledgement) for line in path.read_bytes().splitlines()]
    assert [(line.command_id, line.kind, line.sequence) for line in lines] == [
        ("a", "cancelled", 4),
        ("b", "rejected", 5),
        ("c", "unanswered", 0),
    ]
    assert (lines[0].sent, lines[0].acked) == (1.0, 2.5)
    assert recorder.unanswered == 1


def test_a_repeated_command_counts_once() -> None:
    recorder = Recorder()
    recorder.answered([command("a")], [outcome(4)], 1.0, 2.0)
    recorder.answered([command("a")], [outcome(4, duplicate=True)], 3.0, 4.0)
    assert (recorder.acknowledged, recorder.distinct) == (2, 1)


def test_another_sequence_for_the_same_command_is_wrong() -> None:
    recorder = Recorder()
    recorder.answered([command("a")], [outcome(4)], 1.0, 2.0)
    with pytest.raises(WrongAnswerError, match="sequence 5, and 4 before"):
        recorder.answered([command("a")], [outcome(5)], 3.0, 4.0)


def test_a_missing_outcome_is_wrong() -> None:
    with pytest.raises(WrongAnswerError, match="0 outcomes for 1 commands"):
        Recorder().answered([command("a")], [], 1.0, 2.0)


def test_gap_is_measured_whole() -> None:
    recorder = Recorder()
    acknowledge(recorder, 1.0, 2.0, 2.1, 2.9, 3.0, 3.1)
    assert recorder.gap(2.5, 3.05) == Gap(2.1, 2.9)
    assert recorder.gap(0.0, 10.0) == Gap(3.1, 10.0)


def test_gap_without_acknowledgements_is_the_window() -> None:
    assert Recorder().gap(1.0, 4.0).seconds == 3.0


@given(st.lists(st.integers(0, 1000), min_size=2, unique=True))
def test_gap_agrees_with_the_obvious(moments: list[int]) -> None:
    recorder = Recorder()
    ordered = sorted(moments)
    acknowledge(recorder, *[float(moment) for moment in ordered])
    widest = max(later - earlier for earlier, later in pairwise(ordered))
    assert recorder.gap(ordered[0], ordered[-1]).seconds == widest


@pytest.mark.parametrize(("parts", "expected"), [(50, 3), (99, 5), (100, 5), (1, 1), (20, 1), (21, 2)])
def test_percentile_is_the_nearest_rank(parts: float, expected: int) -> None:
    assert percentile([5, 1, 4, 2, 3], parts) == expected


def test_a_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 50) == 0
