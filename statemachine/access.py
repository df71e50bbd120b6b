"""Users, roles and permissions: who may send which of the operator's commands, for which part of the venue.

A user has roles, each in a scope: the venue, a firm with all its accounts, an account, or a product. A role is a set of
permissions (`ROLES`). A command of the operator needs one permission for one scope (`needed`). Its account says who sent
it:

| account of the command | sender | may do |
|---|---|---|
| `operator` | the cluster itself, or the operator's key of the configuration file | everything |
| `operator/<user>` | a key of this user | what the user's roles allow at this position in the log |
| `operator/key/<key>` | a key that belongs to no user | what the key's permissions allow, for the venue |

Nodes write the account; no client chooses it (`node/engine/principal.py`). The check is part of applying the command,
so a role that was taken away is gone from that entry on, whatever a node still has in memory.

- **A narrower scope cannot loosen.** Somebody with a narrower scope may only tighten a setting of somebody with the
  permission for the whole venue (`by_venue` in switches and risk limits).
- **An administrator of a firm** gives keys to its accounts, with no more permissions than VIEW, TRADE and TRANSFER.
- **Nobody is locked out.** While the operator's key of the configuration file is switched off, some user can administer
  access. While commands need consent, two users can give it. A command after which this would not hold is rejected.

Source: ANSI INCITS 359-2012 (role based access control): users, roles, permissions. Scopes follow Commission Delegated
Regulation (EU) 2017/584 (RTS 7), article 18: a venue acts on members, a member on itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from statemachine import answer
from statemachine.commands import (
    AnyCommand,
    Command,
    CorrectTrade,
    FollowCalendar,
    Grant,
    OpenAccount,
    PutApiKey,
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
from statemachine.entry import is_name
from statemachine.limits import (
    CONSENT_MAX,
    CONSENT_MIN,
    GRANTS_PER_USER,
    KEYS_PER_USER,
    OPERATOR,
    REMARK_MAX,
    USERS_MAX,
)
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.switches import firm_of
from statemachine.tables import AccessRow, ApiKeyRow, UserRow
from statemachine.types import Permission, Reason, Role, Scope

_VIEW, _ADMIN, _ACCESS = int(Permission.VIEW), int(Permission.ADMIN), int(Permission.ACCESS)
_CLUSTER = int(Permission.CLUSTER)
OF_OPERATOR = sum(permission for permission in Permission if permission >= Permission.SWITCH)
"""The permissions that commands of the operator need. ADMIN is all of them."""
CONSENTED = OF_OPERATOR - Permission.CLUSTER
"""The permissions whose commands may need consent."""
OF_ACCOUNT = Permission.VIEW + Permission.TRADE + Permission.TRANSFER
"""The permissions that an administrator of a firm may give to a key of its accounts."""

ROLES: dict[Role, int] = {
    Role.VIEWER: _VIEW,
    Role.TRADER: _VIEW + Permission.TRADE,
    Role.RISK_OFFICER: _VIEW + Permission.SWITCH + Permission.LIMIT,
    Role.MARKET_OPERATOR: _VIEW + Permission.SWITCH + Permission.LIMIT + Permission.MARKET + Permission.CORRECT,
    Role.CUSTODIAN: _VIEW + Permission.TRANSFER + Permission.DEPOSIT,
    Role.ADMINISTRATOR: _VIEW + Permission.ACCOUNTS + Permission.ACCESS + Permission.CLUSTER,
}
"""The permissions of each role."""

_V, _F, _A, _P = Scope.VENUE, Scope.FIRM, Scope.ACCOUNT, Scope.PRODUCT
ROLE_SCOPES: dict[Role, tuple[Scope, ...]] = {
    Role.VIEWER: (_V, _F, _A),
    Role.TRADER: (_V, _F, _A),
    Role.RISK_OFFICER: (_V, _F, _A, _P),
    Role.MARKET_OPERATOR: (_V, _P),
    Role.CUSTODIAN: (_V, _F, _A),
    Role.ADMINISTRATOR: (_V, _F),
}
"""The scopes that each role can have."""

Need = tuple[Permission, Scope, str]
"""A permission, and the scope for which it is needed."""

PERMISSIONS: dict[type[Command], Permission] = {
    SetSwitches: Permission.SWITCH,
    PutRiskLimits: Permission.LIMIT,
    PutProductLimits: Permission.LIMIT,
    CorrectTrade: Permission.CORRECT,
    OpenAccount: Permission.ACCOUNTS,
    PutFirm: Permission.ACCOUNTS,
    PutMember: Permission.ACCOUNTS,
    PutApiKey: Permission.ACCESS,
    PutUser: Permission.ACCESS,
    SetAccess: Permission.ACCESS,
}
"""The permission that a command of the operator needs. It is MARKET for those that are not here."""

_SENDER = OPERATOR + "/"
_KEY = _SENDER + "key/"


def sender_of_user(user_id: str) -> str:
    """Return the account of the operator's commands that a user sends."""
    return _SENDER + user_id


def sender_of_key(key_id: str) -> str:
    """Return the account of the operator's commands that a key without a user sends."""
    return _KEY + key_id


def is_sender(account_id: str) -> bool:
    """Return whether an account of a command names a sender of the operator's commands. No account of a trader has a slash."""
    return account_id.startswith(_SENDER)


def user_of(sender: str) -> str:
    """Return the user who sent a command, "" if no user did."""
    return sender[len(_SENDER) :] if is_sender(sender) and not sender.startswith(_KEY) else ""


def key_of(sender: str) -> str:
    """Return the key without a user that sent a command, "" if somebody else sent it."""
    return sender[len(_KEY) :] if sender.startswith(_KEY) else ""


def sent_by(sender: str, commands: Sequence[AnyCommand]) -> list[AnyCommand]:
    """Return the commands, with `sender` as the account of each command of the operator."""
    return [msgspec.structs.replace(each, account_id=sender) if each.account_id == OPERATOR else each for each in commands]


def needed(state: State, command: Command) -> Need:
    """Return what a command of the operator needs."""
    return PERMISSIONS.get(type(command), Permission.MARKET), *_scope_of(state, command)


def _scope_of(state: State, command: Command) -> tuple[Scope, str]:
    """Return the scope of a command of the operator. A product that does not exist yet concerns the venue."""
    match command:
        case SetSwitches() | PutRiskLimits():
            return command.scope, command.name
        case SetCalendar() if command.scope == Scope.PRODUCT:
            return Scope.PRODUCT, command.name
        case PutProduct() if command.product_id in state.products:
            return Scope.PRODUCT, command.product_id
        case PutProductLimits() | PutGroup() | FollowCalendar() | CorrectTrade():
            return Scope.PRODUCT, command.product_id
        case PutApiKey() if _is_of_account(state, command):
            return Scope.ACCOUNT, command.owner_id
    return Scope.VENUE, ""


def _is_of_account(state: State, command: PutApiKey) -> bool:
    """Return whether a key is a plain key of an account, and replaces no other kind of key."""
    before = state.api_keys.get(command.key_id)
    if command.owner_id == OPERATOR or command.user_id or command.permissions & ~OF_ACCOUNT:
        return False
    return before is None or (before.owner_id == command.owner_id and not before.user_id and not before.permissions & ~OF_ACCOUNT)


def rejects(state: State, sender: str, need: Need) -> Reject | None:
    """Return the reject of a sender who lacks the permission, or None."""
    permission, scope, name = need
    held = held_by(state, sender, scope, name)
    if held & permission:
        return None
    text = f"{_described(sender)} does not have the permission {permission.name.lower()} for {described(scope, name)}"
    return Reject(Reason.NOT_PERMITTED, permission.name.lower(), text)


def described(scope: Scope, name: str) -> str:
    """Return a scope in words."""
    return f"the {scope.name.lower()} {name}" if name else "the venue"


def _described(sender: str) -> str:
    return f"the key {key_of(sender)}" if sender.startswith(_KEY) else f"the user {user_of(sender)}"


def held_by(state: State, sender: str, scope: Scope, name: str) -> int:
    """Return the permissions of a sender for a scope."""
    if sender == OPERATOR:
        return sum(Permission)
    if sender.startswith(_KEY):
        key = state.api_keys.get(key_of(sender))
        held = widened(key.permissions) & OF_OPERATOR if key is not None and not key.user_id else 0
        return held | _VIEW if held else 0
    user: UserRow | None = state.records["user"].get(user_of(sender))
    return _held(state, user, scope, name) if user is not None else 0


def widened(permissions: int) -> int:
    """Return the permissions of a key, those that ADMIN stands for included."""
    return permissions | OF_OPERATOR if permissions & _ADMIN else permissions


def _held(state: State, user: UserRow, scope: Scope, name: str) -> int:
    """Return the permissions for a scope that a user has by its roles."""
    held = 0
    for grant in user.grants:
        if _covers(state, grant, scope, name):
            held |= ROLES[grant.role]
    return held


def _covers(state: State, grant: Grant, scope: Scope, name: str) -> bool:
    """Return whether the scope of a grant includes another one."""
    if grant.scope == Scope.VENUE or (grant.scope, grant.name) == (scope, name):
        return True
    return grant.scope == Scope.FIRM and scope == Scope.ACCOUNT and firm_of(state, name) == grant.name


def effective(state: State, key: ApiKeyRow) -> ApiKeyRow:
    """Return a key with the permissions that it has now. For a key of a user these are those that both the key and the
    user's roles allow: for the account that it acts for, and the operator's permissions for any scope; without an
    account all permissions for any scope. The scope is checked when the key uses them. The cluster has no parts, and no
    command in the log needs CLUSTER, so only a role for the venue gives it.
    """
    if not key.user_id:
        return key
    user = state.records["user"].get(key.user_id)
    held = 0
    if user is not None:
        for grant in user.grants:
            held |= ROLES[grant.role]
        if key.owner_id != OPERATOR:
            held = held & OF_OPERATOR | _held(state, user, Scope.ACCOUNT, key.owner_id)
        if not _held(state, user, Scope.VENUE, "") & _CLUSTER:
            held &= ~_CLUSTER
    return msgspec.structs.replace(key, permissions=widened(key.permissions) & held)


def put_user(state: State, command: PutUser) -> Reject | None:
    """Add a user, or replace the user's roles."""
    users = state.records["user"]
    known = users.get(command.user_id)
    reject = _check_user(state, command)
    if reject is not None:
        return reject
    if known is None and len(users) >= USERS_MAX:
        return Reject(Reason.TOO_MANY_USERS, "user_id", f"at most {USERS_MAX} users")
    row = UserRow(command.user_id, command.grants, command.note)
    if known is not None:
        reject = _locked_out(state, settings(state), user=row)
        if reject is not None:
            return reject
    changed = users.put(row)
    if changed:
        state.keys_put += sorted(state.user_keys.get(command.user_id, ()))
    answer.done(state, changed)
    return None


def _check_user(state: State, command: PutUser) -> Reject | None:
    """Return the reject of an invalid user, or None."""
    if not is_name(command.user_id):
        return Reject(Reason.INVALID_ID, "user_id", "expected a name")
    if len(command.note) > REMARK_MAX:
        return Reject(Reason.INVALID_ID, "note", f"expected at most {REMARK_MAX} characters")
    if len(command.grants) > GRANTS_PER_USER:
        return Reject(Reason.INVALID_GRANTS, "grants", f"expected at most {GRANTS_PER_USER} roles")
    for place, grant in enumerate(command.grants):
        text = _check_grant(state, grant)
        if text:
            return Reject(Reason.INVALID_GRANTS, f"grants[{place}]", text)
    return None


def _check_grant(state: State, grant: Grant) -> str:
    """Return the error in a grant, or "" if there is none."""
    if grant.scope not in ROLE_SCOPES[grant.role]:
        scopes = ", ".join(scope.name.lower() for scope in ROLE_SCOPES[grant.role])
        return f"the role {grant.role.name.lower()} has one of the scopes {scopes}"
    known = {
        Scope.VENUE: not grant.name,
        Scope.FIRM: state.records["firm"].get(grant.name) is not None,
        Scope.ACCOUNT: grant.name in state.accounts,
        Scope.PRODUCT: grant.name in state.products,
    }
    if known[grant.scope]:
        return ""
    return "the venue has no name" if grant.scope == Scope.VENUE else f"no such {grant.scope.name.lower()}"


def check_key(state: State, command: PutApiKey) -> Reject | None:
    """Check the user of a key that is put."""
    before = state.api_keys.get(command.key_id)
    if command.user_id:
        if state.records["user"].get(command.user_id) is None:
            return Reject(Reason.UNKNOWN_USER, "user_id", "no such user")
        own = state.user_keys.get(command.user_id, {})
        if command.permissions and command.key_id not in own and len(own) >= KEYS_PER_USER:
            return Reject(Reason.TOO_MANY_USERS, "user_id", f"at most {KEYS_PER_USER} keys a user")
    if before is None or not before.user_id:
        return None
    row = msgspec.structs.replace(before, permissions=command.permissions, user_id=command.user_id)
    return _locked_out(state, settings(state), key=row)


def index_key(state: State, before: ApiKeyRow | None, row: ApiKeyRow) -> None:
    """Update the index of the users' keys."""
    if before is not None and before.user_id:
        state.user_keys.get(before.user_id, {}).pop(before.key_id, None)
    if row.user_id and row.permissions:
        state.user_keys.setdefault(row.user_id, {})[row.key_id] = None


def keys_of_firms(state: State, firms: Sequence[str]) -> list[str]:
    """Return the keys of users who have a role in one of these firms."""
    found: list[str] = []
    for user_id, keys in sorted(state.user_keys.items()):
        user: UserRow | None = state.records["user"].get(user_id)
        if user is not None and any(grant.scope == Scope.FIRM and grant.name in firms for grant in user.grants):
            found += sorted(keys)
    return found


def settings(state: State) -> AccessRow:
    """Return the settings of access."""
    row: AccessRow | None = state.records["access"].get(Scope.VENUE, "")
    return row if row is not None else AccessRow(Scope.VENUE, "")


def set_access(state: State, command: SetAccess) -> Reject | None:
    """Set the settings of access."""
    if command.consent < 0 or command.consent & ~CONSENTED:
        return Reject(Reason.INVALID_PERMISSIONS, "consent", f"expected a sum of permissions within {CONSENTED}")
    if command.consent and not command.bootstrap_off:
        return Reject(
            Reason.INVALID_PERMISSIONS, "bootstrap_off", "expected true: the operator's key of the file needs no consent"
        )
    shortest, longest = (CONSENT_MIN, CONSENT_MAX) if command.consent else (0, 0)
    if not shortest <= command.consent_ns <= longest:
        return Reject(Reason.INVALID_TIMEOUT, "consent_ns", f"expected {shortest} to {longest} nanoseconds")
    row = AccessRow(Scope.VENUE, "", command.bootstrap_off, command.consent, command.consent_ns)
    reject = _locked_out(state, row)
    if reject is not None:
        return reject
    before = settings(state)
    changed = row != before
    if changed:
        state.records["access"].put(row)
    if row.bootstrap_off != before.bootstrap_off:
        state.keys_put.append(OPERATOR)
    answer.done(state, changed)
    return None


def _locked_out(state: State, wanted: AccessRow, *, user: UserRow | None = None, key: ApiKeyRow | None = None) -> Reject | None:
    """Return the reject if too few users would be left under these settings, or None. The given user and key replace
    the stored ones with the same ids.
    """
    least = {permission: 2 for permission in Permission if wanted.consent & permission}
    if wanted.bootstrap_off:
        least.setdefault(Permission.ACCESS, 1)
    if not least:
        return None
    found = dict.fromkeys(least, 0)
    for row in state.records["user"]:
        held = _usable(state, user if user is not None and user.user_id == row.user_id else row, key)
        for permission in found:
            if held & permission:
                found[permission] += 1
    for permission, count in least.items():
        if found[permission] < count:
            text = f"expected at least {count} users with a key and the permission {permission.name.lower()} for the venue"
            return Reject(Reason.LOCKED_OUT, permission.name.lower(), text)
    return None


def _usable(state: State, user: UserRow, key: ApiKeyRow | None) -> int:
    """Return the permissions of a user for the venue for which the user has a key."""
    own = [state.api_keys.get(key_id) for key_id in state.user_keys.get(user.user_id, ())]
    through = 0
    for row in own:
        if row is not None and not (key is not None and key.key_id == row.key_id):
            through |= widened(row.permissions)
    if key is not None and key.user_id == user.user_id:
        through |= widened(key.permissions)
    return _held(state, user, Scope.VENUE, "") & through


def arrange(state: State) -> None:
    """Build the index from the rows. O(keys)."""
    for row in state.api_keys:
        if row.user_id:
            index_key(state, None, row)


def check_contents(state: State) -> None:
    """Assert that the rows fit together."""
    for row in state.records["user"]:
        assert is_name(row.user_id), f"user {row.user_id!r} has no name"
        for grant in row.grants:
            text = _check_grant(state, grant)
            assert not text, f"user {row.user_id}: {text}"
    keys: dict[str, list[str]] = {}
    for key in state.api_keys:
        assert not key.user_id or state.records["user"].get(key.user_id) is not None, f"key {key.key_id} of an unknown user"
        if key.user_id and key.permissions:
            keys.setdefault(key.user_id, []).append(key.key_id)
    indexed = {user_id: sorted(found) for user_id, found in state.user_keys.items() if found}
    assert indexed == {user_id: sorted(found) for user_id, found in keys.items()}, "the index of the users' keys"
    reject = _locked_out(state, settings(state))
    assert reject is None, f"locked out: {reject}"
