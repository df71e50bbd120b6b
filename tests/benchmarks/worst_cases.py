"""The longest log entry of commands that read or cause much, beside a million open orders: milliseconds of CPU.

    python -m tests.benchmarks.worst_cases [--orders 1000000]

One product has all the orders, of accounts with 9,000 each, on 2,500 prices a side. Beside it are 1,000 products that
follow one calendar, 1,000 users with 16 roles each, and full tables of the operator's other rows. Each case is applied
in one entry, and further entries continue its work. docs/limits.md has the figures of the cases that cancel or trade
everything.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator

import click
from msgspec.structs import replace

import statemachine
from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    Batch,
    CancelAll,
    CancelAllAfter,
    CorrectTrade,
    DecideProposal,
    Deposit,
    Grant,
    NewOrder,
    OpenAccount,
    OrderOptions,
    PlaceOrder,
    PlacePair,
    PutApiKey,
    PutCalendar,
    PutCurrency,
    PutFeeOverride,
    PutFeeTiers,
    PutFirm,
    PutMember,
    PutProduct,
    PutProductLimits,
    PutRiskLimits,
    PutUser,
    ReplaceOrder,
    SetAccess,
    SetCalendar,
    SetSwitches,
)
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, Rejected
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import CollarAction, Decision, OrderType, Permission, Phase, Role, Scope, Side, StopType, TimeInForce

SECOND = 10**9
DAY = 86_400 * SECOND
PRODUCT = "XBT-USD"
OTHERS = [f"P{number}-USD" for number in range(1_000)]
EACH = 9_000
LEVELS = 2_500
MIDDLE = 10_000
START = 40 * DAY

Case = tuple[str, list[AnyCommand]]


class Venue:
    """A venue with many orders."""

    def __init__(self, orders: int) -> None:
        self.engine = Engine()
        self.accounts = [f"a{number}" for number in range(max(4, orders // EACH))]
        self.number = 0
        self.outcomes: list[AnyOutcome] = []
        self.apply(self.ground())
        for side in Side:
            for place in range(0, orders // 2, 1_000):
                self.apply([self.resting(side, place + number) for number in range(1_000)])
        gc.collect()
        gc.freeze()
        gc.disable()

    def apply(self, commands: list[AnyCommand], later: int = 1) -> list[float]:
        """Return the CPU milliseconds of the entry and of the entries that continue its work."""
        batches, spent = [commands], []
        while batches or self.engine.has_pending_work:
            batch = Batch(max(self.engine.time, START) + later, batches.pop() if batches else [])
            begun = time.process_time()
            applied = self.engine.apply(batch)
            spent.append((time.process_time() - begun) * 1_000)
            if len(spent) == 1:
                self.outcomes = applied.outcomes
            later = 1
        return spent

    def id(self) -> str:
        self.number += 1
        return f"c{self.number}"

    def ground(self) -> list[AnyCommand]:
        made: list[AnyCommand] = [PutCurrency(OPERATOR, self.id(), name, 0) for name in ("XBT", "USD")]
        made += [PutCurrency(OPERATOR, self.id(), name.partition("-")[0], 0) for name in OTHERS]
        for name in (PRODUCT, *OTHERS):
            made.append(PutProduct(OPERATOR, self.id(), name, name.partition("-")[0], "USD", 1, 1, 1, AMOUNT_MAX, 0, 1_000))
        made += [PutFirm(OPERATOR, self.id(), name) for name in ("two", "fifty")]
        for name in self.accounts:
            made.append(OpenAccount(OPERATOR, self.id(), name))
            made += [Deposit(name, self.id(), currency, 10**13) for currency in ("XBT", "USD")]
        for firm, members in (("two", self.accounts[:2]), ("fifty", self.accounts[2:52])):
            made += [PutMember(OPERATOR, self.id(), name, firm) for name in members]
        return made

    def resting(self, side: Side, number: int) -> PlaceOrder:
        away = 1 + number % LEVELS
        price = MIDDLE - away if side is Side.BUY else MIDDLE + away
        account = self.accounts[number % len(self.accounts)]
        return PlaceOrder(account, self.id(), PRODUCT, side, OrderType.LIMIT, price, 1)

    def taking(self, side: Side, size: int, tif: TimeInForce = TimeInForce.IOC) -> PlaceOrder:
        """Return an order that trades with this many others."""
        price = 1 if side is Side.SELL else MIDDLE * 2
        return PlaceOrder(self.accounts[-1], self.id(), PRODUCT, side, OrderType.LIMIT, price, size, 0, tif)

    def limit(self, account: str, side: Side, price: int, options: OrderOptions | None = None) -> PlaceOrder:
        return PlaceOrder(account, self.id(), PRODUCT, side, OrderType.LIMIT, price, 1, options=options)

    # -- cases
    # -----------------------------------------------------------------------------------------------------------------

    def orders(self) -> Iterator[Case]:
        last = self.accounts[-1]
        yield "an order through 1,000 makers", [self.taking(Side.SELL, 1_000)]
        yield "100 orders, each through 1,000 makers", [self.taking(Side.SELL, 1_000) for _ in range(100)]
        yield "fill-or-kill through 1,000 makers", [self.taking(Side.SELL, 1_000, TimeInForce.FOK)]
        mine = [order.order_id for order in self.engine.orders(last, limit=1_000) if order.side is Side.SELL]
        amend = AmendOrder(last, self.id(), mine[0], size=1_000, price=1)
        yield "AmendOrder that crosses 1,000", [amend]
        new = {name: getattr(self.taking(Side.SELL, 1_000), name) for name in NewOrder.__struct_fields__}
        yield "ReplaceOrder that crosses 1,000", [ReplaceOrder(last, self.id(), mine[1], "", "", NewOrder(**new))]
        yield "1,000 AmendOrder to other prices", [AmendOrder(last, self.id(), each, price=MIDDLE * 3) for each in mine[2:1_000]]
        first, away = self.accounts[1], (MIDDLE * 2, MIDDLE // 2)
        pair = PlacePair(first, "", PRODUCT, Side.SELL, 1, *away)
        yield "500 PlacePair", [replace(pair, command_id=self.id()) for _ in range(500)]
        wait = PlaceOrder(first, "", PRODUCT, Side.SELL, OrderType.MARKET, 0, 1, stop=StopType.LOSS)
        trail = replace(wait, options=OrderOptions(trail=5))
        yield "400 trailing stops", [replace(trail, command_id=self.id()) for _ in range(400)]
        yield "a trade that moves 400 trailing stops", [self.taking(Side.BUY, 1)]
        yield "100 orders at new prices, each of which moves them", [self.taking(Side.BUY, 300) for _ in range(100)]
        both = OrderOptions(take_profit=MIDDLE * 2, stop_loss=5)
        entries: list[AnyCommand] = [self.limit(self.accounts[3], Side.BUY, MIDDLE - 1, both) for _ in range(800)]
        yield "800 orders with exits", entries
        yield "an order that fills 800 of them: exits enter", [self.taking(Side.SELL, 1_000)]
        wait = replace(wait, options=OrderOptions(session="s"), stop_price=MIDDLE - 1)
        more: list[AnyCommand] = [self.limit(self.accounts[3], Side.BUY, MIDDLE - 1, both) for _ in range(900)]
        yield "900 more, and 900 stop orders below", more
        yield "the stop orders", [replace(wait, command_id=self.id()) for _ in range(900)]
        yield "an order that fills 900: exits enter, and all stop orders are triggered", [self.taking(Side.SELL, 1_000)]
        yield "CancelAll of 20 accounts in one entry", [CancelAll(name, self.id()) for name in self.accounts[60:80]]
        timers: list[AnyCommand] = [CancelAllAfter(name, self.id(), SECOND) for name in self.accounts[80:-1]]
        yield "CancelAllAfter of 30 accounts", timers

    def controls(self) -> Iterator[Case]:
        halt = PutProductLimits(OPERATOR, self.id(), PRODUCT, 1_000, action=CollarAction.HALT, halt_ns=SECOND, call_ns=SECOND)
        yield "PutProductLimits", [halt]
        yield "limit state: PutProductLimits", [replace(halt, command_id=self.id(), limit_ns=10 * SECOND)]
        rests = PlaceOrder(self.accounts[-1], self.id(), PRODUCT, Side.SELL, OrderType.LIMIT, 1, 500)
        yield "an order that may rest at the collar", [rests]
        yield "1,000 commands in a limit state", [self.limit(self.accounts[4], Side.BUY, 1) for _ in range(900)]
        yield "no limits again", [PutProductLimits(OPERATOR, self.id(), PRODUCT)]
        for firm in ("two", "fifty"):
            risk = PutRiskLimits(OPERATOR, self.id(), Scope.FIRM, firm, "XBT", 0, 0, 0, 0, 10**17)
            usd = replace(risk, command_id=self.id(), currency="USD", open_max=10**17, volume_max=10**17, position_max=0)
            count = PutRiskLimits(OPERATOR, self.id(), Scope.FIRM, firm, "", 10**9, 10**9)
            yield f"PutRiskLimits of the firm {firm}", [risk, usd, count]
        for name, account in (("two", self.accounts[0]), ("fifty", self.accounts[2])):
            many: list[AnyCommand] = [self.limit(account, Side.BUY, 2) for _ in range(900)]
            yield f"900 orders under all risk limits of the firm {name}", many
        tiers = [(volume, 100, 1_000) for volume in range(16)]
        yield "PutFeeTiers", [PutFeeTiers(OPERATOR, self.id(), "USD", "", tiers)]
        overrides = [PutFeeOverride(OPERATOR, self.id(), name, of, 0, 500) for name in self.accounts[:9] for of in OTHERS]
        for place in range(0, len(overrides), 10):
            self.apply(list[AnyCommand](overrides[place : place + 10]))
        yield f"PutFeeOverride beside {len(overrides):,}", [PutFeeOverride(OPERATOR, self.id(), self.accounts[9], "", 0, 500)]
        price = next(row.last_price for row in self.engine.products() if row.product_id == PRODUCT)
        parties = self.accounts[0], self.accounts[1]
        yield "CorrectTrade", [CorrectTrade(OPERATOR, self.id(), PRODUCT, 1, *parties, price, 1, 0, 0)]
        yield "SetSwitches of the venue", [SetSwitches(OPERATOR, self.id(), Scope.VENUE, "", 1)]
        yield "SetSwitches of the venue, off", [SetSwitches(OPERATOR, self.id(), Scope.VENUE, "", 0)]
        kill = SetSwitches(OPERATOR, self.id(), Scope.FIRM, "two", 4)
        yield "kill switch of a firm with 18,000 orders", [kill]
        yield "PutMember into a killed firm", [PutMember(OPERATOR, self.id(), self.accounts[55], "two")]

    def access(self) -> Iterator[Case]:
        roles = [Grant(Role.RISK_OFFICER, Scope.ACCOUNT, name) for name in self.accounts[:14]]
        roles += [Grant(Role.MARKET_OPERATOR, Scope.VENUE), Grant(Role.ADMINISTRATOR, Scope.VENUE)]
        key = PutApiKey(OPERATOR, "", "", OPERATOR, "c2VjcmV0", "", int(Permission.ADMIN))
        for number in range(999):
            user = PutUser(OPERATOR, self.id(), f"u{number}", [*roles[1:], Grant(Role.VIEWER, Scope.FIRM, "two")])
            self.apply([user, replace(key, command_id=self.id(), key_id=f"k{number}", user_id=f"u{number}")])
        yield "PutUser, the 1,000th", [PutUser(OPERATOR, self.id(), "last", roles)]
        yield "PutMember of a firm in which 1,000 users have roles", [PutMember(OPERATOR, self.id(), self.accounts[0], "")]
        consent = Permission.LIMIT + Permission.MARKET
        yield "SetAccess", [SetAccess(OPERATOR, self.id(), True, int(consent), 60 * SECOND)]
        for number in range(99):
            self.apply([PutCurrency(f"operator/u{number}", self.id(), f"C{number}", 0)])
        calendar = self.largest(f"operator/u{100}")
        yield "a proposal, the 100th", [calendar]
        waiting = self.engine.records("proposal")[-1]
        yield "DecideProposal", [DecideProposal("operator/u500", self.id(), waiting.proposal_id, Decision.APPROVE)]
        yield "PutUser with consent on", [PutUser(OPERATOR, self.id(), "u7", roles)]
        yield "PutApiKey with consent on", [replace(key, command_id=self.id(), key_id="k8", user_id="u8", permissions=0)]

    def largest(self, sender: str) -> PutCalendar:
        """Return a calendar of 370 dates, about the longest that may be proposed."""
        day = [(3_600 * hour, Phase.CONTINUOUS if hour % 2 else Phase.CLOSED) for hour in range(8)]
        offsets = [(-(10**6), 0), *((second * 10**7, 3_600 * (second % 2)) for second in range(1, 200))]
        return PutCalendar(sender, self.id(), "large", "Z", offsets, [day] * 7, [(day_, day) for day_ in range(100, 470)])

    def calendars(self) -> Iterator[Case]:
        yield "PutCalendar, 1,000 dates of 16 phases", [self.thousand("c", 0)]
        yield "SetCalendar of the venue: 1,001 products", [SetCalendar(OPERATOR, self.id(), Scope.VENUE, "", "c")]
        yield "their calendar is read, 100 an entry", []
        for name in OTHERS:
            collected = PlaceOrder(self.accounts[-1], "", name, Side.BUY, OrderType.LIMIT, 100, 1)
            buys = [replace(collected, command_id=self.id(), price=100 + number) for number in range(20)]
            self.apply(list[AnyCommand](buys))
        yield "PutCalendar that 1,001 products follow", [self.thousand("c", 3_600)]
        yield "it is read", []
        yield "1,001 products: the next phase", []

    def thousand(self, name: str, shift: int) -> PutCalendar:
        day = [(4_000 * hour + shift, Phase.AUCTION if hour % 2 else Phase.CONTINUOUS) for hour in range(16)]
        dates = [(number, day) for number in range(30, 1_030)]
        numbers = (0, 600 * SECOND, 10_000, 60 * SECOND, 1, SECOND)
        return PutCalendar(OPERATOR, self.id(), name, "Z", [(0, 0)], [day] * 7, dates, *numbers)


@click.command()
@click.option("--orders", default=1_000_000, show_default=True, help="Open orders of the product.")
def main(orders: int) -> None:
    """Print the longest entry of each case."""
    begun = time.monotonic()
    venue = Venue(orders)
    click.echo(f"{statemachine.CORE} core, {orders:,} orders in {time.monotonic() - begun:.0f} s; milliseconds of CPU")
    longest = 0.0
    for cases in (venue.orders, venue.controls, venue.access, venue.calendars):
        for name, commands in cases():
            later = 4_000 * SECOND if name.startswith("1,001") else 2 * SECOND
            spent = venue.apply(commands, later)
            rejected = sum(isinstance(outcome, Rejected) for outcome in venue.outcomes)
            note = f" ({rejected} rejected)" if rejected else ""
            click.echo(f"{max(spent):8.2f}  {len(spent):5} entries  {name}{note}")
            longest = max(longest, *spent)
    click.echo(f"{longest:8.2f}  the longest of all")


if __name__ == "__main__":
    main()
