"""Histograms of durations: buckets, differences, quantiles, and the cost of an observation."""

from __future__ import annotations

import timeit

from hypothesis import given
from hypothesis import strategies as st

from node.system.durations import BOUNDS_S, Durations, EngineDurations
from tests.unit.node.diagnosis.statuses import counted


def test_an_observation_is_in_the_first_bucket_that_covers_it() -> None:
    found = counted(0.0, BOUNDS_S[0], 0.0015, 99.0)
    assert found.counts[0] == 2, "a bound belongs to its bucket, as Prometheus' `le` says"
    assert found.counts[BOUNDS_S.index(0.002)] == 1
    assert found.counts[-1] == 1
    assert found.count == 4


def test_quantiles_are_upper_bounds_of_buckets() -> None:
    found = counted(*[0.0015] * 99, 3.0)
    assert found.quantile(0.5) == 0.002
    assert found.quantile(0.99) == 0.002
    assert found.quantile(1.0) == 5.0
    assert counted().quantile(0.99) is None
    assert counted(50.0).quantile(0.5) == float("inf")


@given(st.lists(st.floats(0, 20)), st.lists(st.floats(0, 20)))
def test_the_difference_of_two_histograms_is_the_observations_between(before: list[float], between: list[float]) -> None:
    assert counted(*before, *between).since(counted(*before)).counts == counted(*between).counts


def test_after_a_restart_every_observation_counts() -> None:
    assert counted(0.1).since(counted(0.1, 0.1)).count == 1
    assert counted(0.1).since(None).count == 1


def test_an_observation_costs_little() -> None:
    """Every log entry is observed, so an observation must take much less than a hundredth of an fsync."""
    durations = Durations()
    assert min(timeit.repeat(lambda: durations.observe(0.0015), number=1_000, repeat=20)) / 1_000 < 20e-6


def test_the_engine_has_one_of_each() -> None:
    durations = EngineDurations()
    durations.fsync.observe(0.01)
    assert {name: counts.count for name, counts in durations.freeze().items()} == {
        "fsync": 1,
        "commit": 0,
        "apply": 0,
        "request": 0,
    }
