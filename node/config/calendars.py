"""Turns a trading calendar in TOML into the command that the exchange takes. The time zone becomes a table of offsets.

time_zone = "Europe/Berlin"
years = 10                                   # length of the table of offsets; 10 by default
random = 30                                  # all durations in seconds; 0 by default
late = 60
late_move = "0.02"                           # of the price
extension = 120
extensions = 1
imbalance = 10
[week]
mon-fri = ["08:00 pre_open", "08:50 auction", "09:00 continuous", "17:30 closing_auction", "17:35 closed"]
[days]
2026-12-25 = []
2026-12-24 = ["09:00 continuous", "14:00 closed"]
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from node.errors import QuorumbookError
from statemachine.commands import PutCalendar
from statemachine.decimals import DecimalError, to_units
from statemachine.limits import DURATION_MAX, EXTENSIONS_MAX, OPERATOR, PPM_DIGITS, SECOND_NS
from statemachine.types import Phase

YEARS_MAX = 100
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EPOCH = date(1970, 1, 1)
_PHASES = {phase.name.lower(): phase for phase in Phase}
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?")


Seconds = Annotated[int, msgspec.Meta(ge=0, le=DURATION_MAX // SECOND_NS)]
"""A duration that the exchange accepts."""


class CalendarError(QuorumbookError):
    """The text is not a valid calendar. The message names the field and the expected value."""


class CalendarText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A calendar as an operator writes it; see the module."""

    time_zone: str
    week: dict[str, list[str]]
    days: dict[str, list[str]] = {}
    years: int = 10
    random: Seconds = 0
    late: Seconds = 0
    late_move: str = "0"
    extension: Seconds = 0
    extensions: Annotated[int, msgspec.Meta(ge=0, le=EXTENSIONS_MAX)] = 0
    imbalance: Seconds = 0


def command_of(calendar_id: str, command_id: str, text: CalendarText, now: datetime) -> PutCalendar:
    """Return the command that puts the calendar.

    Raises:
        CalendarError: a field is invalid.
    """
    if text.time_zone not in available_timezones():
        raise CalendarError(f"time_zone: expected a name of the IANA database such as Europe/Berlin, not {text.time_zone!r}")
    if not 1 <= text.years <= YEARS_MAX:
        raise CalendarError(f"years: expected 1 to {YEARS_MAX}")
    week: list[list[tuple[int, Phase]]] = [[] for _ in DAYS]
    for names, phases in text.week.items():
        for day in _weekdays(names):
            week[day] = _phases(f"week.{names}", phases)
    days = sorted((_day(name), _phases(f"days.{name}", phases)) for name, phases in text.days.items())
    try:
        late_ppm = to_units(text.late_move, PPM_DIGITS, "late_move")
    except DecimalError as error:
        raise CalendarError(f"late_move: {error}") from error
    offsets = offsets_of(text.time_zone, now - timedelta(days=2), text.years)
    durations = (text.random * SECOND_NS, text.late * SECOND_NS, late_ppm, text.extension * SECOND_NS)
    return PutCalendar(
        OPERATOR,
        command_id,
        calendar_id,
        text.time_zone,
        offsets,
        week,
        days,
        *durations,
        text.extensions,
        text.imbalance * SECOND_NS,
    )


def offsets_of(time_zone: str, start: datetime, years: int) -> list[tuple[int, int]]:
    """Return the offsets of a time zone from a moment on, for some years: pairs of the second since the epoch from
    which an offset holds, and the seconds east of UTC.
    """
    zone = ZoneInfo(time_zone)

    def at(second: int) -> int:
        offset = datetime.fromtimestamp(second, zone).utcoffset()
        assert offset is not None, "a time with a zone has an offset"
        return int(offset.total_seconds())

    first = int(start.timestamp())
    found = [(first, at(first))]
    for day in range(first, first + years * 366 * 86_400, 86_400):
        if at(day + 86_400) != found[-1][1]:
            low, high = day, day + 86_400
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if at(middle) == found[-1][1] else (low, middle)
            found.append((high, at(high)))
    return found


def _weekdays(names: str) -> range:
    """Return the days of a text such as `mon-fri`. Raises CalendarError."""
    first, dash, last = names.partition("-")
    places = {day: place for place, day in enumerate(DAYS)}
    days = range(places.get(first, len(DAYS)), places.get(last if dash else first, -1) + 1)
    if not days:
        raise CalendarError(f"week: expected days such as mon or mon-fri, Monday first, not {names!r}")
    return days


def _day(text: str) -> int:
    try:
        return (date.fromisoformat(text) - _EPOCH).days
    except ValueError as error:
        raise CalendarError(f"days: expected dates such as 2026-12-25, not {text!r}") from error


def _phases(field: str, texts: list[str]) -> list[tuple[int, Phase]]:
    """Return the phases of a day. Raises CalendarError."""
    found = []
    for text in texts:
        time, _, phase = text.partition(" ")
        matched = _TIME.fullmatch(time)
        if matched is None or phase not in _PHASES:
            raise CalendarError(
                f"{field}: expected a time and one of {', '.join(_PHASES)}, such as '09:00 continuous', not {text!r}"
            )
        hour, minute, second = (int(part or 0) for part in matched.groups())
        found.append((hour * 3600 + minute * 60 + second, _PHASES[phase]))
    return found


def clock(second: int) -> str:
    """Return a second of the day as text."""
    hour, rest = divmod(second, 3600)
    return f"{hour:02}:{rest // 60:02}" + (f":{rest % 60:02}" if rest % 60 else "")
