"""What the sender of a command is told: one function for each outcome of `events`. It writes to the outcome under way.

A field stands here once, in the order of its struct; `tests/unit/statemachine/test_twins.py` decodes what is written
with the structs.
"""

from __future__ import annotations

from statemachine.entities import Balance, Order
from statemachine.reject import Reject
from statemachine.state import State


def _begin(state: State, tag: int, fields: int) -> None:
    """What every outcome begins with. `fields` counts its fields without the tag."""
    outcome = state.outcome
    outcome.array(fields + 1)
    outcome.number(tag)
    outcome.number(state.sequence)
    outcome.number(state.time)
    outcome.flag(False)


def rejected(state: State, reject: Reject) -> None:
    """Refused, nothing changed."""
    _begin(state, 1, 6)
    outcome = state.outcome
    outcome.number(reject.reason)
    outcome.text(reject.field)
    outcome.text(reject.detail)


def done(state: State, changed: bool) -> None:
    """A currency, product, account or key was put."""
    _begin(state, 2, 4)
    state.unchanged = not changed
    state.outcome.flag(changed)


def transferred(state: State, currency: str, amount: int, balance: Balance) -> None:
    """Money came, went or moved; the sender's balance after it."""
    _begin(state, 3, 7)
    outcome = state.outcome
    outcome.text(currency)
    outcome.number(amount)
    outcome.number(balance.available)
    outcome.number(balance.hold)


def placed(state: State, order: Order) -> None:
    """An order entered."""
    _begin(state, 4, 4)
    order.write(state.outcome)


def amended(state: State, order: Order) -> None:
    """An order was amended."""
    _begin(state, 6, 4)
    order.write(state.outcome)


def armed(state: State, fires_at: int) -> None:
    """A timer was set or taken off. As it has nothing to do with orders it is not remembered as a change."""
    _begin(state, 9, 4)
    state.unchanged = True
    state.outcome.number(fires_at)


def paired(state: State, limit: Order, stop: Order) -> None:
    """A limit order and a stop order entered that end each other."""
    _begin(state, 8, 5)
    limit.write(state.outcome)
    stop.write(state.outcome)


def replaced(state: State, old: Order, new: Order) -> None:
    """An order left, and another entered in its place."""
    _begin(state, 7, 5)
    old.write(state.outcome)
    new.write(state.outcome)


def cancelled(state: State, orders: list[Order], pending: bool) -> None:
    """Orders left on request, in this order; with `pending` more leave later."""
    _begin(state, 5, 5)
    state.outcome.array(len(orders))
    for order in orders:
        order.write(state.outcome)
    state.outcome.flag(pending)


def noted(state: State, number: int, base: int, taken: int) -> None:
    """A report stream was continued."""
    _begin(state, 20, 6)
    outcome = state.outcome
    outcome.number(number)
    outcome.number(base)
    outcome.number(taken)


def switched(state: State, changed: bool, cancelled: int, pending: bool) -> None:
    """Switches were set; so many orders left with it, and with `pending` more leave later."""
    _begin(state, 30, 6)
    state.unchanged = not changed
    state.outcome.flag(changed)
    state.outcome.number(cancelled)
    state.outcome.flag(pending)
