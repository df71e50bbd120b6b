"""Encoders of outcomes: one function for each outcome of `events`. Each function writes to the current outcome.

Each field is written once, in the order of its struct. `tests/unit/statemachine/test_twins.py` decodes the bytes with
the structs.
"""

from __future__ import annotations

from statemachine.entities import Balance, Order
from statemachine.reject import Reject
from statemachine.state import State


def _begin(state: State, tag: int, fields: int) -> None:
    """Write the fields with which every outcome begins. `fields` counts the outcome's fields without the tag."""
    outcome = state.outcome
    outcome.array(fields + 1)
    outcome.number(tag)
    outcome.number(state.sequence)
    outcome.number(state.time)
    outcome.flag(False)


def rejected(state: State, reject: Reject) -> None:
    """Answer that the command was rejected and changed nothing."""
    _begin(state, 1, 6)
    outcome = state.outcome
    outcome.number(reject.reason)
    outcome.text(reject.field)
    outcome.text(reject.detail)


def done(state: State, changed: bool) -> None:
    """Answer that a currency, product, account or key was added or replaced."""
    _begin(state, 2, 4)
    state.unchanged = not changed
    state.outcome.flag(changed)


def transferred(state: State, currency: str, amount: int, balance: Balance) -> None:
    """Answer that money was deposited, withdrawn or transferred. The outcome has the sender's balance after it."""
    _begin(state, 3, 7)
    outcome = state.outcome
    outcome.text(currency)
    outcome.number(amount)
    outcome.number(balance.available)
    outcome.number(balance.hold)


def placed(state: State, order: Order) -> None:
    """Answer that an order entered."""
    _begin(state, 4, 4)
    order.write(state.outcome)


def amended(state: State, order: Order) -> None:
    """Answer that an order was amended."""
    _begin(state, 6, 4)
    order.write(state.outcome)


def armed(state: State, fires_at: int) -> None:
    """Answer that a timer was set or removed. The reply cache keeps this outcome among those that changed nothing,
    because it concerns no order.
    """
    _begin(state, 9, 4)
    state.unchanged = True
    state.outcome.number(fires_at)


def paired(state: State, limit: Order, stop: Order) -> None:
    """Answer that a linked pair of a limit order and a stop order entered."""
    _begin(state, 8, 5)
    limit.write(state.outcome)
    stop.write(state.outcome)


def replaced(state: State, old: Order, new: Order) -> None:
    """Answer that an order was cancelled, and another one entered in its place."""
    _begin(state, 7, 5)
    old.write(state.outcome)
    new.write(state.outcome)


def cancelled(state: State, orders: list[Order], pending: bool) -> None:
    """Answer that orders were cancelled on request, in this order. With `pending`, later entries cancel more."""
    _begin(state, 5, 5)
    state.outcome.array(len(orders))
    for order in orders:
        order.write(state.outcome)
    state.outcome.flag(pending)


def noted(state: State, number: int, base: int, taken: int) -> None:
    """Answer that a report stream was continued."""
    _begin(state, 20, 6)
    outcome = state.outcome
    outcome.number(number)
    outcome.number(base)
    outcome.number(taken)


def proposed(state: State, proposal_id: int, expires_at: int) -> None:
    """Answer that the command waits for consent."""
    _begin(state, 31, 5)
    state.outcome.number(proposal_id)
    state.outcome.number(expires_at)


def switched(state: State, changed: bool, cancelled: int, pending: bool) -> None:
    """Answer that switches were set, and `cancelled` orders were cancelled. With `pending`, later entries cancel more."""
    _begin(state, 30, 6)
    state.unchanged = not changed
    state.outcome.flag(changed)
    state.outcome.number(cancelled)
    state.outcome.flag(pending)
