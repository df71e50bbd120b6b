"""The crowd in a venue with firms, risk limits, calendars and corrections, whose traders also send commands again."""

from __future__ import annotations

from random import Random

import msgspec

from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    CorrectTrade,
    FollowCalendar,
    PlaceOrder,
    PutCalendar,
    PutFirm,
    PutGroup,
    PutMember,
    PutRiskLimits,
    SetCalendar,
    SetSwitches,
)
from statemachine.limits import OPERATOR
from statemachine.types import Phase, Scope, Switch
from tests.property.second_model.crowd import TRADERS, Crowd
from tests.property.second_model.model import SecondModel
from tests.property.second_model.orders import SECOND, Order, Product

_PHASES = [*Phase, Phase.AUCTION, *[Phase.CONTINUOUS] * 3]
_FOLLOWING = ("ETH-USD", "XBT-USD")
"""The products that may follow a calendar."""


class VenueCrowd(Crowd):
    """Traders, and operators of all kinds."""

    def __init__(self, random: Random, model: SecondModel) -> None:
        super().__init__(random, model)
        self.sent: list[AnyCommand] = []
        """The latest commands."""

    def begin(self) -> list[AnyCommand]:
        made = super().begin()
        made += [PutFirm(OPERATOR, f"f:{firm}", firm) for firm in "fg"]
        whole = [[(0, Phase.CONTINUOUS)]] * 7
        if self.random.random() < 0.5:
            made += [PutCalendar(OPERATOR, f"f:{name}", name, "UTC", [(0, 0)], whole) for name in "kl"]
            made += [SetCalendar(OPERATOR, "f:v", Scope.VENUE, "", "k")]
            made += [SetCalendar(OPERATOR, "f:p", Scope.PRODUCT, _FOLLOWING[0], "l")]
        return made

    def command(self) -> AnyCommand:
        """Return the next command: a repetition, one of the venue's operators, or one of the crowd."""
        random, chance = self.random, self.random.random()
        made: AnyCommand | None = None
        if chance < 0.03 and self.sent:
            made = random.choice(self.sent)
            if isinstance(made, PlaceOrder) and random.random() < 0.2:
                made = msgspec.structs.replace(made, size=made.size + 10)
            return made
        self.number += 1
        if chance < 0.1:
            made = self.operating(f"c{self.number}")
        made = super().command() if made is None else made
        self.sent = [*self.sent[-20:], made]
        return made

    def is_stuck(self, product: Product) -> bool:
        """A calendar sets the status by itself, mostly."""
        return super().is_stuck(product) and (self.model.calendar_of(product) is None or self.random.random() < 0.1)

    def operating(self, name: str) -> AnyCommand | None:
        """Return a command of an operator of the venue."""
        random, trader = self.random, self.random.choice(TRADERS)
        match random.randrange(7):
            case 0:
                return PutMember(OPERATOR, name, trader, random.choice(["", "f", "f", "g"]))
            case 1:
                return SetSwitches(OPERATOR, name, Scope.FIRM, random.choice("fg"), random.choice([0, 0, *Switch]))
            case 2 | 3:
                return self.correction(name)
            case 4:
                return self.risk(name, trader)
        return self.calendar(name) if self.model.calendars else None

    def correction(self, name: str) -> CorrectTrade | None:
        trades = self.model.trades
        if not trades:
            return None
        product, number, maker, _, price, size, maker_fee, taker_fee, _ = self.random.choice(trades)
        buyer, seller = self.model.sides[product, number]
        bought = next(order for order in (*self.model.open, *self.model.done) if order.order_id == maker).buys
        fees = (maker_fee, taker_fee) if bought else (taker_fee, maker_fee)
        other = max(price + self.model.products[product].tick * self.random.choice([-1, 1, 2]), 0)
        new = self.random.choice([0, other])
        return CorrectTrade(OPERATOR, name, product, number, buyer, seller, price, size, *fees, new)

    def risk(self, name: str, trader: str) -> PutRiskLimits:
        random = self.random
        scope = random.choice([(Scope.FIRM, "f"), (Scope.ACCOUNT, trader)])
        match random.randrange(3):
            case 0:
                return PutRiskLimits(
                    OPERATOR, name, *scope, orders_max=random.choice([0, 1, 3, 6]), rate_max=random.choice([0, 0, 1, 2])
                )
            case 1:
                money = random.choice([0, 100, 1_000, 3_000]), random.choice([0, 3_000, 10_000])
                return PutRiskLimits(OPERATOR, name, *scope, "USD", 0, 0, *money)
        sizes = random.choice([0, 100, 1_000]), 0, random.choice([0, 1_000, 2_000, 3_200]) * (not self.hurried)
        return PutRiskLimits(OPERATOR, name, *scope, "ETH", 0, 0, *sizes)

    def calendar(self, name: str) -> AnyCommand:
        """Return a calendar whose phases begin about now, or a change of who follows it."""
        random, product = self.random, self.random.choice(_FOLLOWING)
        match random.randrange(6):
            case 0 | 1:
                east, second = random.choice([0, 0, 3_600, -18_000]), self.model.now // SECOND
                times = {(second + east + random.randrange(-20, 60)) % 86_400 for _ in range(random.choice([1, 2, 4, 8]))}
                rows = [(at, random.choice(_PHASES)) for at in sorted(times)]
                return PutCalendar(OPERATOR, name, random.choice("kl"), "UTC", [(0, east)], [rows] * 7)
            case 2 | 3:
                scope = random.choice([(Scope.VENUE, ""), (Scope.PRODUCT, product), (Scope.GROUP, "g")])
                return SetCalendar(OPERATOR, name, *scope, random.choice(["k", "k", "l", "l", ""]))
            case 4:
                return PutGroup(OPERATOR, name, product, random.choice(["", "g"]))
        return FollowCalendar(OPERATOR, name, product)

    # -- traders

    def order(self, name: str, trader: str) -> PlaceOrder:
        """Return an order, sometimes under an id that is known, or none."""
        made = super().order(name, trader)
        if self.random.random() < 0.1:
            own = [order.client_oid for order in self.model.open if order.owner == trader]
            made = msgspec.structs.replace(made, client_oid=self.random.choice(["", "same", *own[-2:]]))
        return made

    def amendment(self, name: str, order: Order) -> AmendOrder:
        made = super().amendment(name, order)
        if self.random.random() < 0.2:
            made = msgspec.structs.replace(made, new_client_oid=self.random.choice([f"n{self.number}", order.client_oid, "same"]))
        return made
