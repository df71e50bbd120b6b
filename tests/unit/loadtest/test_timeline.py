"""Rates and latencies over time, the longest time without an answer, and the sums of several processes."""

from __future__ import annotations

import math

import msgspec
import pytest

from loadtest.traffic.timeline import BIN_S, GROWTH, SLOT_S, AnswerGap, News, Timeline, joined, quantile


def longest(timeline: Timeline, until_s: float = math.inf) -> AnswerGap:
    return next(iter(timeline.gaps(until_s)), AnswerGap(0.0, 0.0))


def of(*times: float) -> Timeline:
    made = Timeline()
    for time in times:
        made.note(time, "HTTP", 0.01)
    return made


def test_steady_answers_have_no_gap() -> None:
    assert of(*(100 + number * SLOT_S / 2 for number in range(100))).gaps() == []
    assert of().gaps() == []
    assert of(7.0).gaps() == []


def test_the_longest_gap_counts_and_its_beginning() -> None:
    gaps = of(10.0, 10.5, 12.0, 12.4).gaps()
    assert gaps[0].seconds == pytest.approx(1.5, abs=SLOT_S)
    assert gaps[0].begin_s == pytest.approx(10.5, abs=2 * SLOT_S)
    assert [gap.seconds for gap in gaps[1:]] == pytest.approx([0.5, 0.4], abs=SLOT_S)
    assert longest(of(10.0, 10.5, 12.0), 11.0).seconds == pytest.approx(0.5, abs=SLOT_S)


def test_failures_and_reads_do_not_end_a_gap() -> None:
    timeline = of(10.0, 12.0)
    timeline.note(11.0, "HTTP", 0.01, failed=True)
    timeline.note(11.0, "reads", 0.01, command=False)
    assert longest(timeline).seconds == pytest.approx(2.0, abs=2 * SLOT_S)
    assert sum(one.failures for one in timeline.bins) == 1


def test_the_answers_of_several_processes_are_merged() -> None:
    one, other = of(10.0, 11.0, 12.0), of(10.5, 11.5)
    news = msgspec.convert(msgspec.to_builtins(one.news(), str_keys=True), News, strict=False)
    assert one.news() == News(), "everything is reported once"
    other.merge(news)
    assert longest(other).seconds == pytest.approx(0.5, abs=SLOT_S)
    assert sum(each.answers for each in other.bins) == 5
    one.note(13.0, "HTTP", 0.01)
    other.merge(one.news())
    assert longest(other).seconds == pytest.approx(1.0, abs=SLOT_S)


def test_quantiles_are_exact_to_a_bucket() -> None:
    timeline = Timeline()
    for number in range(1, 1001):
        timeline.note(50.0, "native", number / 1000)
    assert quantile(timeline.bins, 0.5) == pytest.approx(0.5, rel=GROWTH - 1)
    assert quantile(timeline.bins, 0.99) == pytest.approx(0.99, rel=GROWTH - 1)
    assert quantile(timeline.bins, 1.0) == 1.0
    assert quantile([], 0.5) == 0


def test_joined_bins_keep_empty_times() -> None:
    timeline = of(10.0, 10.0 + BIN_S, 20.0)
    width, groups = joined(timeline.bins, 5)
    assert len(groups) <= 5
    assert width >= 2.0
    assert [sum(one.answers for one in group) for group in groups] == [2, 0, 0, 0, 1]
    assert joined([], 5) == (BIN_S, [])
