"""What a sender of the operator's commands may read: rows of the controls, of the API keys and of the proposals.

`sees` judges one row. `visible` and `visible_keys` find the rows that it allows by look-ups, because a user of a firm
would otherwise have all rows of a large venue searched for a few. Their work is O(log n + rows wanted) for a sender who
sees every row. For a user with roles for firms, accounts or products it is one look-up for each of these, at most
`GRANTS_PER_USER` firms of `MEMBERS_PER_FIRM` accounts.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from typing import Any

from statemachine.access import OF_OPERATOR, ROLES, held_by, needed, user_of
from statemachine.commands import command_decoder
from statemachine.state import State
from statemachine.tables import ApiKeyRow, UserRow
from statemachine.types import Permission, Scope

_VIEW, _ACCESS = int(Permission.VIEW), int(Permission.ACCESS)
SEES_ALL = _VIEW | OF_OPERATOR
"""Permissions for the venue of which one shows every row."""
OF_ALL_ACCOUNTS = ("fee_override", "fee_volume")
"""Tables that may have a row of each account. Only a sender who sees every row may read them: `Engine.fees_of` has
those of one account.
"""


def sees(state: State, sender: str, table: str, row: Any) -> bool:
    """Return whether a sender of the operator's commands may read a row."""
    if held_by(state, sender, Scope.VENUE, "") & SEES_ALL:
        return True
    if table in OF_ALL_ACCOUNTS:
        return False
    match table:
        case "switch" | "risk":
            return bool(held_by(state, sender, row.scope, row.name) & _VIEW)
        case "firm" | "firm_member":
            return bool(held_by(state, sender, Scope.FIRM, row.firm_id) & _VIEW)
        case "api_key":
            return bool(held_by(state, sender, Scope.ACCOUNT, row.owner_id) & _ACCESS)
        case "user":
            return bool(row.user_id == user_of(sender))
        case "proposal":
            need = needed(state, command_decoder.decode(row.command))
            return row.proposer == sender or bool(held_by(state, sender, *need[1:]) & need[0])
    return True


def visible(state: State, sender: str, table: str, first: int, limit: int) -> list[Any]:
    """Return up to `limit` rows of a table of the controls by key, after the first `first` ones that the sender sees."""
    records = state.records[table]
    if held_by(state, sender, Scope.VENUE, "") & SEES_ALL:
        return records.page(first, limit)
    if table in OF_ALL_ACCOUNTS:
        return []
    keys: list[tuple[Any, ...]]
    match table:
        case "proposal":
            return [row for row in records.in_order() if sees(state, sender, table, row)][first : first + limit]
        case "switch" | "risk":
            keys = list(_allowed(state, sender, _VIEW))
        case "firm":
            keys = [(name,) for scope, name in _allowed(state, sender, _VIEW) if scope == Scope.FIRM]
        case "firm_member":
            firms = [name for scope, name in _allowed(state, sender, _VIEW) if scope == Scope.FIRM]
            keys = [(account_id,) for firm_id in firms for account_id in state.members.get(firm_id, ())]
        case "user":
            keys = [(user_of(sender),)]
        case _:
            return records.page(first, limit)
    return [row for key in sorted(keys) for row in records.beginning(*key)][first : first + limit]


def visible_keys(state: State, sender: str, after: str, limit: int) -> list[ApiKeyRow]:
    """Return up to `limit` API keys by id, after the id `after`, that the sender sees."""
    if held_by(state, sender, Scope.VENUE, "") & SEES_ALL:
        return list(islice(state.api_keys.behind(after), limit))
    owners = [name for scope, name in _allowed(state, sender, _ACCESS) if scope == Scope.ACCOUNT]
    rows = sorted((row for owner_id in owners for row in state.api_keys.having("owner_id", owner_id)), key=lambda row: row.key_id)
    first = bisect_right(rows, after, key=lambda row: row.key_id)
    return rows[first : first + limit]


def _allowed(state: State, sender: str, permission: int) -> dict[tuple[int, str], None]:
    """Return the firms, accounts and products for which a user has a permission by roles for these: scope and name."""
    user: UserRow | None = state.records["user"].get(user_of(sender))
    found: dict[tuple[int, str], None] = {}
    for grant in user.grants if user is not None else ():
        if ROLES[grant.role] & permission:
            found[int(grant.scope), grant.name] = None
            if grant.scope == Scope.FIRM:
                found |= {(int(Scope.ACCOUNT), account_id): None for account_id in state.members.get(grant.name, ())}
    return found
