"""The dead man's switch: `CancelAllAfter` cancels an account's orders unless the account repeats the command in time.

- The timer is part of the replicated state (`timers`), by account and session tag. It fires with the first log entry of
  its time or later. So it fires although the client's connection, its node or the leader failed, but it does not fire
  because of such a failure: a client that reconnects to another node in time sets it again there. A leader proposes an
  entry when a timer is due.
- While a cluster has no leader no timer fires. The first entry of the next leader advances the log's time, and the
  timer fires then.
- It cancels the orders that `CancelAll` with the tag would cancel at that moment, over several entries if there are
  many (`pending`), and those of offline products: a client that is gone cannot cancel them later. The reason is
  `DoneReason.TIMER`. A timer of the whole account has a tag of its own and cancels what `CancelAll` without a tag would:
  a session can take it back without the timer that the account set elsewhere.
- If the account has as many unfinished mass cancels as it may have, the timer fires again with a later entry.
- A command that sets a timer does not displace the outcomes of orders in the reply cache. Its outcome is kept among
  those that changed nothing.

The rules follow BitMEX and Kraken ("cancelAllAfter"), and cancel on disconnect at exchanges with sessions.
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
)
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import TimerRow
from statemachine.types import DoneReason, Reason, Timer
from statemachine.validation import bad_command_id

_AGAIN = 10**8
"""Nanoseconds after which a timer fires again if the account could have no further mass cancel."""


def cancel_all_after(state: State, account: Account, command: CancelAllAfter) -> Reject | None:
    """Set, change or remove the timer of the account and tag."""
    name, tag = account.account_id, command.session
    kind = Timer.CANCEL_WHOLE if command.whole_account else Timer.CANCEL_AFTER
    if tag and not is_command_id(tag):
        return bad_command_id("session", Reason.INVALID_ID)
    if command.timeout == 0:
        timers.remove(state, kind, name, tag)
        answer.armed(state, 0)
        return None
    if not CANCEL_ALL_AFTER_MIN <= command.timeout <= CANCEL_ALL_AFTER_MAX:
        text = f"expected 0, or {CANCEL_ALL_AFTER_MIN} to {CANCEL_ALL_AFTER_MAX} nanoseconds"
        return Reject(Reason.INVALID_TIMEOUT, "timeout", text)
    known = (int(kind), name, tag) in state.records["timer"]
    if not known and state.cancel_afters.get(name, 0) >= CANCEL_AFTERS_PER_ACCOUNT:
        return Reject(Reason.TOO_MANY_TIMERS, "session", f"at most {CANCEL_AFTERS_PER_ACCOUNT} timers an account")
    timers.put(state, kind, name, tag, state.time + command.timeout)
    answer.armed(state, state.time + command.timeout)
    return None


def _go_off(state: State, row: TimerRow) -> None:
    """Cancel the orders of an account whose timer fired."""
    account = state.accounts[row.subject]
    unfinished = sum(1 for each in state.mass_cancels if each.account_id == row.subject)
    if unfinished >= MASS_CANCELS_PER_ACCOUNT:
        timers.put(state, row.kind, row.subject, row.tag, state.time + _AGAIN)
        return
    state.changes.touch(account)
    tag = row.tag if row.kind == Timer.CANCEL_AFTER else ""
    pending.cancel_all(state, account, pending.Chosen(session=tag, reason=int(DoneReason.TIMER)))


for _kind in timers.OF_ACCOUNTS:
    timers.HANDLERS[int(_kind)] = _go_off
