"""The rolling figures are compared with a plain sum."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from node.statistics import DAY_MINUTES, HOUR, MINUTE, MONTH_HOURS, Figures, Span, Statistics
from statemachine.events import OrderMatched
from statemachine.types import Side


def trade(minute: int, price: int, size: int) -> OrderMatched:
    return OrderMatched("P", 1, minute * MINUTE + 5, 1, 1, 2, "a", "b", Side.BUY, price, size, 0, 0)


pauses = st.integers(0, 900) | st.integers(0, 30_000)


@given(st.lists(st.tuples(pauses, st.integers(1, 50), st.integers(1, 9)), max_size=30), pauses, st.integers(0, 30))
def test_the_figures_are_those_of_24_hours_and_30_days(steps: list[tuple[int, int, int]], ahead: int, restart: int) -> None:
    """This also holds for a node that was restarted meanwhile: it continues from what was saved, and reports what the
    others report.
    """
    stats, always, minute = Statistics(), Statistics(), 0
    trades: list[tuple[int, int, int]] = []
    for number, (pause, price, size) in enumerate(steps):
        if number == restart:
            stats = Statistics(msgspec.msgpack.decode(msgspec.msgpack.encode(stats.freeze()), type=Figures))
        minute += pause
        trades.append((minute, price, size))
        stats.add(trade(minute, price, size))
        always.add(trade(minute, price, size))
        stats.day(minute * MINUTE)
    assert stats.freeze() == always.freeze()
    assert len(stats.freeze().minutes) <= DAY_MINUTES
    assert len(stats.freeze().hours) <= MONTH_HOURS
    now = (minute + ahead) * MINUTE
    for _ in range(2):
        inside = [row for row in trades if row[0] > now // MINUTE - DAY_MINUTES]
        day = stats.day(now)
        assert day.volume == sum(size for _, _, size in inside)
        assert day.high == max((price for _, price, _ in inside), default=0)
        assert day.low == min((price for _, price, _ in inside), default=0)
        assert day.open == (inside[0][1] if inside else 0)
        month = sum(size for at, _, size in trades if at * MINUTE // HOUR > now // HOUR - MONTH_HOURS)
        assert stats.month_volume(now) == month


def test_frozen_statistics_do_not_change() -> None:
    stats = Statistics()
    stats.add(trade(1, 10, 1))
    frozen = stats.freeze()
    stats.add(trade(1, 20, 1))
    assert frozen.minutes[-1].volume == frozen.hours[-1].volume == 1


def test_figures_since_a_minute_can_be_read() -> None:
    stats = Statistics()
    for minute, price in ((10, 5), (10, 6), (11, 9), (13, 7)):
        stats.add(trade(minute, price, 2))
    assert stats.since(10) == Span(10, 5, 9, 5, 8)
    assert stats.since(11) == Span(11, 9, 9, 7, 4)
    assert stats.since(12) == Span(12, 7, 7, 7, 2)
    assert stats.since(14).volume == 0
