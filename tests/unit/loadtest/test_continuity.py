"""The longest time without an answer."""

from __future__ import annotations

import pytest

from loadtest.continuity import SLOT, Continuity


def of(*times: float) -> Continuity:
    made = Continuity()
    for time in times:
        made.note(time)
    return made


def test_steady_answers_have_no_gap() -> None:
    assert of(*(100 + number * SLOT / 2 for number in range(100))).longest_gap()[0] == 0
    assert of().longest_gap() == (0, 0)
    assert of(7.0).longest_gap() == (0, 0)


def test_the_longest_gap_counts_and_its_beginning() -> None:
    gap, begin = of(10.0, 10.5, 12.0, 12.4).longest_gap()
    assert gap == pytest.approx(1.5, abs=SLOT)
    assert begin == pytest.approx(10.5, abs=2 * SLOT)


def test_what_one_process_lacks_another_one_has() -> None:
    one, other = of(10.0, 11.0, 12.0), of(10.5, 11.5)
    news = one.news()
    assert one.news() == [], "each slot is told once"
    other.merge(news)
    assert other.longest_gap()[0] == pytest.approx(0.5, abs=SLOT)
    one.note(13.0)
    other.merge(one.news())
    assert other.longest_gap()[0] == pytest.approx(1.0, abs=SLOT)
