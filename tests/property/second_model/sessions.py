"""Trading calendars: which phase a product is in, and what happens where a phase begins."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from statemachine.commands import FollowCalendar, PutCalendar, PutGroup, SetCalendar
from statemachine.types import Phase, ProductStatus, Scope
from tests.property.second_model.following import Following
from tests.property.second_model.orders import SECOND, Place, Product

_CALLS = (Phase.AUCTION, Phase.CLOSING_AUCTION)
_DAY = 86_400
_STATUSES = dict.fromkeys(Phase, ProductStatus.AUCTION) | {
    Phase.CLOSED: ProductStatus.CANCEL_ONLY,
    Phase.HALTED: ProductStatus.CANCEL_ONLY,
    Phase.CONTINUOUS: ProductStatus.ONLINE,
}


@dataclass
class Session:
    """The phase of a product, and the second at which it began or was last looked at."""

    phase: Phase
    second: int


def phase_at(calendar: PutCalendar, second: int) -> Phase:
    """Return the phase at a second."""
    (_, east), *_ = calendar.offsets
    day, local = divmod(second + east, _DAY)
    rows = calendar.week[(day + 3) % 7]
    place = bisect_right([at for at, _ in rows], local) - 1
    return rows[place][1] if place >= 0 else Phase.CLOSED


def following(calendar: PutCalendar, second: int) -> int:
    """Return the next second at which a row of the calendar, or a day, begins."""
    (_, east), *_ = calendar.offsets
    day, local = divmod(second + east, _DAY)
    later = [at for at, _ in calendar.week[(day + 3) % 7] if at > local]
    return (day * _DAY + later[0] if later else (day + 1) * _DAY) - east


class Sessions(Following):
    """Products that follow calendars."""

    def __init__(self) -> None:
        super().__init__()
        self.calendars: dict[str, PutCalendar] = {}
        self.follows: dict[tuple[Scope, str], str] = {}
        self.groups: dict[str, str] = {}
        self.sessions: dict[str, Session] = {}
        """By product, once it has entered a phase."""
        self.read_at: dict[str, int] = {}
        """The products whose calendar changed at these times: they read it with the next log entry."""
        self.by_hand: set[str] = set()

    def calendar_of(self, product: Product) -> PutCalendar | None:
        """Return the calendar of the product, or of its group, or of the venue."""
        group = self.groups.get(product.name, "")
        names = (self.follows.get(key, "") for key in ((Scope.PRODUCT, product.name), (Scope.GROUP, group), (Scope.VENUE, "")))
        return self.calendars.get(next((name for name in names if name), ""))

    def change_calendars(self, c: PutCalendar | SetCalendar | PutGroup) -> None:
        """Change a calendar, or what follows it."""
        before = {product.name: self.calendar_of(product) for product in self.products.values()}
        match c:
            case PutCalendar():
                self.calendars[c.calendar_id] = c
            case SetCalendar():
                self.follows[c.scope, c.name] = c.calendar_id
            case PutGroup():
                self.groups[c.product_id] = c.group_id
        for product in self.products.values():
            calendar = self.calendar_of(product)
            if calendar is None:
                self.forget(product)
            elif calendar is not before[product.name]:
                self.read_at[product.name] = self.now

    def forget(self, product: Product) -> None:
        """The product follows no calendar, or follows it as if for the first time."""
        self.sessions.pop(product.name, None)
        self.read_at.pop(product.name, None)
        self.by_hand.discard(product.name)

    def follow_again(self, c: FollowCalendar) -> bool:
        """Let a product follow its calendar again. Returns False if it has none."""
        product = self.products[c.product_id]
        if product.name in self.by_hand:
            self.forget(product)
            self.read_at[product.name] = self.now
        return self.calendar_of(product) is not None

    def boundaries(self) -> list[tuple[int, str]]:
        """Return the products that read their calendars by now, and since when that is due."""
        due = [(at, name) for name, at in self.read_at.items()]
        for name, session in self.sessions.items():
            calendar = self.calendar_of(self.products[name])
            assert calendar is not None
            at = self.next_phase(calendar, session) * SECOND
            if name not in self.read_at and at <= self.now:
                due.append((at, name))
        return due

    def next_phase(self, calendar: PutCalendar, session: Session) -> int:
        """Return the next second at which another phase begins; later than now if there is none by now."""
        second = session.second
        while second * SECOND <= self.now:
            second = following(calendar, second)
            if phase_at(calendar, second) is not session.phase:
                break
        return second

    def read_calendar(self, name: str) -> None:
        """Let a product enter the present phase, unless it is in it since it read the calendar last."""
        product, looked = self.products[name], self.read_at.pop(name, None)
        calendar, session = self.calendar_of(product), self.sessions.get(name)
        assert calendar is not None
        phase = phase_at(calendar, self.now // SECOND)
        stays = session is not None and session.phase is phase
        if session is not None and looked is not None:
            session.second = looked // SECOND
            stays = stays and phase_at(calendar, session.second) is phase
        stays = stays and session is not None and self.next_phase(calendar, session) * SECOND > self.now
        self.sessions[name] = Session(phase, self.now // SECOND)
        if stays or name in self.by_hand:
            return
        product.interruption = None
        called = session is not None and session.phase in _CALLS
        status = _STATUSES[phase]
        collected = any(order.product is product and order.place is Place.COLLECTED for order in self.open)
        if collected and (called or status is ProductStatus.ONLINE):
            self.open_auction(product, status)
            self.part()
            self.trigger(product)
        else:
            product.status = status

    def day_ends(self, product: Product) -> int:
        """Return when an order that is good for the day leaves."""
        calendar = self.calendar_of(product)
        if calendar is None:
            return (self.now // (_DAY * SECOND) + 1) * _DAY * SECOND
        (_, east), *_ = calendar.offsets
        second = self.now // SECOND
        before = phase_at(calendar, second)
        at = following(calendar, second)
        while at <= second + _DAY:
            phase = phase_at(calendar, at)
            if phase is Phase.CLOSED and before is not Phase.CLOSED:
                return (at + (before in _CALLS)) * SECOND
            at, before = following(calendar, at), phase
        return (((second + east) // _DAY + 1) * _DAY - east) * SECOND
