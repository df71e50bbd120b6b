"""The checks that an order passes before all others, where the operator has set any: switches, collars and limits of
the product, risk limits.

`State.guarded` says whether there are any at all; an order of an exchange without them is asked that one question.
"""

from __future__ import annotations

from statemachine import collars, risk, switches
from statemachine.entities import Account, Order, Placing, Product
from statemachine.reject import Reject
from statemachine.state import State


def check(state: State, product: Product, account: Account, command: Placing, amended: Order | None = None) -> Reject | None:
    """May this order enter, as far as the operator's controls go? Its own fields are checked afterwards. `amended` is
    the open order that becomes it."""
    reject = switches.rejects(state, product, account, command.side)
    if reject is None and product.controls is not None:
        reject = collars.rejects(product, command)
    return reject or risk.rejects(state, product, account, command, amended)


def may_enter(state: State, product: Product, order: Order) -> bool:
    """May an order still enter that was accepted before?"""
    return switches.rejects(state, product, order.account, order.side) is None
