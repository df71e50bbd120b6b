"""Flows of the venue's operators: calendars and statuses by hand, users and keys, consent, corrections of trades.
Traders continue beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from msgspec.structs import replace

from statemachine.commands import (
    AnyCommand,
    CorrectTrade,
    DecideProposal,
    Deposit,
    FollowCalendar,
    Grant,
    PutApiKey,
    PutCalendar,
    PutFirm,
    PutGroup,
    PutMember,
    PutProductLimits,
    PutRiskLimits,
    PutUser,
    SetAccess,
    SetCalendar,
    SetSwitches,
)
from statemachine.events import OrderMatched, Proposed
from statemachine.limits import AMOUNT_MAX, OPERATOR
from statemachine.types import Decision, Permission, Phase, ProductStatus, Role, Scope, Side
from tests.property.worlds import (
    ACCOUNTS,
    PRODUCTS,
    SECOND,
    auction_command,
    busy_command,
    control_command,
    options_command,
    product,
)

FIRMS = ["acme", "bolt"]
USERS = ["rita", "vera", "tom"]
SENDERS = ["operator/vera", "operator/tom"] * 6 + ["operator/rita"] * 2 + ["operator/key/k-1", "operator/key/k-2", "operator/no"]
NAMES = {Scope.VENUE: [""], Scope.FIRM: [*FIRMS, "none"], Scope.ACCOUNT: ACCOUNTS, Scope.PRODUCT: [*PRODUCTS, "NO-SUCH"]}

Flow = Iterator[tuple[AnyCommand | int, bool]]
"""Commands, or how many seconds pass, and whether the engine is restarted before."""


def operators() -> list[AnyCommand]:
    """Return the commands for a risk officer of a firm, and two users who operate the venue."""
    venue = [Grant(role, Scope.VENUE) for role in (Role.MARKET_OPERATOR, Role.ADMINISTRATOR)]
    made: list[AnyCommand] = [PutFirm(OPERATOR, "f:bolt", "bolt"), PutMember(OPERATOR, "f:ann", "ann", "acme")]
    made += [PutUser(OPERATOR, f"f:{name}", name, venue) for name in ("vera", "tom")]
    made.append(PutUser(OPERATOR, "f:rita", "rita", [Grant(Role.RISK_OFFICER, Scope.FIRM, "acme")]))
    return made + [PutApiKey(OPERATOR, f"f:k-{name}", f"k-{name}", *_key(Permission.ADMIN), user_id=name) for name in USERS]


def _key(permissions: int, owner: str = OPERATOR) -> tuple[str, str, str, int]:
    return owner, "c2VjcmV0", "", permissions


def correction(random: Random, number: int, trades: list[OrderMatched]) -> AnyCommand:
    """Return a bust or a price correction of a trade, often of an existing one."""
    if not trades:
        return busy_command(random, number)
    trade = random.choice(trades[-20:])
    buys = trade.side is Side.BUY
    maker, taker = (trade.maker_account_id, trade.maker_fee), (trade.taker_account_id, trade.taker_fee)
    buyer, seller = (maker, taker) if buys else (taker, maker)
    price = random.choice([0, 0, trade.price, trade.price + 4, max(4, trade.price - 4), AMOUNT_MAX])
    of = (trade.product_id, trade.trade_id, buyer[0], seller[0], trade.price, trade.size, buyer[1], seller[1])
    return CorrectTrade(OPERATOR, f"c{number}", *of, price)


def calendar_command(random: Random, number: int) -> AnyCommand:
    """Return a calendar whose phases last minutes or hours, a change of what follows it, or a status by hand."""
    name, chance = f"c{number}", random.random()
    if chance < 0.3:
        return _calendar(random, name)
    scope, of = random.choice([(Scope.VENUE, ""), (Scope.GROUP, "g"), *((Scope.PRODUCT, each) for each in PRODUCTS)])
    if chance < 0.55:
        if random.random() < 0.05:
            scope, of = random.choice([(Scope.VENUE, "x"), (Scope.FIRM, "acme"), (Scope.PRODUCT, "NO-SUCH"), (Scope.GROUP, "")])
        return SetCalendar(OPERATOR, name, scope, of, random.choice(["c", "d", "c", "d", "e", "", "none"]))
    if chance < 0.75:
        return FollowCalendar(OPERATOR, name, random.choice([*PRODUCTS, *PRODUCTS, "NO-SUCH"]))
    if chance < 0.85:
        return PutGroup(OPERATOR, name, random.choice(PRODUCTS), random.choice(["g", "g", "h", ""]))
    statuses = [ProductStatus.ONLINE] * 4 + [ProductStatus.AUCTION] * 3 + list(ProductStatus)
    put = product(random.choice(PRODUCTS), 0, 0, random.choice(statuses), name)
    return replace(put, keep_status=random.random() < 0.3)


def _calendar(random: Random, name: str) -> PutCalendar:
    """Return a calendar with clock changes of up to some hours and days with any phases. Some are invalid."""
    step = random.choice([60, 600, 3_600])
    days = [_day(random, step) for _ in range(3)]
    week = [random.choice(days) for _ in range(7)]
    dates = sorted((number, random.choice([[], _day(random, step)])) for number in random.sample(range(12), random.randrange(3)))
    changes = sorted(random.sample(range(0, 500_000, 900), random.randrange(4)))
    offsets = [(-(10**6), random.choice([0, 3_600, -18_000]))]
    offsets += [(at, random.choice([0, 3_600, 7_200, -18_000, 20_700])) for at in changes]
    numbers = random.choice([(0, 0, 0), (30 * SECOND, 10_000, 60 * SECOND), (600 * SECOND, 0, 5 * SECOND)])
    imbalance, most = random.choice([0, 45 * SECOND]), random.choice([0, 0, 20 * SECOND])
    tail = (most, *numbers, 2 if numbers[0] else 0, imbalance)
    made = PutCalendar(OPERATOR, name, random.choice("cde"), "somewhere", offsets, week, dates, *tail)
    if random.random() < 0.05:
        wrong: list[dict[str, Any]] = [
            {"week": week[:6]},
            {"offsets": []},
            {"random_ns": -1},
            {"extensions_max": 1, "extension_ns": 0},
        ]
        wrong += [{"days": [(3, []), (3, [])]}, {"imbalance_ns": 5}, {"late_ppm": 10**7}, {"offsets": [(0, 70_000)]}]
        wrong += [{"week": [[(60, Phase.CLOSED), (0, Phase.CLOSED)]] * 7}, {"week": [[(86_400, Phase.CLOSED)]] * 7}]
        made = replace(made, **random.choice(wrong))
    return made


def _day(random: Random, step: int) -> list[tuple[int, Phase]]:
    if random.random() < 0.1:
        return random.choice([[], [(0, Phase.CONTINUOUS)]])
    times = sorted(random.sample(range(0, 86_400, step), random.randrange(2, 13)))
    often = [Phase.AUCTION, Phase.CLOSING_AUCTION] * 2 + [Phase.CONTINUOUS] * 4
    return [(at, random.choice([*Phase, *often])) for at in times]


def access_command(random: Random, number: int) -> AnyCommand:
    """Return a change of a user, a key, the settings of access, or a firm's accounts."""
    name, chance = f"c{number}", random.random()
    if chance < 0.25:
        grants = []
        for _ in range(random.randrange(4)):
            scope = random.choice([Scope.VENUE, *NAMES])
            grants.append(Grant(random.choice(list(Role)), scope, random.choice(NAMES[scope])))
        if random.random() < 0.8:  # roles that fit
            grants = [Grant(random.choice([Role.MARKET_OPERATOR, Role.ADMINISTRATOR]), Scope.VENUE) for _ in range(2)]
            grants.append(Grant(random.choice([Role.RISK_OFFICER, Role.TRADER]), Scope.FIRM, random.choice(FIRMS)))
        return PutUser(OPERATOR, name, random.choice(["vera", "tom", "zoe"] * 4 + ["rita", "no name"]), grants)
    if chance < 0.55:
        some = [
            0,
            *[Permission.ADMIN] * 4,
            Permission.ACCESS,
            Permission.SWITCH + Permission.LIMIT,
            Permission.VIEW + Permission.TRADE,
        ]
        permissions, owner = int(random.choice([*some, *some, 2**20])), random.choice([OPERATOR, OPERATOR, *ACCOUNTS, "no"])
        user = random.choice(["", *USERS, "nobody"])
        key = f"k-{user}" if user and random.random() < 0.8 else random.choice(["k-1", "k-2", "k-ann"])
        return PutApiKey(OPERATOR, name, key, *_key(permissions, owner), user_id=user)
    if chance < 0.75:
        wanted = [0, 0, Permission.SWITCH, Permission.LIMIT + Permission.MARKET, Permission.CORRECT, Permission.ACCESS]
        consent = int(random.choice([*wanted, Permission.CLUSTER]))
        life = random.choice([60, 60, 600, 0]) if consent else random.choice([0, 0, 0, 60])
        return SetAccess(OPERATOR, name, bool(consent) or random.random() < 0.5, consent, life * SECOND)
    return PutMember(OPERATOR, name, random.choice(ACCOUNTS), random.choice([*FIRMS, ""]))


def contest(random: Random, number: int) -> AnyCommand:
    """Return commands with which a firm's risk officer and the venue set the same switches and limits."""
    sender, name = random.choice(["operator/rita", "operator/rita", "operator/vera"]), f"c{number}"
    scope, of = random.choice([(Scope.FIRM, "acme"), (Scope.ACCOUNT, "ann")])
    if random.random() < 0.5:
        return SetSwitches(sender, name, scope, of, random.choice([0, 0, 3, 3, 1, 2, 4]))
    return PutRiskLimits(sender, name, scope, of, "USD", 0, 0, random.choice([0, 100, 300]), random.choice([0, 500]))


def sent(random: Random, command: AnyCommand) -> AnyCommand:
    """Return the command with a sender, who sometimes may not send such a command."""
    if random.random() < 0.01:
        return replace(command, account_id=random.choice(["ann", "operator/vera"]))
    if command.account_id != OPERATOR or random.random() < 0.4:
        return command
    return replace(command, account_id=random.choice(SENDERS))


def venue_flow(random: Random, count: int, results: list[object]) -> Flow:
    """Yield a flow with everything. `results` gets the events and outcomes while it runs."""
    for number in range(count):
        chance = random.random()
        command: AnyCommand | int
        if chance < 0.10:
            command = random.choice([1, 20, 20, 60, 60, 300, 900, 3_600, 20_000, 86_400, 400_000])
        elif chance < 0.22:
            command = calendar_command(random, number)
        elif chance < 0.29:
            command = access_command(random, number)
        elif chance < 0.34:
            waiting = [outcome.proposal_id for outcome in results if isinstance(outcome, Proposed)][-2:]
            decision = random.choice([*Decision, Decision.APPROVE, Decision.APPROVE])
            command = DecideProposal(random.choice(SENDERS), f"c{number}", random.choice([*waiting, *waiting, 1]), decision)
        elif chance < 0.38:
            command = correction(random, number, [event for event in results if isinstance(event, OrderMatched)])
        elif chance < 0.44:
            command = control_command(random, number)
        elif chance < 0.48:
            command = contest(random, number)
        elif chance < 0.50:
            command = Deposit(random.choice(ACCOUNTS), f"c{number}", random.choice(["USD", "ETH"]), 500)
        else:
            command = random.choice([busy_command, auction_command, options_command])(random, number)
        if not isinstance(command, int):
            if isinstance(command, PutProductLimits) and random.random() < 0.5:
                command = replace(command, random_ns=4 * SECOND)
            switching = isinstance(command, SetSwitches) and command.switches and random.random() < 0.6
            if switching:  # else little would happen
                command = replace(command, switches=0)
            if not command.account_id.startswith("operator/"):
                command = sent(random, command)
        yield command, random.random() < 0.05
