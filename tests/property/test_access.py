"""Access control: the engine against a slow and simple twin, over random users, firms, keys and commands."""

from __future__ import annotations

from random import Random

import pytest

from statemachine.commands import (
    AnyCommand,
    Batch,
    Grant,
    OpenAccount,
    PutApiKey,
    PutFirm,
    PutMember,
    PutRiskLimits,
    PutUser,
    SetCalendar,
    SetSwitches,
)
from statemachine.engine import Engine
from statemachine.events import Rejected
from statemachine.limits import OPERATOR
from statemachine.types import Permission, Reason, Role, Scope
from tests.property.operators import FIRMS, USERS
from tests.property.worlds import ACCOUNTS, PRODUCTS, foundations

KEYS = ["k-1", "k-2"]
SENDERS = [
    *(f"operator/{user}" for user in USERS),
    *(f"operator/key/{key}" for key in KEYS),
    "operator/nobody",
    "operator/key/none",
]
NAMES = {Scope.VENUE: [""], Scope.FIRM: FIRMS, Scope.ACCOUNT: ACCOUNTS, Scope.PRODUCT: PRODUCTS}
MAY = {
    Role.VIEWER: "",
    Role.TRADER: "",
    Role.CUSTODIAN: "",
    Role.RISK_OFFICER: "switch limit",
    Role.MARKET_OPERATOR: "switch limit market correct",
    Role.ADMINISTRATOR: "accounts access cluster",
}
"""The operator's permissions of each role, as docs/security.md has them."""


class Twin:
    """Keeps users, firms and keys in plain dicts."""

    def __init__(self) -> None:
        self.grants: dict[str, list[Grant]] = {}
        self.keys: dict[str, int] = {}
        self.firm: dict[str, str] = {}

    def may(self, sender: str, permission: str, scope: Scope, name: str) -> bool:
        who = sender.removeprefix("operator/")
        if who.startswith("key/"):
            given = self.keys.get(who.removeprefix("key/"), 0)
            return bool(given & (Permission.ADMIN | Permission[permission.upper()]))
        return any(
            permission in MAY[grant.role].split() and self.includes(grant, scope, name) for grant in self.grants.get(who, [])
        )

    def includes(self, grant: Grant, scope: Scope, name: str) -> bool:
        if grant.scope is Scope.FIRM and scope is Scope.ACCOUNT:
            return self.firm.get(name) == grant.name
        return grant.scope is Scope.VENUE or (grant.scope is scope and grant.name == name)


def command(random: Random, sender: str, command_id: str) -> tuple[AnyCommand, str, Scope, str]:
    """Draw a command, with the permission and the scope that it needs."""
    scope = random.choice([Scope.VENUE, Scope.FIRM, Scope.ACCOUNT, Scope.PRODUCT])
    name = random.choice(NAMES[scope])
    match random.randrange(5):
        case 0:
            return SetSwitches(sender, command_id, scope, name, random.choice([0, 1, 3])), "switch", scope, name
        case 1:
            return PutRiskLimits(sender, command_id, scope, name, "", random.choice([5, 9])), "limit", scope, name
        case 2:
            return SetCalendar(sender, command_id, Scope.PRODUCT, PRODUCTS[0], ""), "market", Scope.PRODUCT, PRODUCTS[0]
        case 3:
            return OpenAccount(sender, command_id, "zoe"), "accounts", Scope.VENUE, ""
    account = random.choice(ACCOUNTS)
    key = PutApiKey(sender, command_id, f"of-{account}", account, "c2VjcmV0", "", random.choice([0, 1, 3]))
    return key, "access", Scope.ACCOUNT, account


def change(random: Random, command_id: str) -> AnyCommand:
    """Draw a change of a user, a key or a firm by the operator."""
    kind = random.random()
    if kind < 0.4:
        user, grants = random.choice(USERS), []
        for _ in range(random.randrange(3)):
            role, scope = random.choice(list(Role)), random.choice(list(NAMES))
            grants.append(Grant(role, scope, random.choice(NAMES[scope])))
        return PutUser(OPERATOR, command_id, user, grants)
    if kind < 0.6:
        bare = random.choice([0, Permission.ADMIN, Permission.SWITCH, Permission.LIMIT + Permission.VIEW, Permission.TRADE])
        return PutApiKey(OPERATOR, command_id, random.choice(KEYS), OPERATOR, "c2VjcmV0", "", int(bare))
    return PutMember(OPERATOR, command_id, random.choice(ACCOUNTS), random.choice([*FIRMS, ""]))


def note(twin: Twin, done: AnyCommand) -> None:
    """Record a change that was accepted."""
    match done:
        case PutUser():
            twin.grants[done.user_id] = done.grants
        case PutApiKey():
            twin.keys[done.key_id] = done.permissions
        case PutMember():
            twin.firm[done.member_id] = done.firm_id


@pytest.mark.parametrize("seed", range(20))
def test_the_engine_accepts_the_commands_that_the_twin_accepts(seed: int) -> None:
    random, engine, twin = Random(seed), Engine(), Twin()
    engine.apply(Batch(1, [*foundations((0, 0), 1_000), *(PutFirm(OPERATOR, f"firm-{name}", name) for name in FIRMS)]))
    passed = 0
    for number in range(150):
        if random.random() < 0.3:
            sent = change(random, f"c{number}")
            (outcome,) = engine.apply(Batch(engine.time + 1, [sent])).outcomes
            if not isinstance(outcome, Rejected):
                note(twin, sent)
            continue
        sender = random.choice(SENDERS)
        sent, permission, scope, name = command(random, sender, f"c{number}")
        (outcome,) = engine.apply(Batch(engine.time + 1, [sent])).outcomes
        refused = isinstance(outcome, Rejected) and outcome.reason is Reason.NOT_PERMITTED
        assert refused is not twin.may(sender, permission, scope, name), (sent, outcome, twin.grants, twin.firm, twin.keys)
        passed += not refused
    engine.check()
    assert passed, "nobody was allowed anything"
