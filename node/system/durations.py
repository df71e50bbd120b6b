"""Histograms of durations in the engine, for Prometheus and the operator's tools.

All histograms have the same bounds, so two of them can be added or subtracted. One observation costs about 0.3
microseconds.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

BOUNDS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the buckets in seconds. A further bucket without a bound follows."""

FSYNC = "fsync"
"""One fdatasync of the Raft log."""

COMMIT = "commit"
"""From the leader's proposal of a log entry until a majority has it and the leader starts to apply it."""

APPLY = "apply"
"""Applying one log entry to the exchange's state."""

REQUEST = "request"
"""From the arrival of a request with commands at the leader's engine until its answer."""


class DurationCounts(msgspec.Struct, frozen=True, array_like=True):
    """A histogram at one moment. `counts`: observations by bucket; the last bucket has no bound. `total_s`: the sum of
    the observations in seconds.
    """

    counts: list[int]
    total_s: float

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    def since(self, earlier: DurationCounts | None) -> DurationCounts:
        """Return the observations since an earlier moment. After a restart in between, all observations count."""
        if earlier is None or len(earlier.counts) != len(self.counts) or earlier.count > self.count:
            return self
        counts = [now - before for now, before in zip(self.counts, earlier.counts, strict=True)]
        return DurationCounts(counts, self.total_s - earlier.total_s)

    def quantile(self, share: float) -> float | None:
        """Return the upper bound, in seconds, of the bucket that holds this share of the observations (0.99: the 99th
        percentile).

        Returns None without observations, and infinity above the last bound.
        """
        wanted = share * self.count
        if not wanted:
            return None
        passed = 0
        for bound, count in zip((*BOUNDS_S, float("inf")), self.counts, strict=True):
            passed += count
            if passed >= wanted:
                return bound
        return float("inf")


class Durations:
    """A histogram of durations."""

    __slots__ = ("_counts", "_total_s")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._total_s += seconds

    def freeze(self) -> DurationCounts:
        """Return the counts so far."""
        return DurationCounts(list(self._counts), self._total_s)


class EngineDurations:
    """The histograms of an engine process."""

    def __init__(self) -> None:
        self.fsync = Durations()
        self.commit = Durations()
        self.apply = Durations()
        self.request = Durations()

    def freeze(self) -> dict[str, DurationCounts]:
        """Return all histograms by name."""
        return {
            FSYNC: self.fsync.freeze(),
            COMMIT: self.commit.freeze(),
            APPLY: self.apply.freeze(),
            REQUEST: self.request.freeze(),
        }
