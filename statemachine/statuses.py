"""How a product comes to another status, whoever wants it: the operator, its calendar, or its price collar."""

from __future__ import annotations

from statemachine import auctions, pending
from statemachine.emit import status_changed
from statemachine.entities import Product
from statemachine.state import State
from statemachine.types import StatusCause


def change(
    state: State, product: Product, status: int, cause: StatusCause = StatusCause.OPERATOR, until: int = 0, *, cross: bool = False
) -> None:
    """Go on with another status: open the auction if orders were collected, tell the status, and let the stop orders
    enter that were triggered.

    Args:
        until: when the status changes again at the earliest; 0 if that is not known.
        cross: what an auction collected meets at one price also where the product does not trade afterwards: the end of
            a closing auction.
    """
    _set(product, status, cause, until)
    trades = product.status in auctions.TRADING
    if (trades or cross) and product.collection.orders:
        auctions.begin(state, product)
    else:
        auctions.emit_status(state, product)
        if trades and (product.triggered or product.trigger_low):
            state.set_busy(product)
    if product.busy:
        pending.work_on(state, product, state.work_max)


def interrupt(state: State, product: Product, status: int, until: int) -> None:
    """Go on, for the price collar's sake, with a status in which the product does not trade, while an order trades."""
    _set(product, status, StatusCause.COLLAR, until)
    status_changed(state, product, 0, 0)


def note(state: State, product: Product, cause: StatusCause, until: int) -> None:
    """Tell that a limit state began or is over. The product's status stays."""
    _set(product, product.status, cause, until)
    status_changed(state, product, 0, 0)


def _set(product: Product, status: int, cause: StatusCause, until: int) -> None:
    product.status, product.cause, product.until = int(status), int(cause), until
