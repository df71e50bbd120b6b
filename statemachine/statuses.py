"""Changes of a product's status by the operator, its calendar, or its price collar."""

from __future__ import annotations

from statemachine import auctions, pending
from statemachine.emit import status_changed
from statemachine.entities import Product
from statemachine.state import State
from statemachine.types import StatusCause


def change(
    state: State, product: Product, status: int, cause: StatusCause = StatusCause.OPERATOR, until: int = 0, *, cross: bool = False
) -> None:
    """Change the status: open the auction if orders were collected, emit the status, and let triggered stop orders
    enter.

    Args:
        until: when the status changes again at the earliest; 0 if that is not known.
        cross: the collected orders trade at one price even if the product does not trade afterwards: at the end of a
            closing auction.
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
    """Set a status in which the product does not trade, because an order that is matching reached the price collar."""
    _set(product, status, StatusCause.COLLAR, until)
    status_changed(state, product, 0, 0)


def note(state: State, product: Product, cause: StatusCause, until: int) -> None:
    """Emit that a limit state began or ended. The product's status stays."""
    _set(product, product.status, cause, until)
    status_changed(state, product, 0, 0)


def _set(product: Product, status: int, cause: StatusCause, until: int) -> None:
    product.status, product.cause, product.until = int(status), int(cause), until
