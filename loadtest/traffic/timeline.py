"""Rates and latencies over time, of several processes together.

Time is divided into bins; each has a latency histogram for every protocol. A bin also records the slots in which an
answer arrived, so the longest time without an answer is exact to a slot. All numbers are sums, so that timelines of
several processes, on machines with synchronous clocks, can be added.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import msgspec

SLOT_S = 0.05
"""The resolution of a gap, in seconds."""

BIN_S = 0.25
"""The length of a bin, in seconds."""

GAPS_KEPT = 20
"""Gaps of a result: the longest ones."""

SHORTEST_S = 1e-4
GROWTH = 1.1
"""Latencies are counted in buckets; the first one ends at `SHORTEST_S` seconds, and each is longer than the last one by
this factor. A quantile is therefore exact to 10 %."""

_LOG_GROWTH = math.log(GROWTH)


class Bin(msgspec.Struct):
    """The answers of one protocol in a bin. `number`: the bin's start divided by `BIN_S`. `buckets`: answers by latency
    bucket. `slowest_s`: the longest latency, in seconds. `commands`: whether these are commands; reads and messages of
    feeds are counted under names of their own.
    """

    number: int
    protocol: str
    commands: bool = True
    answers: int = 0
    failures: int = 0
    slowest_s: float = 0.0
    buckets: dict[int, int] = {}

    def add(self, other: Bin) -> None:
        """Add another bin's numbers."""
        self.answers += other.answers
        self.failures += other.failures
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count


class AnswerGap(msgspec.Struct, frozen=True):
    """A time without an answer: how long, and when it began, in seconds since the epoch."""

    seconds: float
    begin_s: float


class News(msgspec.Struct):
    """The samples of a timeline since the last call of `news`."""

    bins: list[Bin] = []
    slots: list[int] = []


class Timeline:
    """Collects samples, and merges the news of other processes."""

    def __init__(self) -> None:
        self._bins: dict[tuple[int, str], Bin] = {}
        self._slots: set[int] = set()
        self._fresh: dict[tuple[int, str], Bin] = {}
        self._fresh_slots: set[int] = set()

    def note(self, at_s: float, protocol: str, latency_s: float, *, failed: bool = False, command: bool = True) -> None:
        """Count an answer that came at `at_s` (seconds since the epoch). A failure is not an answer. Only answers to
        commands end a gap.
        """
        one = Bin(int(at_s / BIN_S), protocol, command, failures=1)
        if not failed:
            one.answers, one.failures, one.slowest_s, one.buckets = 1, 0, latency_s, {bucket_of(latency_s): 1}
        for bins in (self._bins, self._fresh):
            _add(bins, one)
        if command and not failed:
            slot = int(at_s / SLOT_S)
            if slot not in self._slots:
                self._slots.add(slot)
                self._fresh_slots.add(slot)

    def news(self) -> News:
        """Return the samples since the last call, for another process."""
        news = News(list(self._fresh.values()), sorted(self._fresh_slots))
        self._fresh, self._fresh_slots = {}, set()
        return news

    def merge(self, news: News) -> None:
        """Add the news of another process."""
        for one in news.bins:
            _add(self._bins, one)
        self._slots.update(news.slots)

    def clear(self) -> None:
        """Drop all samples."""
        self._bins.clear()
        self._slots.clear()
        self.news()

    @property
    def bins(self) -> list[Bin]:
        """All bins, in order of time."""
        return [self._bins[key] for key in sorted(self._bins)]

    def gaps(self, until_s: float = math.inf, most: int = GAPS_KEPT) -> list[AnswerGap]:
        """Return the longest times without an answer between the first one and the last one before `until_s`, longest first."""
        slots = sorted(slot for slot in self._slots if slot * SLOT_S <= until_s)
        steps = [(after - before - 1, before + 1) for before, after in itertools.pairwise(slots) if after > before + 1]
        return [AnswerGap(empty * SLOT_S, begin * SLOT_S) for empty, begin in sorted(steps, reverse=True)[:most]]


def _add(bins: dict[tuple[int, str], Bin], one: Bin) -> None:
    key = (one.number, one.protocol)
    if key not in bins:
        bins[key] = Bin(one.number, one.protocol, one.commands)
    bins[key].add(one)


def bucket_of(latency_s: float) -> int:
    """Return the bucket of a latency."""
    if latency_s <= SHORTEST_S:
        return 0
    return math.ceil(math.log(latency_s / SHORTEST_S) / _LOG_GROWTH - 1e-9)


def quantile(bins: Iterable[Bin], part: float) -> float:
    """Return the latency in seconds that `part` (0 to 1) of the answers do not exceed: the end of its bucket, at most
    the slowest one. 0 if there are no answers.
    """
    total = Bin(0, "")
    for one in bins:
        total.add(one)
    rank = part * sum(total.buckets.values())
    seen = 0
    for bucket in sorted(total.buckets):
        seen += total.buckets[bucket]
        if seen >= rank:
            return min(total.slowest_s, SHORTEST_S * GROWTH**bucket)
    return total.slowest_s


def joined(bins: Sequence[Bin], most: int) -> tuple[float, list[list[Bin]]]:
    """Return consecutive bins in at most `most` groups of equal duration, empty ones included: the duration of a group
    in seconds, and the groups, the first of which begins with the first bin.
    """
    if not bins:
        return BIN_S, []
    first, last = bins[0].number, bins[-1].number
    width = max(1, math.ceil((last - first + 1) / most))
    groups: list[list[Bin]] = [[] for _ in range((last - first) // width + 1)]
    for one in bins:
        groups[(one.number - first) // width].append(one)
    return width * BIN_S, groups
