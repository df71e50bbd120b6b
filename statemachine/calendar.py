"""Trading calendars: the phase of a calendar at a time, and the beginning of the next one. The fields are those of
`commands.PutCalendar`.

The calendar contains its time zone as a table of offsets. So no node reads its own time zone database, which may be of
another edition than that of another node.

- A local time that is skipped when the clocks go forward means the moment at which they go forward.
- A local time that occurs twice when the clocks go back means the first one. Nothing happens a second time.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import NamedTuple

from statemachine.commands import PutCalendar
from statemachine.entry import is_name
from statemachine.limits import (
    CALENDAR_DAYS_MAX,
    CALENDAR_OFFSETS_MAX,
    CALENDAR_PHASES_MAX,
    DURATION_MAX,
    EXTENSIONS_MAX,
    PPM,
    REMARK_MAX,
    SECOND_NS,
)
from statemachine.reject import Reject
from statemachine.tables import CalendarRow
from statemachine.types import Phase, Reason

DAY_S = 86_400
_LOOK_AHEAD_DAYS = 15
"""How far ahead the next change is searched for. If there is none, the search is repeated at the end of that time."""
_FIRST_WEEKDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""
_OFFSET_MAX_S = 18 * 3_600

Moments = list[tuple[int, Phase]]


class Now(NamedTuple):
    """The phase at a moment, the second since the epoch at which it began (0 if it began before yesterday), and the
    second at which another one begins or the search is repeated.
    """

    phase: Phase
    since: int
    until: int


def offset_at(calendar: CalendarRow | PutCalendar, second: int) -> int:
    """Return the seconds by which the local clock is ahead of UTC. Before the table begins its first offset holds,
    after its end its last.
    """
    place = bisect_right(calendar.offsets, second, key=lambda entry: entry[0])
    return calendar.offsets[max(place - 1, 0)][1]


def day_at(calendar: CalendarRow | PutCalendar, second: int) -> int:
    """Return the local date, in days since the epoch."""
    return (second + offset_at(calendar, second)) // DAY_S


def moment_of(calendar: CalendarRow | PutCalendar, day: int, second_of_day: int) -> int:
    """Return the first second since the epoch at which the local clock shows this time of this date, or a later one.
    O(offsets).
    """
    local = day * DAY_S + second_of_day
    offsets = calendar.offsets
    first = max(bisect_right(offsets, local - 2 * DAY_S, key=lambda entry: entry[0]) - 1, 0)
    for place in range(first, len(offsets)):
        begins, offset = offsets[place]
        found = local - offset if place == 0 else max(begins, local - offset)
        if place + 1 == len(offsets) or found < offsets[place + 1][0]:
            return found
    raise AssertionError("the last offset holds for ever")


def phases_of(calendar: CalendarRow | PutCalendar, day: int) -> list[tuple[int, Phase]]:
    """Return the phases of a date: second of the local day, phase."""
    place = bisect_right(calendar.days, day, key=lambda entry: entry[0]) - 1
    if place >= 0 and calendar.days[place][0] == day:
        phases = calendar.days[place][1]
    else:
        phases = calendar.week[(day + _FIRST_WEEKDAY) % 7]
    return phases if phases and phases[0][0] == 0 else [(0, Phase.CLOSED), *phases]


def _moments(calendar: CalendarRow | PutCalendar, day: int) -> Moments:
    return [(moment_of(calendar, day, second), phase) for second, phase in phases_of(calendar, day)]


def now(calendar: CalendarRow | PutCalendar, time: int) -> Now:
    """Return the phase at a time in nanoseconds since the epoch. O(days searched * phases)."""
    second = time // SECOND_NS
    today = day_at(calendar, second)
    near: Moments = []
    for day in (today - 1, today, today + 1):  # tomorrow has begun where clocks go back over midnight
        near += _moments(calendar, day)
    past = [moment for moment in near if moment[0] <= second]
    since, phase = past[-1]
    for begins, earlier in reversed(past[:-1]):
        if earlier != phase:
            break
        since = begins
    else:
        since = 0
    for begins, following in near:
        if begins > second and following != phase:
            return Now(phase, since, begins)
    for day in range(today + 2, today + _LOOK_AHEAD_DAYS):
        for begins, following in _moments(calendar, day):
            if following != phase:
                return Now(phase, since, begins)
    return Now(phase, since, moment_of(calendar, today + _LOOK_AHEAD_DAYS, 0))


class SessionEnd(NamedTuple):
    """The second since the epoch at which a session ends, and the phase that ends it."""

    second: int
    phase: Phase


def session_end(calendar: CalendarRow | PutCalendar, second: int) -> SessionEnd:
    """Return the first moment after `second` at which the calendar closes, or the next local midnight if it does not
    close within a day. O(phases of four days).
    """
    today = day_at(calendar, second)
    moments = [moment for day in range(today - 1, today + 3) for moment in _moments(calendar, day)]
    for (_, phase), (begins, following) in itertools.pairwise(moments):
        if begins > second and following == Phase.CLOSED and phase != Phase.CLOSED and begins <= second + DAY_S:
            return SessionEnd(begins, phase)
    midnights = (moment_of(calendar, today + 1, 0), moment_of(calendar, today + 2, 0))
    return SessionEnd(midnights[0] if midnights[0] > second else midnights[1], Phase.CLOSED)


def check(command: PutCalendar) -> Reject | None:
    """Check that this calendar may be put."""
    if not is_name(command.calendar_id):
        return _fault("calendar_id", "expected a name")
    if len(command.time_zone) > REMARK_MAX:
        return _fault("time_zone", f"expected at most {REMARK_MAX} characters")
    return check_hours(command) or _durations(command)


def check_hours(command: PutCalendar | CalendarRow) -> Reject | None:
    """Check the offsets, weekdays and dates of a calendar."""
    offsets = command.offsets
    if not 1 <= len(offsets) <= CALENDAR_OFFSETS_MAX or not _rise([second for second, _ in offsets]):
        return _fault("offsets", f"expected 1 to {CALENDAR_OFFSETS_MAX}, by rising times")
    if any(abs(offset) > _OFFSET_MAX_S or abs(second) > 2**40 for second, offset in offsets):
        return _fault("offsets", f"expected offsets of at most {_OFFSET_MAX_S} seconds")
    if len(command.week) != 7:
        return _fault("week", "expected seven days, Monday first")
    if len(command.days) > CALENDAR_DAYS_MAX or not _rise([day for day, _ in command.days]):
        return _fault("days", f"expected at most {CALENDAR_DAYS_MAX}, by rising dates")
    if any(not 0 <= day <= 2**20 for day, _ in command.days):
        return _fault("days", "expected dates in days since 1970-01-01")
    for phases in (*command.week, *(phases for _, phases in command.days)):
        times = [second for second, _ in phases]
        if len(phases) > CALENDAR_PHASES_MAX or not _rise(times) or any(not 0 <= second < DAY_S for second in times):
            return _fault("week", f"expected at most {CALENDAR_PHASES_MAX} phases a day, by rising seconds of the day")
    return None


def _durations(command: PutCalendar) -> Reject | None:
    """Check the durations and counts of a calendar."""
    for field in ("random_ns", "late_ns", "extension_ns", "imbalance_ns"):
        if not 0 <= getattr(command, field) <= DURATION_MAX:
            return _fault(field, f"expected 0 to {DURATION_MAX} nanoseconds")
    if 0 < command.imbalance_ns < SECOND_NS:
        return _fault("imbalance_ns", f"expected 0, or at least {SECOND_NS} nanoseconds")
    if not 0 <= command.extensions_max <= EXTENSIONS_MAX:
        return _fault("extensions_max", f"expected 0 to {EXTENSIONS_MAX}")
    if command.extensions_max and not command.extension_ns:
        return _fault("extension_ns", "expected more than 0 where auctions may be extended")
    if not 0 <= command.late_ppm <= PPM:
        return _fault("late_ppm", f"expected 0 to {PPM} parts per million")
    return None


def _rise(numbers: list[int]) -> bool:
    return all(number < following for number, following in itertools.pairwise(numbers))


def _fault(field: str, text: str) -> Reject:
    return Reject(Reason.INVALID_CALENDAR, field, text)
