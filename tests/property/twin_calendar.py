"""Trading calendars in the engine's slow twin (`twin`): every phase of some days in one list, and local times that are
found by trying.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from msgspec.structs import replace

from statemachine.commands import FollowCalendar, PutCalendar, PutGroup, SetCalendar
from statemachine.types import Phase, ProductStatus, Reason, Scope, StatusCause, Timer
from tests.property.twin_controls import SECOND
from tests.property.twin_options import TwinOptions
from tests.property.twin_trading import TRADING

DAY_S = 86_400
LOOK_AHEAD_DAYS = 15
"""How far ahead the next phase is announced."""
CALLS = (Phase.AUCTION, Phase.CLOSING_AUCTION)
STATUS = {
    Phase.CLOSED: ProductStatus.CANCEL_ONLY,
    Phase.PRE_OPEN: ProductStatus.AUCTION,
    Phase.AUCTION: ProductStatus.AUCTION,
    Phase.CONTINUOUS: ProductStatus.ONLINE,
    Phase.CLOSING_AUCTION: ProductStatus.AUCTION,
    Phase.HALTED: ProductStatus.CANCEL_ONLY,
}

Moment = tuple[int, Phase]


def offset(c: PutCalendar, second: int) -> int:
    """Return how far local time is ahead of UTC."""
    begun = [east for since, east in c.offsets if since <= second]
    return begun[-1] if begun else c.offsets[0][1]


def moment(c: PutCalendar, day: int, at: int) -> int:
    """Return when local time first shows this time of this date, or a later time if it does not exist."""
    shown = day * DAY_S + at
    tried = [since for since, _ in c.offsets] + [shown - east for _, east in c.offsets]
    return min(second for second in tried if second + offset(c, second) >= shown)


def agenda(c: PutCalendar, second: int) -> list[Moment]:
    """Return what begins when, from the day before on. A day begins closed."""
    today = (second + offset(c, second)) // DAY_S
    dates, found = dict(c.days), []
    for day in range(today - 1, today + LOOK_AHEAD_DAYS):
        phases = dates.get(day, c.week[(day + 3) % 7])  # 1970-01-01 was a Thursday
        if not phases or phases[0][0]:
            phases = [(0, Phase.CLOSED), *phases]
        found += [(moment(c, day, at), phase) for at, phase in phases]
    return found


def phase_at(c: PutCalendar, second: int) -> tuple[Phase, int]:
    """Return the phase, and when another one begins, as far as that is known."""
    begun = [phase for since, phase in agenda(c, second) if since <= second]
    later = [since for since, phase in agenda(c, second) if since > second and phase is not begun[-1]]
    today = (second + offset(c, second)) // DAY_S
    return begun[-1], later[0] if later else moment(c, today + LOOK_AHEAD_DAYS, 0)


def has_restarted(c: PutCalendar, second: int, ends: int) -> bool:
    """Return whether the phase of this second began after its previous instance ended, at `ends` nanoseconds."""
    begun = [each for each in agenda(c, second) if each[0] <= second]
    others = [place for place, (_, phase) in enumerate(begun) if phase is not begun[-1][1]]
    return bool(others) and begun[others[-1] + 1][0] * SECOND > ends


def calendar_fault(c: PutCalendar) -> bool:
    """Return whether the calendar is invalid."""
    days = [*c.week, *(phases for _, phases in c.days)]
    rising: list[list[int]] = [[since for since, _ in c.offsets], [day for day, _ in c.days]]
    rising += [[at for at, _ in phases] for phases in days]
    durations = (c.random_ns, c.late_ns, c.extension_ns, c.imbalance_ns)
    return (
        not c.offsets
        or any(numbers != sorted(set(numbers)) for numbers in rising)
        or any(abs(east) > 18 * 3_600 for _, east in c.offsets)
        or len(c.week) != 7
        or any(len(phases) > 16 for phases in days)
        or any(not 0 <= at < DAY_S for phases in days for at, _ in phases)
        or any(not 0 <= duration <= DAY_S * SECOND for duration in durations)
        or 0 < c.imbalance_ns < SECOND
        or not 0 <= c.extensions_max <= 100
        or (c.extensions_max > 0 and c.extension_ns == 0)
        or not 0 <= c.late_ppm <= 1_000_000
    )


@dataclass
class Session:
    """A product's position in its calendar."""

    ends: int
    """When the phase ends, or the calendar is read (again)."""
    phase: Phase | None = None
    """None: the calendar was not read yet."""
    by_hand: bool = False
    note_at: int = 0
    noted: int = 0
    """The price of the auction some time before the end of its call."""
    extensions: int = 0
    imbalance_at: int = 0


@dataclass
class TwinCalendar(TwinOptions):
    """The effects of time on products."""

    calendars: dict[str, PutCalendar] = field(default_factory=dict)
    follows: dict[tuple[Scope, str], str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)

    # -- commands
    # -----------------------------------------------------------------------------------------------------------------

    def control(self, command: object) -> object:
        before = {name: self.calendar_of(name) for name in self.products}
        match command:
            case PutCalendar():
                answer = self.put_calendar(command)
            case SetCalendar():
                answer = self.set_calendar(command)
            case PutGroup():
                answer = self.put_group(command)
            case FollowCalendar():
                answer = self.follow(command.product_id)
            case _:
                return super().control(command)
        for name in self.products:
            if self.calendar_of(name) != before[name]:
                self.read_again(name)
        return answer

    def put_calendar(self, c: PutCalendar) -> object:
        if calendar_fault(c):
            return Reason.INVALID_CALENDAR
        self.calendars[c.calendar_id] = replace(c, account_id="", command_id="")
        return "ok"

    def set_calendar(self, c: SetCalendar) -> object:
        if c.scope not in (Scope.VENUE, Scope.GROUP, Scope.PRODUCT) or (c.scope is Scope.VENUE) is (c.name != ""):
            return Reason.INVALID_SCOPE
        if c.scope is Scope.PRODUCT and c.name not in self.products:
            return Reason.UNKNOWN_PRODUCT
        if c.calendar_id and c.calendar_id not in self.calendars:
            return Reason.UNKNOWN_CALENDAR
        self.follows[c.scope, c.name] = c.calendar_id
        return "ok"

    def put_group(self, c: PutGroup) -> object:
        if c.product_id not in self.products:
            return Reason.UNKNOWN_PRODUCT
        self.groups[c.product_id] = c.group_id
        return "ok"

    def follow(self, name: str) -> object:
        if name not in self.products:
            return Reason.UNKNOWN_PRODUCT
        if name not in self.sessions:
            return Reason.UNKNOWN_CALENDAR
        if self.sessions[name].by_hand:
            del self.sessions[name]
            self.read_again(name)
        return "ok"

    def calendar_of(self, name: str) -> PutCalendar | None:
        """Return its own calendar, its group's, or the venue's."""
        keys = [(Scope.PRODUCT, name), (Scope.GROUP, self.groups.get(name, "")), (Scope.VENUE, "")]
        found = [self.follows[key] for key in keys if self.follows.get(key)]
        return self.calendars[found[0]] if found else None

    def read_again(self, name: str) -> None:
        """Let the next entry read the calendar. A price that was recorded for another end is dropped."""
        if self.calendar_of(name) is None:
            self.sessions.pop(name, None)
            return
        session = self.sessions.setdefault(name, Session(0))
        session.ends, session.note_at, session.noted = max(self.now, 1), 0, 0

    def is_moved(self, name: str) -> bool:
        """Return whether the status will change without a command."""
        return name in self.interrupted or (name in self.sessions and not self.sessions[name].by_hand)

    def by_hand(self, name: str) -> None:
        if name in self.sessions:
            self.sessions[name].by_hand = True

    # -- the clock
    # ----------------------------------------------------------------------------------------------------------------

    def today(self) -> int:
        venue = self.follows.get((Scope.VENUE, ""))
        second = self.now // SECOND
        return (second + offset(self.calendars[venue], second)) // DAY_S if venue else super().today()

    def session_end(self, product_id: str) -> int:
        """Return the next close within a day, after a closing auction however late it ends; or midnight."""
        c, second = self.calendar_of(product_id), self.now // SECOND
        if c is None:
            return super().session_end(product_id)
        for (_, before), (begins, phase) in itertools.pairwise(agenda(c, second)):
            closes = phase is Phase.CLOSED and before is not Phase.CLOSED
            if closes and second < begins <= second + DAY_S:
                late = c.random_ns + c.extensions_max * (c.extension_ns + c.random_ns) + SECOND
                return begins * SECOND + (late if before in CALLS else 0)
        today = (second + offset(c, second)) // DAY_S
        return min(at for day in (1, 2) if (at := moment(c, today + day, 0)) > second) * SECOND

    def clocks(self) -> list[tuple[int, Timer, str, str]]:
        phases = [
            (min(at for at in (each.ends, each.note_at, each.imbalance_at) if at), Timer.PHASE, name, "")
            for name, each in self.sessions.items()
        ]
        return super().clocks() + phases

    def strike(self, kind: Timer, name: str, tag: str) -> None:
        if kind is not Timer.PHASE:
            super().strike(kind, name, tag)
            return
        session, c = self.sessions[name], self.calendar_of(name)
        assert c is not None
        collects = self.products[name].status is ProductStatus.AUCTION
        if 0 < session.imbalance_at <= self.now:
            if collects:
                self.say_auction(name)
            session.imbalance_at = self.now + c.imbalance_ns if c.imbalance_ns else 0
        if 0 < session.note_at <= self.now:
            session.note_at, session.noted = 0, self.auction(name)[0] if collects else 0
        if session.ends <= self.now and not (collects and self.extend(name, session, c)):
            self.enter_phase(name, session, c)

    def extend(self, name: str, session: Session, c: PutCalendar) -> bool:
        """Extend the call if the price has moved since it was recorded."""
        price, size, _ = self.auction(name)
        moved = abs(price - session.noted) * 1_000_000 > c.late_ppm * session.noted
        if session.by_hand or not session.noted or not size or not moved or session.extensions >= c.extensions_max:
            return False
        self.until[name] = self.now + c.extension_ns
        self.say_auction(name, extended=True)
        session.ends = self.by_chance("phase", name, self.until[name], c.random_ns)
        session.note_at, session.noted = max(self.now + 1, session.ends - c.late_ns), 0
        session.extensions += 1
        return True

    def enter_phase(self, name: str, session: Session, c: PutCalendar) -> None:
        """Begin the phase of this moment, or continue it. The auction of a call that is over opens."""
        phase, end = phase_at(c, self.now // SECOND)
        before = session.phase
        if not session.by_hand and (phase is not before or has_restarted(c, self.now // SECOND, session.ends)):
            self.interrupted.pop(name, None)
            self.limit_states.pop(name, None)
            status = STATUS[phase]
            self.products[name] = replace(self.products[name], status=status)
            opens = status in TRADING or before in CALLS
            self.say_status(name, self.open_auction(name) if opens else (0, 0), StatusCause.CALENDAR, end * SECOND)
            self.trigger(name)
        session.phase, session.ends, session.extensions = phase, end * SECOND, 0
        session.note_at = session.noted = session.imbalance_at = 0
        if phase in CALLS:
            session.ends = self.by_chance("phase", name, end * SECOND, c.random_ns)
            if c.late_ns and c.extensions_max:
                session.note_at = max(self.now + 1, session.ends - c.late_ns)
            if c.imbalance_ns:
                session.imbalance_at = self.now + c.imbalance_ns
