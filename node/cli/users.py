"""`user`, `access`, `proposal`: who may send which of the operator's commands, and commands that wait for a second user."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from node.cli.controls import rows_of, send, show_rows
from node.cli.output import instant, print_json, show, table, word
from node.cli.program import Commands
from node.cli.session import CliSession, MarketScales, fresh_id, run
from node.cli.target import COUNT, WHOLE_SECONDS, Target, cluster_option, json_option
from node.keys.credentials import PERMISSIONS, permission_names
from statemachine.access import ROLE_SCOPES
from statemachine.commands import DecideProposal, Grant, PutApiKey, PutUser, SetAccess, command_decoder
from statemachine.limits import OPERATOR, SECOND_NS
from statemachine.tables import AccessRow, ProposalRow, UserRow
from statemachine.types import Decision, Role, Scope

ROLES = {role.name.lower().replace("_", "-"): role for role in Role}
ROLE_WORDS = {role: text for text, role in ROLES.items()}


@click.group(cls=Commands)
def user() -> None:
    """Users and their roles."""


@user.command("put")
@click.argument("user_id", metavar="USER")
@click.argument("roles", metavar="[ROLE[@SCOPE:NAME]]...", nargs=-1)
@click.option("--note", default="", help="Text for people, such as the full name.")
@cluster_option
@json_option
def put_user(target: Target, as_json: bool, user_id: str, roles: Sequence[str], note: str) -> None:
    """Set all roles of USER, such as `risk-officer@firm:acme` or `administrator`, which is for the venue. Without roles
    USER may do nothing.

    Roles: viewer, trader, risk-officer, market-operator, custodian, administrator. Give USER keys with `key put
    --user`.
    """
    command = PutUser(OPERATOR, fresh_id(), user_id, [_grant(text) for text in roles], note)
    send(target, as_json, lambda _: command, f"user {user_id}: {', '.join(roles) or 'no roles'}")


def _grant(text: str) -> Grant:
    """Return the role in an option such as `trader@firm:acme`. Raises click.UsageError."""
    role, _, place = text.partition("@")
    scope, _, name = place.partition(":")
    if role not in ROLES:
        raise click.UsageError(f"{text!r}: the role must be one of {', '.join(ROLES)}.")
    allowed = {word(each): each for each in ROLE_SCOPES[ROLES[role]]}
    if (scope or "venue") not in allowed:
        raise click.UsageError(f"{text!r}: the scope of {role} must be one of {', '.join(allowed)}.")
    return Grant(ROLES[role], allowed[scope or "venue"], name)


def grant_text(grant: Grant) -> str:
    """Return a role in the form that `user put` takes."""
    return ROLE_WORDS[grant.role] if grant.scope is Scope.VENUE else f"{ROLE_WORDS[grant.role]}@{word(grant.scope)}:{grant.name}"


@user.command("list")
@cluster_option
@json_option
def list_users(target: Target, as_json: bool) -> None:
    """The users and their roles."""

    def view(row: UserRow, _: MarketScales) -> list[str]:
        return [row.user_id, ", ".join(map(grant_text, row.grants)), row.note]

    show_rows(target, as_json, "user", ("user", "roles", "note"), view)


@click.group(cls=Commands)
def access() -> None:
    """The operator's key of the configuration file, and which commands need a second user's consent."""


@access.command("set")
@click.option("--bootstrap/--no-bootstrap", required=True, help="Whether the operator's key of the configuration file works.")
@click.option("--consent", default="", help="The permissions whose commands wait for a second user, with commas.")
@click.option("--seconds", type=WHOLE_SECONDS, default=86_400, show_default=True, help="How long a command waits.")
@cluster_option
@json_option
def set_access(target: Target, as_json: bool, bootstrap: bool, consent: str, seconds: int) -> None:
    """Set all settings of access at once. Without --consent no command needs it."""
    chosen = [name.strip().lower() for name in consent.split(",") if name.strip()]
    for name in chosen:
        if name not in PERMISSIONS:
            raise click.UsageError(f"--consent: {name!r} is none of {', '.join(PERMISSIONS)}.")
    total = sum(PERMISSIONS[name] for name in dict.fromkeys(chosen))
    command = SetAccess(OPERATOR, fresh_id(), not bootstrap, total, seconds * SECOND_NS if total else 0)
    what = f"operator's key {'on' if bootstrap else 'off'}, consent for {', '.join(chosen) or 'nothing'}"
    send(target, as_json, lambda _: command, what)


@access.command("show")
@cluster_option
@json_option
def show_access(target: Target, as_json: bool) -> None:
    """The settings of access. No rows: the operator's key works, and no command needs consent."""

    def view(row: AccessRow, _: MarketScales) -> list[str]:
        seconds = str(row.consent_ns // SECOND_NS)
        return ["off" if row.bootstrap_off else "on", ",".join(permission_names(row.consent)) or "none", seconds]

    show_rows(target, as_json, "access", ("operator's key", "consent", "seconds"), view)


@click.group(cls=Commands)
def proposal() -> None:
    """Commands that wait for the consent of another user."""


@proposal.command("list")
@cluster_option
@json_option
def list_proposals(target: Target, as_json: bool) -> None:
    """The proposals that wait, with the fields of their commands in smallest units."""

    async def work(session: CliSession) -> list[ProposalRow]:
        return await rows_of(session, "proposal")

    views = [
        {
            "id": row.proposal_id,
            "proposer": row.proposer.removeprefix(f"{OPERATOR}/"),
            "permission": word(row.permission),
            "command": _command_text(row),
            "until": instant(row.expires_at),
        }
        for row in run(target, work)
    ]
    if as_json:
        print_json(views)
    else:
        show(table(("id", "proposer", "permission", "command", "until"), [list(map(str, view.values())) for view in views]))


def _command_text(row: ProposalRow) -> str:
    command = command_decoder.decode(row.command)
    hidden = ("account_id", "command_id", *(("secret", "passphrase") if isinstance(command, PutApiKey) else ()))
    fields = (f"{name}={msgspec.to_builtins(getattr(command, name))}" for name in command.__struct_fields__ if name not in hidden)
    return f"{type(command).__name__} {' '.join(fields)}"


def _decide(target: Target, as_json: bool, proposal_id: int, decision: Decision) -> None:
    command = DecideProposal(OPERATOR, fresh_id(), proposal_id, decision)
    send(target, as_json, lambda _: command, f"proposal {proposal_id}: {word(decision)}")


@proposal.command("approve")
@click.argument("proposal_id", metavar="PROPOSAL", type=COUNT)
@cluster_option
@json_option
def approve(target: Target, as_json: bool, proposal_id: int) -> None:
    """Approve PROPOSAL of another user: its command is applied."""
    _decide(target, as_json, proposal_id, Decision.APPROVE)


@proposal.command("reject")
@click.argument("proposal_id", metavar="PROPOSAL", type=COUNT)
@cluster_option
@json_option
def reject(target: Target, as_json: bool, proposal_id: int) -> None:
    """Drop PROPOSAL of another user."""
    _decide(target, as_json, proposal_id, Decision.REJECT)


@proposal.command("withdraw")
@click.argument("proposal_id", metavar="PROPOSAL", type=COUNT)
@cluster_option
@json_option
def withdraw(target: Target, as_json: bool, proposal_id: int) -> None:
    """Drop your own PROPOSAL."""
    _decide(target, as_json, proposal_id, Decision.WITHDRAW)
