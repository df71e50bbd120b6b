"""Orders with options (`commands.OrderOptions`): their checks before they enter, and their stored terms.

An order without options has no `terms`, and costs the core one comparison. The options:

- `display_size`, an iceberg: `icebergs`;
- `trail`: a stop order whose stop price follows the market: `stops`;
- `take_profit`, `stop_loss`, `stop_loss_limit`: exits that enter when the order is done: `linked`;
- `session`: a tag by which `CancelAll` and `CancelAllAfter` choose orders;
- `expires_at`: a good-till-time order expires at this time, and not a time after it was accepted;
- `good_for`: a day (the order expires at the end of the session, see `phases.session_end`), or an auction (the
  remainder is cancelled when the auction has opened).
"""

from __future__ import annotations

from statemachine import phases
from statemachine.commands import OrderOptions
from statemachine.entities import Placing, Product
from statemachine.entry import is_command_id
from statemachine.events import OrderTerms
from statemachine.limits import AMOUNT_MAX, DISPLAYS_PER_ORDER, TRAILING_PER_PRODUCT
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.types import GoodFor, OrderType, ProductStatus, Reason, Side, StopType, TimeInForce
from statemachine.validation import can_rest

_BUY: int = Side.BUY
_LIMIT: int = OrderType.LIMIT
_GTC: int = TimeInForce.GTC
_GTT: int = TimeInForce.GTT
_LOSS: int = StopType.LOSS
_AUCTION: int = ProductStatus.AUCTION


def check(state: State, placing: Placing, options: OrderOptions) -> Reject | None:
    """Check the options of an order. Sets the numbers of `placing` that follow from them: the time to live and the stop
    price.
    """
    product = state.products.get(placing.product_id)
    if product is None:
        return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
    if options.session and not is_command_id(options.session):
        return Reject(Reason.INVALID_ID, "session", "expected 1 to 96 characters of A-Z a-z 0-9 _ . : -")
    return (
        _lifetime(state, product, placing, options)
        or (_display(product, placing, options.display_size) if options.display_size else None)
        or (_trail(product, placing, options.trail) if options.trail else None)
        or _exits(product, placing, options)
    )


def terms_of(options: OrderOptions) -> OrderTerms:
    """Return the terms that are stored with the order."""
    return OrderTerms(
        options.session,
        options.display_size,
        options.trail,
        options.good_for,
        options.take_profit,
        options.stop_loss,
        options.stop_loss_limit,
    )


def _lifetime(state: State, product: Product, placing: Placing, options: OrderOptions) -> Reject | None:
    """Check until when an order with options may rest."""
    if options.good_for == GoodFor.AUCTION:
        if options.expires_at or placing.time_in_force != _GTC:
            return Reject(Reason.INVALID_ORDER, "good_for", "an order that is good for an auction is good till cancelled")
        if product.status != _AUCTION or placing.stop:
            return Reject(Reason.INVALID_ORDER, "good_for", "only an auction collects such an order")
    at = options.expires_at
    if options.good_for == GoodFor.DAY:
        if at:
            return Reject(Reason.INVALID_ORDER, "expires_at", "an order that is good for a day leaves at its end")
        at = phases.session_end(state, product)
        placing.life_min = 1  # the day may end within a second
    if at:
        if placing.time_in_force != _GTT or placing.cancel_after:
            return Reject(Reason.INVALID_CANCEL_AFTER, "cancel_after", "expected a good-till-time order without it")
        placing.cancel_after = at - state.time
    return None


def _display(product: Product, placing: Placing, display: int) -> Reject | None:
    """Check the displayed size of an iceberg."""
    if placing.order_type != _LIMIT or not can_rest(placing.order_type, placing.time_in_force):
        return Reject(Reason.INVALID_ORDER, "display_size", "only a limit order that may rest has it")
    if display < product.min_size or display % product.lot or display > placing.size:
        text = f"expected a multiple of {product.lot} from {product.min_size} to the size"
        return Reject(Reason.INVALID_SIZE, "display_size", text)
    if display * DISPLAYS_PER_ORDER < placing.size:
        return Reject(Reason.INVALID_SIZE, "display_size", f"expected at least a {DISPLAYS_PER_ORDER}th of the size")
    return None


def _trail(product: Product, placing: Placing, trail: int) -> Reject | None:
    """Check a trailing stop order. Without a stop price it begins `trail` away from the last trade."""
    if placing.stop != (StopType.ENTRY if placing.side == _BUY else _LOSS):
        return Reject(Reason.INVALID_STOP, "trail", "a sell with stop loss or a buy with stop entry may trail")
    if trail < 0 or trail > AMOUNT_MAX or trail % product.tick:
        return Reject(Reason.INVALID_STOP, "trail", f"expected a multiple of {product.tick}")
    if product.stops.trailing >= TRAILING_PER_PRODUCT:
        return Reject(Reason.TOO_MANY_TRAILING, "trail", f"at most {TRAILING_PER_PRODUCT} trailing stop orders a product")
    if not placing.stop_price:
        if not product.last_price:
            return Reject(Reason.INVALID_STOP, "stop_price", "nothing traded yet: expected a stop price to begin with")
        placing.stop_price = product.last_price + (trail if placing.side == _BUY else -trail)
    return None


def _exits(product: Product, placing: Placing, options: OrderOptions) -> Reject | None:
    """Check the prices of an order's take-profit and stop-loss orders."""
    profit, loss, limit = options.take_profit, options.stop_loss, options.stop_loss_limit
    for field, price in (("take_profit", profit), ("stop_loss", loss), ("stop_loss_limit", limit)):
        if not 0 <= price <= AMOUNT_MAX or price % product.tick:
            return Reject(Reason.INVALID_PRICE, field, f"expected a multiple of {product.tick}")
        if price and product.notional(price, min(placing.size, AMOUNT_MAX)) > AMOUNT_MAX:
            return Reject(Reason.AMOUNT_TOO_LARGE, field, f"price times size is at most {AMOUNT_MAX}")
    if limit and not loss:
        return Reject(Reason.INVALID_STOP, "stop_loss_limit", "expected a stop_loss with it")
    if (profit or loss) and (placing.order_type != _LIMIT or placing.stop):
        return Reject(
            Reason.INVALID_ORDER, "take_profit" if profit else "stop_loss", "only a limit order without a stop has exits"
        )
    buys = placing.side == _BUY
    if not buys and loss and not limit:
        return Reject(Reason.INVALID_STOP, "stop_loss_limit", "an exit that buys needs a limit")
    if profit and loss and (profit <= loss if buys else profit >= loss):
        return Reject(Reason.INVALID_PRICE, "take_profit", "expected it on the other side of the market than stop_loss")
    return None
