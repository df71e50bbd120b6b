"""Checks of an order against the operator's switches: the kill switch, and trading off by side, of the venue, the
product, the firm and the account. `kills` sets the switches and cancels the orders of a kill switch.
"""

from __future__ import annotations

from statemachine.entities import Account, Product
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import SwitchRow
from statemachine.types import Reason, Scope, Side, Switch

_KILL: int = Switch.KILL
_FIELDS = {Scope.VENUE: "", Scope.FIRM: "account_id", Scope.ACCOUNT: "account_id", Scope.PRODUCT: "product_id"}


def firm_of(state: State, account_id: str) -> str:
    """Return the firm of an account; "" if it belongs to none."""
    row = state.records["firm_member"].get(account_id)
    return row.firm_id if row is not None else ""


def rejects(state: State, product: Product, account: Account, side: int) -> Reject | None:
    """Check whether the switches let an order of this account and side enter. The reject names the kill switch first,
    and the widest scope first.
    """
    rows = state.records["switch"]
    if not len(rows):
        return None
    wanted = Switch.BUY_OFF if side == Side.BUY else Switch.SELL_OFF
    widest: tuple[Scope, SwitchRow] | None = None
    for scope, name in (
        (Scope.VENUE, ""),
        (Scope.PRODUCT, product.product_id),
        (Scope.FIRM, firm_of(state, account.account_id)),
        (Scope.ACCOUNT, account.account_id),
    ):
        row = rows.get(scope, name)
        if row is None:
            continue
        if row.switches & _KILL:
            return Reject(Reason.KILL_SWITCH, _FIELDS[scope], f"the kill switch of {_named(scope, name)} is on")
        if row.switches & wanted and widest is None:
            widest = scope, row
    if widest is None:
        return None
    scope, row = widest
    sides = "trading" if row.switches & Switch.BUY_OFF and row.switches & Switch.SELL_OFF else f"{Side(side).name.lower()}ing"
    return Reject(Reason.TRADING_OFF, _FIELDS[scope] or "side", f"{sides} is switched off for {_named(scope, row.name)}")


def is_killed(state: State, product: Product, account: Account) -> bool:
    """Return whether a kill switch prevents all orders of an account in a product."""
    reject = rejects(state, product, account, Side.BUY)
    return reject is not None and reject.reason == Reason.KILL_SWITCH


def _named(scope: Scope, name: str) -> str:
    """Return a scope in words."""
    return f"the {scope.name.lower()} {name}" if name else "the venue"
