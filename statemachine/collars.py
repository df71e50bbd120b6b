"""Price collars, and limits of one order, by product: what `commands.PutProductLimits` sets.

- A trade in continuous trading is at most `dynamic_ppm` away from the last trade's price, and at most `static_ppm` from
  the price of the last auction. A reference price that is not known yet sets no bound. Bounds are rounded inwards.
- An order trades up to the collar. When the next trade would be outside, its remainder is cancelled
  (`DoneReason.COLLARED`), or trading is interrupted (`volatility`), perhaps after a limit state (`limit_states`). A
  fill-or-kill order that would need a price outside is not filled, and interrupts nothing.
- With `CollarAction.REJECT` a limit order whose price is outside the collar on its aggressive side is rejected, even if
  there is nothing to trade with.
- In an auction there is no collar; its price is the next reference.
- Every new limit order is bounded in size and notional; one with a price also in its distance from the last trade, to
  either side. Stop orders are bounded when they are placed, by their stop price where they have no other.

Sources: Xetra, "Protective mechanisms in continuous trading": dynamic and static ranges, partial execution up to the
range, the exception for fill or kill; Commission Delegated Regulation (EU) 2017/584 (RTS 7), article 20: price collars,
maximum order value, maximum order volume.
"""

from __future__ import annotations

import msgspec

from statemachine import answer
from statemachine.book import BookSide
from statemachine.commands import PutProductLimits
from statemachine.entities import Placing, Product
from statemachine.limits import AMOUNT_MAX, DURATION_MAX, EXTENSIONS_MAX, PPM
from statemachine.reject import Reject
from statemachine.state import State
from statemachine.tables import ProductLimitsRow
from statemachine.types import CollarAction, OrderType, ProductStatus, Reason, Side

_AUCTION: int = ProductStatus.AUCTION
_LIMIT: int = OrderType.LIMIT
_BUY: int = Side.BUY
_REJECT: int = CollarAction.REJECT
_PPM_MAX = 10 * PPM
"""The widest collar allows a trade at eleven times the reference price."""


def put(state: State, command: PutProductLimits) -> Reject | None:
    """Set a product's collars and limits."""
    product = state.products.get(command.product_id)
    reject = _admit(product, command)
    if reject is not None:
        return reject
    assert product is not None, "admitted"
    rows, before = state.records["product_limits"], product.controls
    static = command.static_price or (before.static_price if before is not None else 0)
    row = ProductLimitsRow(
        command.product_id,
        command.dynamic_ppm,
        command.static_ppm,
        command.action,
        command.halt_ns,
        command.call_ns,
        command.random_ns,
        command.extensions_max,
        command.order_size_max,
        command.order_notional_max,
        command.distance_ppm,
        static,
        command.limit_ns,
    )
    if any((row.dynamic_ppm, row.static_ppm, row.order_size_max, row.order_notional_max, row.distance_ppm)):
        rows.put(row)
        product.controls = row
    elif before is not None:
        rows.remove(command.product_id)
        product.controls = None
    state.guard()
    if product.band is not None:
        from statemachine.limit_states import look

        look(state, product)
    answer.done(state, product.controls != before)
    return None


def _admit(product: Product | None, command: PutProductLimits) -> Reject | None:
    """Check the limits of a product. Returns the reject, or None."""
    if product is None:
        return Reject(Reason.UNKNOWN_PRODUCT, "product_id", "no such product")
    for field in ("dynamic_ppm", "static_ppm", "distance_ppm"):
        if not 0 <= getattr(command, field) <= _PPM_MAX:
            return Reject(Reason.INVALID_LIMITS, field, f"expected 0 to {_PPM_MAX} parts per million")
    for field in ("halt_ns", "call_ns", "random_ns", "limit_ns"):
        if not 0 <= getattr(command, field) <= DURATION_MAX:
            return Reject(Reason.INVALID_LIMITS, field, f"expected 0 to {DURATION_MAX} nanoseconds")
    for field in ("order_size_max", "order_notional_max", "static_price"):
        if not 0 <= getattr(command, field) <= AMOUNT_MAX:
            return Reject(Reason.INVALID_LIMITS, field, f"expected 0 to {AMOUNT_MAX}")
    if command.static_price % product.tick:
        return Reject(Reason.PRICE_OFF_TICK, "static_price", f"expected a multiple of {product.tick}")
    if not 0 <= command.extensions_max <= EXTENSIONS_MAX:
        return Reject(Reason.INVALID_LIMITS, "extensions_max", f"expected 0 to {EXTENSIONS_MAX}")
    if command.action != CollarAction.REJECT and not command.call_ns:
        return Reject(Reason.INVALID_LIMITS, "call_ns", "expected more than 0: how long orders are collected")
    if command.action == CollarAction.HALT and not command.halt_ns:
        return Reject(Reason.INVALID_LIMITS, "halt_ns", "expected more than 0")
    if command.action == CollarAction.REJECT and command.limit_ns:
        return Reject(Reason.INVALID_LIMITS, "limit_ns", "expected 0: the action lets no halt or call follow a limit state")
    return None


def note_auction(state: State, product: Product, price: int) -> None:
    """Set the static reference to the price at which an auction opened. The product has limits."""
    row = product.controls
    assert row is not None, "the product has limits"
    product.controls = msgspec.structs.replace(row, static_price=price)
    state.records["product_limits"].put(product.controls)


def bounds(product: Product, times: int = 1) -> tuple[int, int]:
    """Return the lowest and the highest price at which the product may trade, with a collar `times` as wide. In a limit
    state they are the bounds from before it.
    """
    if product.band is not None:
        return product.band
    row = product.controls
    assert row is not None, "the product has limits"
    low, high = 0, AMOUNT_MAX
    for price, ppm in ((product.last_price, row.dynamic_ppm * times), (row.static_price, row.static_ppm * times)):
        if price and ppm:
            low = max(low, -(price * (ppm - PPM) // PPM))
            high = min(high, price * (PPM + ppm) // PPM)
    return low, high


def begin(product: Product) -> None:
    """Fix the collar of an order that is about to match; its own trades do not move it. The product has limits."""
    product.collar = None if product.opening or product.status == _AUCTION else bounds(product)


def limit_key(product: Product, makers: BookSide, limit: int) -> int:
    """Return the largest key of the other side at which an order may trade: `limit`, the key of its own price, or the
    collar's. The product has limits.
    """
    if product.collar is None or makers.best is None:
        return limit
    low, high = product.collar
    nearest, farthest = (-high, -low) if makers.direction < 0 else (low, high)
    return min(limit, makers.best.key - 1 if makers.best.key < nearest else farthest)


def rejects(product: Product, command: Placing) -> Reject | None:
    """Check an order against the product's limits. The product has limits. The order's fields are not checked yet."""
    row = product.controls
    assert row is not None, "the product has limits"
    price = command.price if command.order_type == _LIMIT else command.stop_price
    if row.order_size_max and command.size > row.order_size_max:
        return Reject(Reason.ORDER_LIMIT, "size", f"the product's order_size_max is {row.order_size_max}")
    if row.order_notional_max:
        notional = command.funds or (command.size * (price or product.last_price) // product.unit)
        if notional > row.order_notional_max:
            field = "funds" if command.funds else "size"
            return Reject(Reason.ORDER_LIMIT, field, f"the product's order_notional_max is {row.order_notional_max}")
    if row.distance_ppm and price and product.last_price:
        distance = abs(price - product.last_price) * PPM // product.last_price
        if distance > row.distance_ppm:
            field = "price" if command.order_type == _LIMIT else "stop_price"
            text = f"the product's distance_ppm is {row.distance_ppm}; the last trade was at {product.last_price}"
            return Reject(Reason.ORDER_LIMIT, field, text)
    if row.action == _REJECT and command.order_type == _LIMIT and not command.stop and product.status != _AUCTION:
        low, high = bounds(product)
        if command.price > high if command.side == _BUY else 0 < command.price < low:
            return Reject(Reason.PRICE_COLLAR, "price", f"the product trades from {low} to {high} now")
    return None
