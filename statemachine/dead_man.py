"""The dead man's switch: `CancelAllAfter` cancels an account's orders unless the account says again in time that it is
there.

- The timer is in the replicated state (`timers`), by account and session tag. It goes off with the first log entry of
  its time or later, so it goes off after the client's connection, its node or the leader died, and it does not go off
  because of that: a client that comes back elsewhere in time sets it again there. A leader proposes an entry when a
  timer is due.
- While a cluster has no leader nothing goes off. The log's time goes on with the first entry after that, and the timer
  is due then.
- What it cancels is what `CancelAll` with the tag would cancel at that moment, over several entries where it is much
  (`pending`). The orders leave with `DoneReason.TIMER`.
- Where the account has as many unfinished mass cancels as it may have, the timer goes off again with a later entry.
- A command that sets a timer does not push out the outcomes of orders: its own is remembered among those that changed
  nothing.

Rules as of BitMEX and Kraken ("cancelAllAfter"), and of cancel on disconnect at exchanges with sessions.
"""

from __future__ import annotations

from statemachine import answer, pending, timers
from statemachine.commands import CancelAllAfter
from statemachine.entities import Account
from statemachine.entry import is_command_id
from statemachine.limits import (
    CANCEL_AFTERS_PER_ACCOUNT,
    CANCEL_ALL_AFTER_MAX,
    CANCEL_ALL_AFTER_MIN,
    MASS_CANCELS_PER_ACCOUNT,
    TIME_MAX,
)
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import TimerRow
from statemachine.types import DoneReason, Reason, Timer
from statemachine.validation import bad_command_id

_AGAIN = 10**8
"""Nanoseconds after which a timer goes off again that found no room."""


def cancel_all_after(state: State, account: Account, command: CancelAllAfter) -> Reject | None:
    """Set the timer of the account and tag, set it to another time, or take it off."""
    name, tag = account.account_id, command.session
    if tag and not is_command_id(tag):
        return bad_command_id("session", Reason.INVALID_ID)
    if command.timeout == 0:
        timers.remove(state, Timer.CANCEL_AFTER, name, tag)
        answer.armed(state, 0)
        return None
    longest = min(CANCEL_ALL_AFTER_MAX, TIME_MAX - state.time)
    if not CANCEL_ALL_AFTER_MIN <= command.timeout <= longest:
        return Reject(Reason.INVALID_TIMEOUT, "timeout", f"expected 0, or {CANCEL_ALL_AFTER_MIN} to {longest} nanoseconds")
    records = state.records["timer"]
    known = (int(Timer.CANCEL_AFTER), name, tag) in records
    if (
        not known
        and sum(1 for row in records if row.kind == Timer.CANCEL_AFTER and row.subject == name) >= CANCEL_AFTERS_PER_ACCOUNT
    ):
        return Reject(Reason.TOO_MANY_TIMERS, "session", f"at most {CANCEL_AFTERS_PER_ACCOUNT} timers an account")
    timers.put(state, Timer.CANCEL_AFTER, name, tag, state.time + command.timeout)
    answer.armed(state, state.time + command.timeout)
    return None


def _go_off(state: State, row: TimerRow) -> None:
    """Nobody said in time that the account is there."""
    account = state.accounts[row.subject]
    unfinished = sum(1 for each in state.mass_cancels if each.account_id == row.subject)
    if unfinished >= MASS_CANCELS_PER_ACCOUNT:
        timers.put(state, Timer.CANCEL_AFTER, row.subject, row.tag, state.time + _AGAIN)
        return
    state.changes.touch(account)
    pending.cancel_all(state, account, pending.Chosen(session=row.tag, reason=int(DoneReason.TIMER)))


timers.HANDLERS[int(Timer.CANCEL_AFTER)] = _go_off
