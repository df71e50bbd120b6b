"""Several upgrades are summed up."""

from __future__ import annotations

from loadtest.rolling import Result, summary


def result(gap: float, *faults: str) -> Result:
    return Result(acknowledged=100, roll_gap=gap, level_gap=gap / 10, compared=5, differing=0, faults=[*faults])


def test_gaps_of_several_upgrades() -> None:
    lines = summary([result(0.3), result(0.1), result(0.2, "the states differ")])
    assert lines[0].endswith("2 of 3")
    assert lines[1].endswith("300")
    assert lines[2].endswith("p50 200 ms, max 300 ms")
    assert lines[3].endswith("p50 20 ms, max 30 ms")
