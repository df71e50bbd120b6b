"""Calendars: the phase at a time, and the effect of daylight saving on phases."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine import calendar
from statemachine.commands import PutCalendar
from statemachine.limits import OPERATOR
from statemachine.types import Phase, Reason

EPOCH = date(1970, 1, 1)
SECOND = 10**9
ZONES = ("Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Tokyo", "Australia/Lord_Howe", "Africa/Casablanca")


def offsets(zone: str, first: int = 2015, last: int = 2031) -> list[tuple[int, int]]:
    """Return the table of offsets of a time zone as node/config/calendars.py computes it, found by a slow search: hour
    by hour, then second by second.
    """
    info, found = ZoneInfo(zone), []
    second = int(datetime(first, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(last, 1, 1, tzinfo=UTC).timestamp())

    def at(moment: int) -> int:
        offset = datetime.fromtimestamp(moment, info).utcoffset()
        assert offset is not None
        return int(offset.total_seconds())

    found.append((second, at(second)))
    while second < end:
        following = second + 43_200
        if at(following) != found[-1][1]:
            low, high = second, following
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if at(middle) == found[-1][1] else (low, middle)
            found.append((high, at(high)))
        second = following
    return found


TABLES = {zone: offsets(zone) for zone in ZONES}


def made(zone: str = "Europe/Berlin", **fields: object) -> PutCalendar:
    """Return a calendar that trades from nine to five, Monday to Friday, with an auction before and after."""
    day = [
        (8 * 3600, Phase.PRE_OPEN),
        (9 * 3600 - 600, Phase.AUCTION),
        (9 * 3600, Phase.CONTINUOUS),
        (17 * 3600, Phase.CLOSING_AUCTION),
        (17 * 3600 + 300, Phase.CLOSED),
    ]
    given_fields: dict[str, object] = {"offsets": TABLES[zone], "week": [day] * 5 + [[], []], **fields}
    return PutCalendar(OPERATOR, "c", "de", zone, **given_fields)  # type: ignore[arg-type]


def at(zone: str, *moment: int) -> int:
    return int(datetime(*moment, tzinfo=ZoneInfo(zone)).timestamp()) * SECOND  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("moment", "phase", "until"),
    [
        ((2026, 11, 27, 8, 0, 0), Phase.PRE_OPEN, (2026, 11, 27, 8, 50, 0)),
        ((2026, 11, 27, 8, 59, 59), Phase.AUCTION, (2026, 11, 27, 9, 0, 0)),
        ((2026, 11, 27, 9, 0, 0), Phase.CONTINUOUS, (2026, 11, 27, 17, 0, 0)),
        ((2026, 11, 27, 17, 4, 59), Phase.CLOSING_AUCTION, (2026, 11, 27, 17, 5, 0)),
        ((2026, 11, 27, 17, 5, 0), Phase.CLOSED, (2026, 11, 30, 8, 0, 0)),
        ((2026, 11, 28, 12, 0, 0), Phase.CLOSED, (2026, 11, 30, 8, 0, 0)),
        ((2026, 3, 27, 20, 0, 0), Phase.CLOSED, (2026, 3, 30, 8, 0, 0)),  # the clocks go forward in between
        ((2026, 10, 23, 20, 0, 0), Phase.CLOSED, (2026, 10, 26, 8, 0, 0)),  # and back
    ],
)
def test_a_week_in_berlin_has_its_phases(moment: tuple[int, ...], phase: Phase, until: tuple[int, ...]) -> None:
    found = calendar.now(made(), at("Europe/Berlin", *moment))
    assert (found.phase, found.until * SECOND) == (phase, at("Europe/Berlin", *until))


def test_holidays_and_half_days_have_their_phases() -> None:
    christmas, half = (date(2026, 12, 25) - EPOCH).days, (date(2026, 12, 24) - EPOCH).days
    days = [(half, [(9 * 3600, Phase.CONTINUOUS), (14 * 3600, Phase.CLOSED)]), (christmas, [])]
    made_with = made(days=days)
    assert calendar.now(made_with, at("Europe/Berlin", 2026, 12, 24, 13, 59)).phase is Phase.CONTINUOUS
    found = calendar.now(made_with, at("Europe/Berlin", 2026, 12, 24, 14, 0))
    assert found.phase is Phase.CLOSED
    assert found.until * SECOND == at("Europe/Berlin", 2026, 12, 28, 8, 0)


def test_a_market_that_never_closes_has_no_change_at_midnight() -> None:
    always = made(week=[[(0, Phase.CONTINUOUS)]] * 7)
    found = calendar.now(always, at("Europe/Berlin", 2026, 12, 24, 13, 59))
    assert found.phase is Phase.CONTINUOUS
    assert found.until * SECOND == at("Europe/Berlin", 2027, 1, 8)


def test_a_skipped_local_time_is_the_moment_at_which_clocks_go_forward() -> None:
    """2026-03-29 02:30 does not exist in Berlin: at 01:00 UTC it is 03:00."""
    day = (date(2026, 3, 29) - EPOCH).days
    assert calendar.moment_of(made(), day, 2 * 3600 + 1800) == int(datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp())


def test_a_local_time_that_comes_twice_means_the_first_and_acts_once() -> None:
    """2026-10-25 02:30 comes at 00:30 and at 01:30 UTC in Berlin."""
    day = (date(2026, 10, 25) - EPOCH).days
    first = int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp())
    assert calendar.moment_of(made(), day, 2 * 3600 + 1800) == first
    night = made(week=[[(2 * 3600 + 1800, Phase.CONTINUOUS)]] * 7)
    assert calendar.now(night, first * SECOND).phase is Phase.CONTINUOUS
    assert calendar.now(night, (first + 3000) * SECOND).phase is Phase.CONTINUOUS  # local 02:20, for the second time


@given(
    st.sampled_from(ZONES),
    st.integers(int(datetime(2016, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())),
)
@settings(max_examples=300)
def test_offsets_and_dates_are_those_of_the_time_zone(zone: str, second: int) -> None:
    local = datetime.fromtimestamp(second, ZoneInfo(zone))
    assert calendar.offset_at(made(zone), second) == int(local.utcoffset().total_seconds())  # type: ignore[union-attr]
    assert EPOCH + timedelta(days=calendar.day_at(made(zone), second)) == local.date()


phase_lists = st.lists(
    st.tuples(st.integers(0, 86_399), st.sampled_from(list(Phase))), max_size=6, unique_by=lambda entry: entry[0]
).map(sorted)


@given(
    st.sampled_from(ZONES),
    st.lists(phase_lists, min_size=7, max_size=7),
    st.integers(int(datetime(2016, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())),
)
@settings(max_examples=100, deadline=None)
def test_the_phase_changes_only_at_announced_moments(zone: str, week: list[list[tuple[int, Phase]]], second: int) -> None:
    """Between two announced changes the phase stays the same. Each change happens at its announced moment."""
    weekly = made(zone, week=week)
    assert calendar.check(weekly) is None
    found = calendar.now(weekly, second * SECOND)
    assert found.since <= second < found.until
    for moment in (found.since, (found.since + found.until) // 2, found.until - 1):
        if moment >= second - 86_400:
            assert calendar.now(weekly, moment * SECOND).phase is found.phase
    assert calendar.now(weekly, found.until * SECOND).since <= found.until


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"offsets": []}, "offsets"),
        ({"offsets": [(5, 0), (5, 1)]}, "offsets"),
        ({"offsets": [(5, 90_000)]}, "offsets"),
        ({"week": [[]] * 6}, "week"),
        ({"week": [[(86_400, Phase.CLOSED)]] * 7}, "week"),
        ({"week": [[(5, Phase.CLOSED), (5, Phase.CLOSED)]] * 7}, "week"),
        ({"days": [(7, []), (6, [])]}, "days"),
        ({"random_ns": -1}, "random_ns"),
        ({"late_ppm": 2_000_000}, "late_ppm"),
        ({"extensions_max": 3}, "extension_ns"),
        ({"imbalance_ns": 5}, "imbalance_ns"),
    ],
)
def test_invalid_calendars_are_refused(fields: dict[str, object], field: str) -> None:
    reject = calendar.check(made(**fields))  # type: ignore[arg-type]
    assert reject is not None
    assert (reject.reason, reject.field) == (Reason.INVALID_CALENDAR, field)
