"""Four eyes: a command of the operator that waits until a second user consents.

The setting `AccessRow.consent` names the permissions whose commands wait. Such a command is not applied. It becomes a
proposal, whose id is the sequence of the command, and its sender learns that (`events.Proposed`).

- **Approve**: another user than the proposer, with the permission for the same scope. The command is applied with the
  log entry of the approval, and the outcome is that of the command. The proposer must still have the permission. If the
  exchange rejects the command at that time, the proposal stays.
- **Reject**: anyone with the permission but the proposer. **Withdraw**: the proposer.
- A proposal expires by the time of the log (`timers`). It is checked when it is approved, not when it is proposed: what
  it would change may change until then.
- A key without a user may propose and reject, but not approve: two keys may be in one hand. The operator's key of the
  configuration file is switched off while commands need consent (`access.set_access`). So commands of the account
  `operator` itself are those of the cluster, such as keys that are encrypted again, and need none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from statemachine import access, answer, timers
from statemachine.commands import Command, DecideProposal, command_decoder
from statemachine.limits import OPERATOR, PROPOSAL_BYTES_MAX, PROPOSALS_MAX, PROPOSALS_PER_SENDER
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import ProposalRow, TimerRow
from statemachine.types import Decision, Reason, Scope, Timer

_encode = msgspec.msgpack.Encoder().encode

HANDLERS: dict[type[Command], Callable[[State, Any], Reject | None]] = {}
"""The handlers of the operator's commands. `handlers` registers them."""


def carry_out(state: State, command: Command) -> Reject | None:
    """Apply a command of the operator if its sender may send it, or keep it as a proposal if it needs consent."""
    sender = command.account_id
    state.sender, state.by_venue = sender, True
    if sender != OPERATOR and not isinstance(command, DecideProposal):
        need = access.needed(state, command)
        reject = access.rejects(state, sender, need)
        if reject is not None:
            return reject
        if access.settings(state).consent & need[0]:
            return _propose(state, command, need)
        state.by_venue = _is_of_venue(state, sender, need)
    return HANDLERS[type(command)](state, command)


def _is_of_venue(state: State, sender: str, need: access.Need) -> bool:
    """Return whether the sender has the permission for the whole venue."""
    return bool(access.held_by(state, sender, Scope.VENUE, "") & need[0])


def _propose(state: State, command: Command, need: access.Need) -> Reject | None:
    """Store a command as a proposal. Returns the reject if that is not possible."""
    rows = state.records["proposal"]
    encoded = _encode(command)
    if len(encoded) > PROPOSAL_BYTES_MAX:
        return Reject(Reason.TOO_MANY_PROPOSALS, "", f"a proposed command has at most {PROPOSAL_BYTES_MAX} bytes")
    if len(rows) >= PROPOSALS_MAX:
        return Reject(Reason.TOO_MANY_PROPOSALS, "", f"at most {PROPOSALS_MAX} proposals wait for consent")
    if sum(row.proposer == command.account_id for row in rows) >= PROPOSALS_PER_SENDER:
        return Reject(Reason.TOO_MANY_PROPOSALS, "", f"at most {PROPOSALS_PER_SENDER} of yours wait for consent")
    ends = state.time + access.settings(state).consent_ns
    rows.put(ProposalRow(state.sequence, command.account_id, need[0], encoded, state.time, ends))
    timers.put(state, Timer.PROPOSAL, str(state.sequence), "", ends)
    answer.proposed(state, state.sequence, ends)
    return None


def decide(state: State, command: DecideProposal) -> Reject | None:
    """Approve, reject or withdraw a proposal."""
    row: ProposalRow | None = state.records["proposal"].get(command.proposal_id)
    if row is None:
        return Reject(Reason.UNKNOWN_PROPOSAL, "proposal_id", "no such proposal waits")
    proposed, sender = command_decoder.decode(row.command), command.account_id
    need = access.needed(state, proposed)
    own = row.proposer == sender
    if command.decision == Decision.WITHDRAW and not own:
        return Reject(Reason.NOT_PERMITTED, "decision", "only the proposer withdraws a proposal")
    if command.decision != Decision.WITHDRAW:
        if own:
            return Reject(Reason.NEEDS_ANOTHER_USER, "decision", "the proposer may only withdraw the proposal")
        reject = access.rejects(state, sender, need)
        if reject is not None:
            return reject
    if command.decision != Decision.APPROVE:
        _remove(state, row)
        answer.done(state, True)
        return None
    if not access.user_of(sender):
        return Reject(Reason.NEEDS_ANOTHER_USER, "decision", "only a user approves a proposal, and this key belongs to none")
    reject = access.rejects(state, row.proposer, need)
    if reject is not None:
        return reject
    state.sender, state.by_venue = row.proposer, _is_of_venue(state, row.proposer, need)
    reject = HANDLERS[type(proposed)](state, proposed)
    if reject is None:
        _remove(state, row)
    return reject


def _remove(state: State, row: ProposalRow) -> None:
    state.records["proposal"].remove(row.proposal_id)
    timers.remove(state, Timer.PROPOSAL, str(row.proposal_id), "")


def _expire(state: State, timer: TimerRow) -> None:
    state.records["proposal"].remove(int(timer.subject))


timers.HANDLERS[int(Timer.PROPOSAL)] = _expire


def check_contents(state: State) -> None:
    """Assert that each proposal is a command and has a timer, and that each timer has a proposal."""
    rows = state.records["proposal"]
    for row in rows:
        assert 0 < row.proposal_id <= state.sequence, f"proposal {row.proposal_id} was never made"
        command = command_decoder.decode(row.command)
        assert command.account_id == row.proposer, f"proposal {row.proposal_id}: its command has another sender"
        timer = state.records["timer"].get(Timer.PROPOSAL, str(row.proposal_id), "")
        assert timer is not None and timer.at == row.expires_at, f"proposal {row.proposal_id} does not expire"  # noqa: PT018
    for timer in state.records["timer"]:
        if timer.kind == Timer.PROPOSAL:
            assert timer.subject.isdecimal() and rows.get(int(timer.subject)) is not None, (  # noqa: PT018
                f"a timer of the unknown proposal {timer.subject}"
            )
