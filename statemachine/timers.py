"""Timers: actions at a time of the log. They happen on every node with the same log entry.

A timer has a kind, a subject and a tag, which together identify it, and a time. It fires with the first log entry of
that time or later, before the entry's first command. At most `limits.TIMERS_PER_ENTRY` fire with one entry, the
earliest first; the others fire with the next entries. Timers and the expiries of orders happen in the order of their
times, expiries first at one moment: an order that leaves after an auction takes part in it, however late the entry
comes. If no client sends commands, the leader proposes an entry when
the next timer is due (`Engine.next_expiry`). The handler of its kind defines the action, and may set the timer again.
"""

from __future__ import annotations

from collections.abc import Callable

from statemachine import pending
from statemachine.limits import TIMERS_PER_ENTRY
from statemachine.state import State
from statemachine.tables import TimerRow
from statemachine.types import Timer

Handler = Callable[[State, TimerRow], None]

OF_ACCOUNTS = (Timer.CANCEL_AFTER, Timer.CANCEL_WHOLE)
"""The kinds of timers that accounts set; the subject is the account."""

HANDLERS: dict[int, Handler] = {}
"""The handlers by kind. A module that sets timers registers its handler when it is imported."""


def put(state: State, kind: Timer, subject: str, tag: str, at: int) -> None:
    """Set a timer, or change its time. O(log n)."""
    remove(state, kind, subject, tag)
    row = TimerRow(kind, subject, tag, at)
    state.records["timer"].put(row)
    index(state, row)


def index(state: State, row: TimerRow) -> None:
    """Add a timer to the indexes. O(log n)."""
    state.timers[row.at, int(row.kind), row.subject, row.tag] = None
    if row.kind in OF_ACCOUNTS:
        state.cancel_afters[row.subject] = state.cancel_afters.get(row.subject, 0) + 1


def remove(state: State, kind: Timer, subject: str, tag: str) -> None:
    """Remove a timer, if it is set. O(log n)."""
    row = state.records["timer"].remove(int(kind), subject, tag)
    if row is not None:
        del state.timers[row.at, int(kind), subject, tag]
        if row.kind in OF_ACCOUNTS:
            left = state.cancel_afters.pop(subject) - 1
            if left:
                state.cancel_afters[subject] = left


def next_due(state: State) -> int:
    """Return the time at which the next timer fires, or 0 if none is set."""
    first: int = state.timers.peekitem(0)[0][0] if state.timers else 0
    return first


def first_moment(state: State) -> int:
    """Return the time of the first timer that is due, or that of the batch if none is."""
    return min(state.time, next_due(state))


def go_off(state: State) -> None:
    """Fire the timers that are due, each after the orders that expire before. Then expire those that expire later."""
    for _ in range(TIMERS_PER_ENTRY):
        if not state.timers:
            break
        at, kind, subject, tag = state.timers.peekitem(0)[0]
        if at > state.time or state.work >= state.work_max:
            break
        state.moment = at
        if not pending.expire(state):
            break
        row = state.records["timer"].get(kind, subject, tag)
        assert row is not None, "the index of timers has one that is not set"
        remove(state, row.kind, subject, tag)
        HANDLERS[kind](state, row)
    state.moment = state.time
    pending.expire(state)
