"""Users, roles and consent over HTTP: permissions for the operator's commands, and proposals that wait for a second
user.

The words of roles, scopes, permissions and decisions are those of `statemachine.types`, in lower case.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from node.gateway.admin import PutJson, put
from node.gateway.calls import Answer, Call
from node.gateway.errors import ApiError, BadRequestError, UnknownHereError, rejection
from node.gateway.requests import choice, parse
from node.gateway.values import check_name, iso
from node.keys.credentials import PERMISSIONS, permission_names
from node.native.protocol import ControlsQuery, ControlsView
from statemachine import access
from statemachine.commands import DecideProposal, Grant, PutApiKey, PutUser, SetAccess, command_decoder
from statemachine.events import Rejected
from statemachine.limits import OPERATOR, PROPOSALS_MAX, SECOND_NS, USERS_MAX
from statemachine.tables import AccessRow, ProposalRow, UserRow
from statemachine.types import Decision, Permission, Role, Scope

ROLES = {role.name.lower(): role for role in Role}
GRANT_SCOPES = {scope.name.lower(): scope for scope in (Scope.VENUE, Scope.FIRM, Scope.ACCOUNT, Scope.PRODUCT)}
DECISIONS = {decision.name.lower(): decision for decision in Decision}


class GrantJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A role in a scope: `venue`, or `firm`, `account` or `product` with its `id`."""

    role: str
    scope: str = "venue"
    id: str = ""


class UserRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All roles of a user. Without roles the user and the user's keys may do nothing. `note` is for people."""

    roles: list[GrantJson]
    note: str = ""


class OperatorUserJson(msgspec.Struct, kw_only=True):
    """A user, and the roles."""

    id: str
    roles: list[GrantJson]
    note: str

    @classmethod
    def of(cls, row: UserRow) -> Self:
        """Return the object of a user."""
        roles = [GrantJson(grant.role.name.lower(), grant.scope.name.lower(), grant.name) for grant in row.grants]
        return cls(id=row.user_id, roles=roles, note=row.note)


class AccessRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of access. `bootstrap`: whether the operator's key of the configuration file works. `consent`: the
    permissions whose commands wait for a second user, for `consent_seconds`.
    """

    bootstrap: bool
    consent: list[str] = []
    consent_seconds: int = 0


class AccessJson(msgspec.Struct, kw_only=True):
    """The settings of access, as in `AccessRequest`."""

    bootstrap: bool
    consent: list[str]
    consent_seconds: int


class ProposalJson(msgspec.Struct, kw_only=True):
    """A command that waits for consent: who proposed it, the permission that a decision needs, and its fields, numbers
    in smallest units.
    """

    id: int
    proposer: str
    permission: str
    command: str
    fields: dict[str, Any]
    proposed_at: str
    expires_at: str

    @classmethod
    def of(cls, row: ProposalRow) -> Self:
        """Return the object of a proposal."""
        command = command_decoder.decode(row.command)
        hidden = ("account_id", "command_id", *(("secret", "passphrase") if isinstance(command, PutApiKey) else ()))
        return cls(
            id=row.proposal_id,
            proposer=sender_text(row.proposer),
            permission=row.permission.name.lower(),
            command=type(command).__name__,
            fields={
                name: msgspec.to_builtins(getattr(command, name)) for name in command.__struct_fields__ if name not in hidden
            },
            proposed_at=iso(row.proposed_at),
            expires_at=iso(row.expires_at),
        )


class DecisionJson(msgspec.Struct, kw_only=True):
    """The result of a decision about a proposal. After `approve` its command is applied."""

    id: int
    decision: str
    sequence: int


def sender_text(account_id: str) -> str:
    """Return the sender of an operator command as text: a user, `key/` and a key without a user, or `operator`."""
    return account_id.removeprefix(f"{OPERATOR}/")


async def user_list(call: Call) -> Answer[list[OperatorUserJson]]:
    """GET /admin/users: the users and their roles, by id. A user without a role for the venue sees only their own entry."""
    return Answer([OperatorUserJson.of(row) for row in (await _rows(call, "user", USERS_MAX)).user])


async def put_user(call: Call) -> Answer[PutJson]:
    """PUT /admin/users/{id}: add a user, or replace the user's roles."""
    user_id = check_name(call.path("id"), "id")
    request = parse(call.body, UserRequest)
    grants = [
        Grant(
            choice(each.role, ROLES, f"roles[{place}].role"), choice(each.scope, GRANT_SCOPES, f"roles[{place}].scope"), each.id
        )
        for place, each in enumerate(request.roles)
    ]
    return await put(call, PutUser(OPERATOR, call.command_id(), user_id, grants, request.note), user_id)


async def settings(call: Call) -> Answer[AccessJson]:
    """GET /admin/access: the settings of access."""
    rows = (await _rows(call, "access", 1)).access
    row = rows[0] if rows else AccessRow(Scope.VENUE, "")
    return Answer(
        AccessJson(
            bootstrap=not row.bootstrap_off, consent=permission_names(row.consent), consent_seconds=row.consent_ns // SECOND_NS
        )
    )


async def put_settings(call: Call) -> Answer[PutJson]:
    """PUT /admin/access: switch the operator's key of the configuration file off or on, and say which commands need a
    second user's consent.
    """
    request = parse(call.body, AccessRequest)
    if not 0 <= request.consent_seconds <= 10**9:
        raise BadRequestError("consent_seconds must be a whole number of seconds", "consent_seconds")
    consent = sum({choice(name, PERMISSIONS, "consent") for name in request.consent})
    life = request.consent_seconds * SECOND_NS
    return await put(call, SetAccess(OPERATOR, call.command_id(), not request.bootstrap, consent, life), "access")


async def proposal_list(call: Call) -> Answer[list[ProposalJson]]:
    """GET /admin/proposals: the commands that wait for consent, oldest first: the caller's own, and those that the
    caller may decide.
    """
    return Answer([ProposalJson.of(row) for row in (await _rows(call, "proposal", PROPOSALS_MAX)).proposal])


async def decide(call: Call) -> Answer[DecisionJson]:
    """POST /admin/proposals/{id}/{decision}: `approve` as a second user, which applies the command; `reject`; or, as
    the proposer, `withdraw`.
    """
    text = call.path("id")
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ApiError(404, "Proposal not found", "id")
    decision = choice(call.path("decision"), DECISIONS, "decision")
    status = await call.gateway.monitor.now()  # before the rows: every proposal up to its sequence that still waits is among them
    known = [row for row in (await _rows(call, "proposal", PROPOSALS_MAX)).proposal if row.proposal_id == int(text)]
    for row in known:
        call.caller.require(row.permission)
    if not known and (status is None or int(text) > status.sequence):
        # The exchange knows what the user may do, but not what the key may do, so a decision must not reach the log before
        # its proposal is known here. (An earlier command is not a proposal, or does not wait any more: the exchange says so.)
        raise UnknownHereError(404, "Proposal not found", "id")
    outcome = await call.command(DecideProposal(OPERATOR, call.command_id(), int(text), decision))
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    return Answer(DecisionJson(id=int(text), decision=call.path("decision"), sequence=outcome.sequence))


async def _rows(call: Call, table: str, limit: int) -> ControlsView:
    """Return the rows that the caller may see. They reflect everything acknowledged before the call."""
    check_viewer(call)
    view: ControlsView = await call.read(ControlsQuery(table, 0, limit, call.caller.viewer))
    return view


def check_viewer(call: Call) -> None:
    """Raise ApiError 403 for a key that belongs to no user and has no permission of the operator."""
    identity = call.caller
    if not identity.user_id and not access.widened(identity.permissions) & access.OF_OPERATOR:
        identity.require(Permission.ADMIN)
