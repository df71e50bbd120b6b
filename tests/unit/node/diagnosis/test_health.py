"""The checks for a monitoring system: they are silent for a healthy cluster, and each one reports its fault."""

from __future__ import annotations

from typing import Any

import pytest

from node.deployment.statuses import Statuses
from node.diagnosis.findings import Finding, Severity, worst
from node.diagnosis.health import LIMITS, Observation, Thresholds, checks, examine
from tests.unit.node.diagnosis.statuses import counted, member, status, three

NOW = 1_000_000.0
USUAL = {name: limits for name, (limits, _) in LIMITS.items()}


def seen(
    after: Statuses, before: Statuses | None = None, histories: dict[str, dict[str, int]] | None = None, now: float = NOW
) -> Observation:
    return Observation(three() if before is None else before, after, histories or {}, now)


def made(name: str, observation: Observation) -> list[Finding]:
    return examine(observation, [name], USUAL)


def test_a_cluster_that_is_well_gives_no_finding() -> None:
    found = examine(seen(three(), histories={"n1": {"behind": 3, "gaps": 0}}), list(checks()), USUAL)
    assert worst(found) is Severity.OK, [finding for finding in found if finding.level]
    assert {finding.check for finding in found} == set(checks())


SLOW = {"fsync": counted(*[0.002] * 100, *[0.4] * 100), "commit": counted(*[0.002] * 100, *[0.4] * 100)}
SKEWED = [member("n1"), member("n2", clock_skew=-0.9), member("n3", clock_skew=5.0)]


@pytest.mark.parametrize(
    ("check", "changed", "level", "text"),
    [
        ("leader", {"n1": None}, Severity.CRITICAL, "no leader serves; 2 of 3 nodes answer"),
        ("nodes", {"n3": None}, Severity.WARNING, "n3 does not answer"),
        ("nodes", {"n2": None, "n3": None}, Severity.CRITICAL, "n2, n3 does not answer"),
        ("states", {"n3": status("n3", state_hash="bb")}, Severity.CRITICAL, "the states of n1+n2 and n3 differ"),
        ("states", {"n3": status("n3", state_hash="")}, Severity.UNKNOWN, "may not see the state hashes"),
        ("lag", {"n3": status("n3", applied_index=99, ready=False)}, Severity.WARNING, "not ready"),
        ("lag", {"n1": status("n1", "leader", commit_index=5_000)}, Severity.WARNING, "4,900 log entries behind"),
        ("lag", {"n1": status("n1", "leader", commit_index=500_000)}, Severity.CRITICAL, "499,900"),
        ("lag", {"n1": None}, Severity.UNKNOWN, "no leader"),
        ("fsync", {"n2": status("n2", durations=SLOW)}, Severity.CRITICAL, "p99 500 ms (now)"),
        ("commit", {"n1": status("n1", "leader", durations=SLOW)}, Severity.WARNING, "p99 500 ms (now)"),
        ("disk", {"n2": status("n2", counters={"disk_free_bytes": 10, "disk_size_bytes": 100})}, Severity.WARNING, "10 % free"),
        ("disk", {"n2": status("n2", counters={"disk_free_bytes": 1, "disk_size_bytes": 100})}, Severity.CRITICAL, "1 % free"),
        ("disk", {"n2": status("n2", counters={})}, Severity.UNKNOWN, "does not report it"),
        ("certificates", {"n2": status("n2", certificate_expires=int(NOW) + 20 * 86_400)}, Severity.WARNING, "20 days left"),
        ("certificates", {"n2": status("n2", certificate_expires=int(NOW) - 86_400)}, Severity.CRITICAL, "-1 days left"),
        ("clock", {"n1": status("n1", "leader", members=SKEWED)}, Severity.CRITICAL, "+5.000 s"),
        ("clock", {"n1": None}, Severity.UNKNOWN, "no leader"),
    ],
)
def test_each_check_can_fail(check: str, changed: dict[str, Any], level: Severity, text: str) -> None:
    found = made(check, seen(three(**changed)))
    assert worst(found) is level, found
    loudest = [finding for finding in found if finding.level is level]
    assert any(text in finding.text for finding in loudest), found
    assert all(finding.advice for finding in loudest if level is not Severity.UNKNOWN)


def test_durations_are_those_of_now() -> None:
    """A node that was slow at its start is not reported as slow for ever."""
    slow_once = counted(*[0.4] * 100)
    before = three(n2=status("n2", durations={"fsync": slow_once}))
    after = three(n2=status("n2", durations={"fsync": counted(*[0.4] * 100, *[0.001] * 100)}))
    assert worst(made("fsync", seen(after, before))) is Severity.OK
    idle = made("fsync", seen(before, before))
    assert any("since its start" in finding.text and finding.level is Severity.CRITICAL for finding in idle)
    assert any("none" in finding.text for finding in made("fsync", seen(three(n2=status("n2", durations={"fsync": counted()})))))


@pytest.mark.parametrize(
    ("history", "level"),
    [
        ({"behind": 5, "gaps": 0}, Severity.OK),
        ({"behind": 50_000, "gaps": 0}, Severity.WARNING),
        ({"behind": 0, "gaps": 1}, Severity.WARNING),
        ({}, Severity.WARNING),
    ],
)
def test_a_history_that_is_behind_is_a_finding(history: dict[str, int], level: Severity) -> None:
    assert worst(made("history", seen(three(), histories={"n2": history}))) is level


def test_an_old_snapshot_is_not_a_fault_where_nothing_came_since() -> None:
    late = NOW + 30 * 86_400
    assert worst(made("snapshot", seen(three(), now=late))) is Severity.CRITICAL
    idle: Statuses = {f"n{number}": status(f"n{number}", snapshot_index=100) for number in (1, 2, 3)}
    assert worst(made("snapshot", seen(idle, now=late))) is Severity.OK
    fresh: Statuses = {"n1": status("n1", counters={"snapshot_timestamp_seconds": 0})}
    assert "none yet" in made("snapshot", seen(fresh))[0].text


def test_limits_count_from_either_side() -> None:
    assert [Thresholds(1, 5).level(value) for value in (1, 2, 6)] == [Severity.OK, Severity.WARNING, Severity.CRITICAL]
    assert [Thresholds(15, 5, falling=True).level(value) for value in (15, 14, 4)] == [
        Severity.OK,
        Severity.WARNING,
        Severity.CRITICAL,
    ]


def test_the_worst_level_counts() -> None:
    def of(*levels: Severity) -> Severity:
        return worst(Finding(level, "", "x", "") for level in levels)

    assert of() is Severity.OK
    assert of(Severity.WARNING, Severity.UNKNOWN) is Severity.UNKNOWN
    assert of(Severity.UNKNOWN, Severity.CRITICAL, Severity.OK) is Severity.CRITICAL
