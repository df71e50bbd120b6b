"""The short form of `make kills`, and the division of a failover into its parts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from loadtest.recorder import Acknowledgement
from tests.chaos.kills import Kills, KillsPlan, report
from tests.chaos.phases import PHASES, Turn, phases, turns, waits

PLAN = KillsPlan(kills=5, judged_every=3)

LOG = """\
2026-01-31T12:00:00.100Z n2 engine INFO node.engine.process n2 is candidate; leader: none
2026-01-31T12:00:00.102Z n2 engine INFO cluster.transfer sending the snapshot at index 7 (9 bytes) to n1
2026-01-31T12:00:00.110Z n2 engine INFO node.engine.process n2 is leader; leader: n2
2026-01-31T12:00:00.125Z n2 engine INFO cluster.raft serves as the leader of term 3 from index 12 on
"""
NOON = 1_769_860_800.0


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_killed_leaders_lose_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    result = asyncio.run(Kills(tmp_path, PLAN, lines.append).run())
    assert not result.failure, lines
    assert len(result.kills) == PLAN.kills
    assert result.judged == 2
    assert all(0 < kill.gap < 10.0 and kill.gap <= kill.back for kill in result.kills), result.kills
    assert all(kill.wait > 0 for kill in result.kills), result.kills
    assert all(set(kill.parts) == set(PHASES) for kill in result.kills), result.kills
    assert "none lost, none doubled" in report(result, PLAN)


def test_the_turns_are_read_from_a_log() -> None:
    assert turns(LOG) == [
        Turn(NOON + 0.1, "n2", "candidate"),
        Turn(NOON + 0.11, "n2", "leader"),
        Turn(NOON + 0.125, "n2", "serving"),
    ]


def test_a_failover_is_taken_apart() -> None:
    earlier = [Turn(NOON + 0.01, "n3", "candidate"), Turn(NOON + 0.02, "n3", "leader")]
    parts = phases(NOON, [*turns(LOG), *earlier], NOON + 0.2)
    assert {name: round(seconds, 6) for name, seconds in parts.items()} == {
        "detect": 0.1,
        "elect": 0.01,
        "commit": 0.015,
        "answer": 0.075,
    }
    assert phases(NOON, turns(LOG), NOON + 0.12)["answer"] == 0.0, "the answer left before the line was logged"
    assert phases(NOON, turns(LOG), NOON + 0.05) == {}, "the answer came long before anybody served: another leader's"


def test_the_wait_is_that_of_the_client_that_waited_longest(tmp_path: Path) -> None:
    records = tmp_path / "records"
    times = {"a": [1.0, 1.1, 1.6], "b": [1.05, 1.9, 2.0], "c": [0.0, 0.2]}
    lines = [
        msgspec.json.encode(Acknowledgement(account, f"{account}{acked}", "placed", 1, 1, False, acked - 0.01, acked))
        for account, of_it in times.items()
        for acked in of_it
    ]
    never = Acknowledgement("c", "c9", "unanswered", 0, 0, False, 0.3, 0.0)
    records.write_bytes(b"\n".join([*lines, msgspec.json.encode(never)]))
    windows = [(1.0, 1.7, 9.0), (1.95, 2.5, 9.0), (0.1, 0.15, 9.0), (1.0, 1.7, 1.75)]
    assert [round(wait, 6) for wait in waits(records, windows)] == [0.85, 0.05, 0.1, 0.7], "the last one ends at a pause"
