"""The operator's controls, which an order passes before all other checks: switches, collars and limits of the product,
risk limits.

`State.guarded` says whether any control is set. Without controls an order costs that one test.
"""

from __future__ import annotations

from statemachine import collars, risk, switches
from statemachine.entities import Account, Order, Placing, Product
from statemachine.reject import Reject
from statemachine.state import State


def check(state: State, product: Product, account: Account, command: Placing, amended: Order | None = None) -> Reject | None:
    """Check an order against the operator's controls. Its own fields are checked afterwards. `amended` is the open
    order that it replaces.
    """
    reject = switches.rejects(state, product, account, command.side)
    if reject is None and product.controls is not None:
        reject = collars.rejects(product, command)
    return reject or risk.rejects(state, product, account, command, amended)


def may_enter(state: State, product: Product, order: Order) -> bool:
    """Check whether an order that was accepted before may still enter."""
    return switches.rejects(state, product, order.account, order.side) is None
