"""Users, roles, keys and consent in the engine's slow twin (`twin`), as docs/security.md and docs/api.md describe them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from statemachine.commands import (
    AnyCommand,
    CorrectTrade,
    DecideProposal,
    FollowCalendar,
    Grant,
    OpenAccount,
    PutApiKey,
    PutCalendar,
    PutCurrency,
    PutFeeOverride,
    PutFeeTiers,
    PutFirm,
    PutGroup,
    PutMember,
    PutProduct,
    PutProductLimits,
    PutRiskLimits,
    PutUser,
    SetAccess,
    SetCalendar,
    SetSwitches,
)
from statemachine.types import Decision, Permission, Reason, Role, Scope, Timer
from tests.property.twin_calendar import TwinCalendar

NAME = re.compile("[A-Za-z0-9_.:-]{1,64}")
MAY = {
    Role.VIEWER: ("view", "venue firm account"),
    Role.TRADER: ("view trade", "venue firm account"),
    Role.RISK_OFFICER: ("view switch limit", "venue firm account product"),
    Role.MARKET_OPERATOR: ("view switch limit market correct", "venue product"),
    Role.CUSTODIAN: ("view transfer deposit", "venue firm account"),
    Role.ADMINISTRATOR: ("view accounts access cluster", "venue firm"),
}
"""The permissions of each role, and the scopes that it may have."""
NEEDED = {
    SetSwitches: "switch",
    PutRiskLimits: "limit",
    PutProductLimits: "limit",
    CorrectTrade: "correct",
    OpenAccount: "accounts",
    PutFirm: "accounts",
    PutMember: "accounts",
    PutApiKey: "access",
    PutUser: "access",
    SetAccess: "access",
    PutCurrency: "market",
    PutProduct: "market",
    PutCalendar: "market",
    SetCalendar: "market",
    PutGroup: "market",
    FollowCalendar: "market",
    PutFeeTiers: "market",
    PutFeeOverride: "market",
    DecideProposal: "that of the proposal",
}
"""The permission that each of the operator's commands needs."""
OF_PRODUCT = (PutProduct, PutProductLimits, CorrectTrade, PutGroup, FollowCalendar)
OF_OPERATOR = ("switch", "limit", "market", "correct", "accounts", "access", "cluster")
"""What `admin` stands for."""
PLAIN = {"view", "trade", "transfer"}
"""What an administrator of a firm gives to the keys of its accounts."""
CONSENT_SECONDS = (60, 604_800)


def words(permissions: int) -> set[str]:
    """Return the permissions of a key as words, those of `admin` included."""
    found = {permission.name.lower() for permission in Permission if permissions & permission}
    return found | set(OF_OPERATOR) if "admin" in found else found


@dataclass
class Proposal:
    """A command that waits for another user."""

    proposer: str
    command: AnyCommand
    ends: int


@dataclass
class TwinAccess(TwinCalendar):
    """Users, roles and consent."""

    sequence: int = 0
    users: dict[str, list[Grant]] = field(default_factory=dict)
    keys: dict[str, PutApiKey] = field(default_factory=dict)
    access: SetAccess = field(default_factory=lambda: SetAccess("", "", bootstrap_off=False))
    proposals: dict[int, Proposal] = field(default_factory=dict)
    of_venue: set[tuple[object, ...]] = field(default_factory=set)
    """The switches and risk limits that somebody has set who may do so for the whole venue."""
    for_venue: bool = True
    """May the sender of the command under way do the same for the whole venue?"""

    # -- who sends
    # -----------------------------------------------------------------------------------------------------------------

    def is_operator(self, account: str) -> bool:
        return account == "operator" or account.startswith("operator/")

    def send(self, c: AnyCommand) -> object:
        """Return the effect of the command if its sender may send it; or make a proposal."""
        self.for_venue = True
        permission, sender = NEEDED.get(type(c)), c.account_id
        if not self.is_operator(sender):
            return self.decide(c) if permission is None else Reason.INVALID_ID
        if permission is None:
            return Reason.UNKNOWN_ACCOUNT
        if isinstance(c, DecideProposal):
            return self.decide_proposal(c)
        if sender != "operator":
            if not self.may(sender, permission, *self.scope_of(c)):
                return Reason.NOT_PERMITTED
            if permission in words(self.access.consent):
                return self.propose(c)
            self.for_venue = self.may(sender, permission, Scope.VENUE, "")
        return self.decide(c)

    def decide(self, c: AnyCommand) -> object:
        raise NotImplementedError

    def scope_of(self, c: AnyCommand) -> tuple[Scope, str]:
        """Return the part of the venue that a command concerns."""
        if isinstance(c, SetSwitches | PutRiskLimits) or (isinstance(c, SetCalendar) and c.scope is Scope.PRODUCT):
            return c.scope, c.name
        if isinstance(c, OF_PRODUCT) and not (isinstance(c, PutProduct) and c.product_id not in self.products):
            return Scope.PRODUCT, c.product_id
        if isinstance(c, PutApiKey) and self.is_plain(c, c.owner_id):
            before = self.keys.get(c.key_id)
            if before is None or self.is_plain(before, c.owner_id):
                return Scope.ACCOUNT, c.owner_id
        return Scope.VENUE, ""

    def is_plain(self, key: PutApiKey, owner: str) -> bool:
        """Return whether it is an account's own key, which can do what accounts do."""
        plain = key.permissions & ~sum(Permission[word.upper()] for word in PLAIN) == 0
        return plain and key.owner_id == owner != "operator" and not key.user_id

    def may(self, sender: str, permission: str, scope: Scope, name: str) -> bool:
        if sender == "operator":
            return True
        who = sender.removeprefix("operator/")
        if who.startswith("key/"):
            key = self.keys.get(who.removeprefix("key/"))
            return key is not None and not key.user_id and permission in words(key.permissions) & set(OF_OPERATOR)
        return permission in self.allowed(self.users.get(who, []), scope, name)

    def allowed(self, grants: list[Grant], scope: Scope, name: str) -> set[str]:
        """Return what roles allow for a scope."""
        found: set[str] = set()
        for grant in grants:
            same = grant.scope is Scope.VENUE or (grant.scope, grant.name) == (scope, name)
            if same or (grant.scope is Scope.FIRM and scope is Scope.ACCOUNT and self.firm.get(name, "") == grant.name):
                found |= set(MAY[grant.role][0].split())
        return found

    def key_allows(self, key: PutApiKey) -> set[str]:
        """Return what a key may do now: what the key and its user's roles both allow. The operator's permissions count
        for any scope, but for `cluster`, which counts for the venue.
        """
        own = words(key.permissions)
        if not key.user_id:
            return {permission.name.lower() for permission in Permission if key.permissions & permission}
        grants = self.users.get(key.user_id, [])
        anywhere = {word for grant in grants for word in MAY[grant.role][0].split()}
        own -= {"cluster"} - self.allowed(grants, Scope.VENUE, "")
        if key.owner_id == "operator":
            return own & anywhere
        return own & (anywhere & set(OF_OPERATOR) | self.allowed(grants, Scope.ACCOUNT, key.owner_id))

    # -- users and keys
    # ----------------------------------------------------------------------------------------------------------------

    def control(self, command: object) -> object:
        match command:
            case PutUser():
                return self.put_user(command)
            case PutApiKey():
                return self.put_key(command)
            case SetAccess():
                return self.set_access(command)
            case SetSwitches():
                fault = self.switch_fault(command)
                key, before = ("switch", command.scope, command.name), self.switches.get((command.scope, command.name), 0)
                return fault or self.of_scope(key, bool(before & ~command.switches), bool(command.switches), command)
            case PutRiskLimits():
                fault = self.risk_fault(command)
                wanted = (command.scope, command.name, command.currency)
                loosens, stays = self.compared(self.risk.get(wanted), command)
                return fault or self.of_scope(("risk", *wanted), loosens, stays, command)
        return super().control(command)

    def compared(self, before: PutRiskLimits | None, c: PutRiskLimits) -> tuple[bool, bool]:
        """Return whether a limit is higher than before or removed, and whether there is any."""
        fields = ("orders_max", "rate_max", "open_max", "volume_max", "position_max")
        new = [getattr(c, name) for name in fields]
        old = [getattr(before, name) if before is not None else 0 for name in fields]
        return any(was and not 0 < now <= was for was, now in zip(old, new, strict=True)), any(new)

    def of_scope(self, key: tuple[object, ...], loosens: bool, stays: bool, command: object) -> object:
        """Return what is answered to a control of a scope: a user with a narrower one may only tighten what the venue
        has set.
        """
        if loosens and key in self.of_venue and not self.for_venue:
            return Reason.LOOSENED
        if not stays:
            self.of_venue.discard(key)
        elif self.for_venue:
            self.of_venue.add(key)
        return super().control(command)

    def put_user(self, c: PutUser) -> object:
        if NAME.fullmatch(c.user_id) is None:
            return Reason.INVALID_ID
        known = {Scope.VENUE: [""], Scope.FIRM: self.firms, Scope.ACCOUNT: self.accounts, Scope.PRODUCT: self.products}
        for grant in c.grants:
            if grant.scope.name.lower() not in MAY[grant.role][1].split() or grant.name not in known[grant.scope]:
                return Reason.INVALID_GRANTS
        if self.locked_out({**self.users, c.user_id: c.grants}, self.keys, self.access):
            return Reason.LOCKED_OUT
        self.users[c.user_id] = c.grants
        return "ok"

    def put_key(self, c: PutApiKey) -> object:
        if c.owner_id not in [*self.accounts, "operator"]:
            return Reason.UNKNOWN_ACCOUNT
        if not 0 <= c.permissions <= sum(Permission):
            return Reason.INVALID_PERMISSIONS
        if c.user_id and c.user_id not in self.users:
            return Reason.UNKNOWN_USER
        if self.locked_out(self.users, {**self.keys, c.key_id: c}, self.access):
            return Reason.LOCKED_OUT
        self.keys[c.key_id] = c
        return "ok"

    def set_access(self, c: SetAccess) -> object:
        consentable = sum(Permission[word.upper()] for word in OF_OPERATOR) - Permission.CLUSTER
        if c.consent < 0 or c.consent & ~consentable or (c.consent and not c.bootstrap_off):
            return Reason.INVALID_PERMISSIONS
        shortest, longest = CONSENT_SECONDS if c.consent else (0, 0)
        if not shortest * 10**9 <= c.consent_ns <= longest * 10**9:
            return Reason.INVALID_TIMEOUT
        if self.locked_out(self.users, self.keys, c):
            return Reason.LOCKED_OUT
        self.access = c
        return "ok"

    def locked_out(self, users: dict[str, list[Grant]], keys: dict[str, PutApiKey], access: SetAccess) -> bool:
        """Return whether nobody could administer access any more, or no two users could consent."""
        least = dict.fromkeys(words(access.consent), 2)
        if access.bootstrap_off:
            least.setdefault("access", 1)
        for permission, count in least.items():
            able = [
                user
                for user, grants in users.items()
                if any(grant.scope is Scope.VENUE and permission in MAY[grant.role][0].split() for grant in grants)
                and any(key.user_id == user and permission in words(key.permissions) for key in keys.values())
            ]
            if len(able) < count:
                return True
        return False

    # -- consent
    # -----------------------------------------------------------------------------------------------------------------

    def propose(self, c: AnyCommand) -> object:
        own = [proposal for proposal in self.proposals.values() if proposal.proposer == c.account_id]
        if len(self.proposals) >= 100 or len(own) >= 20:
            return Reason.TOO_MANY_PROPOSALS
        ends = self.now + self.access.consent_ns
        self.proposals[self.sequence] = Proposal(c.account_id, c, ends)
        return "proposed", self.sequence, ends

    def decide_proposal(self, c: DecideProposal) -> object:
        proposal, sender = self.proposals.get(c.proposal_id), c.account_id
        if proposal is None:
            return Reason.UNKNOWN_PROPOSAL
        permission, scope = NEEDED[type(proposal.command)], self.scope_of(proposal.command)
        if c.decision is Decision.WITHDRAW:
            if proposal.proposer != sender:
                return Reason.NOT_PERMITTED
        elif proposal.proposer == sender:
            return Reason.NEEDS_ANOTHER_USER
        elif not self.may(sender, permission, *scope):
            return Reason.NOT_PERMITTED
        if c.decision is Decision.APPROVE:
            if sender == "operator" or sender.startswith("operator/key/"):
                return Reason.NEEDS_ANOTHER_USER
            if not self.may(proposal.proposer, permission, *scope):
                return Reason.NOT_PERMITTED
            self.for_venue = self.may(proposal.proposer, permission, Scope.VENUE, "")
            answer = self.decide(proposal.command)
            if isinstance(answer, Reason):
                return answer
        del self.proposals[c.proposal_id]
        return "ok"

    def clocks(self) -> list[tuple[int, Timer, str, str]]:
        return super().clocks() + [(each.ends, Timer.PROPOSAL, str(number), "") for number, each in self.proposals.items()]

    def strike(self, kind: Timer, name: str, tag: str) -> None:
        if kind is Timer.PROPOSAL:
            del self.proposals[int(name)]
        else:
            super().strike(kind, name, tag)
