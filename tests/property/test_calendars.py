"""Products that follow calendars, against a plain reference with datetime and zoneinfo: it lists all phases of some
days and takes the last that has begun.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest

from node.config.calendars import offsets_of
from statemachine.calendar import now, session_end
from statemachine.commands import Batch, FollowCalendar, PutCalendar, PutProduct, SetCalendar
from statemachine.engine import Engine
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import Phase, ProductStatus, Scope
from tests.property.twin_calendar import STATUS
from tests.unit.statemachine.market import PRODUCT, market

SECOND = 10**9
EPOCH = date(1970, 1, 1)
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Australia/Sydney")
Day = list[tuple[int, Phase]]


def phase_at(zone: str, week: list[Day], days: dict[date, Day], second: int) -> Phase:
    """Return the phase at a wall-clock time, computed day by day."""
    today = datetime.fromtimestamp(second, ZoneInfo(zone)).date()
    begun: list[tuple[float, int, Phase]] = []
    for day in (today - timedelta(days=1), today, today + timedelta(days=1)):
        for at, phase in [(0, Phase.CLOSED), *days.get(day, week[day.weekday()])]:
            hour, rest = divmod(at, 3600)
            moment = datetime(day.year, day.month, day.day, hour, rest // 60, rest % 60, tzinfo=ZoneInfo(zone)).timestamp()
            begun.append((moment, len(begun), phase))
    return max(each for each in begun if each[0] <= second)[2]


def some_day(random: Random) -> Day:
    """Draw a day's phases, none of which begins between midnight and four, when clocks are changed."""
    times = sorted(random.sample(range(4 * 3600, 86_400, 60), random.randrange(6)))
    return [(at, random.choice(list(Phase))) for at in times]


@pytest.mark.parametrize("seed", range(24))
def test_a_product_has_the_status_of_its_phase(seed: int) -> None:
    random, zone = Random(seed), ZONES[seed % len(ZONES)]
    week = [some_day(random) for _ in range(7)]
    start = datetime(2026, random.choice([3, 10]), 20, tzinfo=UTC)  # some days before the clocks change
    days = {start.date() + timedelta(days=number): some_day(random) for number in random.sample(range(30), 5)}
    engine = market()
    offsets = offsets_of(zone, start - timedelta(days=2), 1)
    dated = sorted(((day - EPOCH).days, phases) for day, phases in days.items())
    engine.apply(Batch(2, [PutCalendar(OPERATOR, "put", "c", zone, offsets, week, dated)]))
    engine.apply(Batch(3, [SetCalendar(OPERATOR, "set", Scope.VENUE, "", "c")]))
    second, by_hand = int(start.timestamp()), False
    for number in range(60):
        second += random.choice([1, 60, 3_000, 20_000, 90_000, 300_000]) if random.random() < 0.9 else 0
        engine.apply(Batch(second * SECOND + number, []))
        row = engine.product(PRODUCT)
        assert row is not None
        expected = phase_at(zone, week, days, second)
        found = engine.phase(PRODUCT)
        assert found is not None
        assert (found.phase, found.by_hand) == (expected, by_hand)
        if not by_hand:
            assert row.status is STATUS[expected]
        assert engine.next_expiry > engine.time
        engine.check()
        if random.random() < 0.1:
            engine = Engine.restore(dict(engine.tables()))
        if random.random() < 0.15:
            by_hand = _by_hand(engine, row.status, by_hand, number)
    assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()


@pytest.mark.parametrize("seed", range(24))
def test_a_session_ends_when_the_calendar_closes(seed: int) -> None:
    """A session ends at the next phase that closes, or at midnight if none of the next day closes."""
    random, zone = Random(seed), ZONES[seed % len(ZONES)]
    start = datetime(2026, random.choice([3, 10]), 20, tzinfo=UTC)
    week = [random.choice([some_day(random), [(0, Phase.CONTINUOUS)], []]) for _ in range(7)]
    put = PutCalendar(OPERATOR, "put", "c", zone, offsets_of(zone, start - timedelta(days=2), 1), week)
    second = int(start.timestamp())
    for _ in range(40):
        second += random.randrange(1, 40_000)
        local = datetime.fromtimestamp(second, ZoneInfo(zone)).date() + timedelta(days=1)
        expected = int(datetime(local.year, local.month, local.day, tzinfo=ZoneInfo(zone)).timestamp()), Phase.CLOSED
        at = now(put, second * SECOND)
        while at.until <= second + 86_400:
            following = now(put, at.until * SECOND)
            if following.phase is Phase.CLOSED:
                expected = at.until, at.phase
                break
            at = following
        assert session_end(put, second) == expected


def _by_hand(engine: Engine, status: ProductStatus, by_hand: bool, number: int) -> bool:
    """Set the product's status as the operator, or let it follow its calendar again. Returns whether its status is set
    by hand now.
    """
    if by_hand:
        engine.apply(Batch(engine.time, [FollowCalendar(OPERATOR, f"resume-{number}", PRODUCT)]))
        return False
    other = ProductStatus.OFFLINE if status is not ProductStatus.OFFLINE else ProductStatus.ONLINE
    engine.apply(
        Batch(engine.time, [PutProduct(OPERATOR, f"hand-{number}", PRODUCT, "XBT", "USD", 1, 1, 1, AMOUNT_MAX, 0, 0, other)])
    )
    return True
