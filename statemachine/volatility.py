"""Volatility interruptions: the price collar stops continuous trading, and an auction is called, which opens
automatically.

- The order that would have traded outside the collar keeps its trades up to the collar. Its remainder goes to the
  auction book, if it may rest and would not cross orders of its own account; otherwise it is cancelled. A stop order
  that was triggered goes there as a plain order.
- `CollarAction.HALT` halts first: for `halt_ns` orders can only be cancelled. Then the call begins. With
  `CollarAction.AUCTION` it begins at once.
- The call lasts `call_ns`, and a random time of up to `random_ns` more (`chance`). If the indicative price at its end
  is more than twice as far from the reference as the collar allows, the call is extended by as much again, at most
  `extensions_max` times. Then the auction opens.
- Then the product returns to the status that it had. A status that the operator sets, or a phase that its calendar
  begins, ends the interruption.

Times are those of the log. If the time jumps, an interruption ends with the first entry after its end.

Sources: Xetra, "Protective mechanisms in continuous trading" (random end, extended interruption, and a scheduled
auction that takes over); the Plan to Address Extraordinary Market Volatility (limit up, limit down) for a halt of a
fixed time before the reopening. That plan's limit state is in `limit_states`.
"""

from __future__ import annotations

import msgspec

from statemachine import auctions, collars, limit_states, statuses, timers
from statemachine.chance import draw
from statemachine.emit import auction_indicated
from statemachine.entities import Order, Product
from statemachine.matching import close
from statemachine.state import State
from statemachine.tables import InterruptionRow, ProductLimitsRow, TimerRow
from statemachine.types import CollarAction, DoneReason, ProductStatus, StatusCause, StopType, TimeInForce, Timer
from statemachine.validation import can_rest

_COLLARED: int = DoneReason.COLLARED
_NO_STOP: int = StopType.NONE


def interrupt(state: State, product: Product, order: Order) -> None:
    """Handle an order, on no book, whose next trade would be outside the collar: cancel it or put it into the auction
    book, and interrupt trading if the limits require it.
    """
    row = product.controls
    assert row is not None, "the product has limits"
    if row.limit_ns and not limit_states.is_behind(product, order.side):
        limit_states.hold_or_cancel(state, product, order)
        return
    interrupts = row.action != CollarAction.REJECT and order.time_in_force != TimeInForce.FOK
    collected = (
        interrupts
        and can_rest(order.order_type, order.time_in_force)
        and not auctions.crosses_own(state, order.account, product, order.side, order.price)
    )
    if collected:
        order.stop, order.stop_price = _NO_STOP, 0
        state.wait(order)
        auctions.add(state, product, order)
    else:
        close(state, product, order, _COLLARED, False)
    if interrupts:
        _interrupt(state, product, row)


def _interrupt(state: State, product: Product, row: ProductLimitsRow) -> None:
    """Begin the halt or the call."""
    limit_states.forget(state, product)
    resume = product.status
    if row.action == CollarAction.HALT:
        until = state.time + row.halt_ns
        _put(state, InterruptionRow(product.product_id, ProductStatus(resume), True, until))
        statuses.interrupt(state, product, ProductStatus.CANCEL_ONLY, until)
    else:
        _call(state, product, row, ProductStatus(resume))


def _call(state: State, product: Product, row: ProductLimitsRow, resume: ProductStatus) -> None:
    """Begin the call of the auction."""
    earliest = state.time + row.call_ns
    _put(state, InterruptionRow(product.product_id, resume, False, _end(state, product, row)))
    statuses.interrupt(state, product, ProductStatus.AUCTION, earliest)


def _end(state: State, product: Product, row: ProductLimitsRow) -> int:
    """Return the random time at which an interruption ends."""
    return state.time + row.call_ns + draw(state, f"call {product.product_id} {product.sequence}", row.random_ns)


def _put(state: State, row: InterruptionRow) -> None:
    state.records["interruption"].put(row)
    timers.put(state, Timer.INTERRUPTION, row.product_id, "", row.ends_at)


def end(state: State, product: Product) -> None:
    """Drop the interruption of the product, if there is one, because the operator or the calendar sets the status."""
    if state.records["interruption"].get(product.product_id) is not None:
        limit_states.forget(state, product)
        state.records["interruption"].remove(product.product_id)
        timers.remove(state, Timer.INTERRUPTION, product.product_id, "")


def _due(state: State, timer: TimerRow) -> None:
    """Handle the timer at the end of a limit state, a halt or a call."""
    product, found = state.products[timer.subject], state.records["interruption"].get(timer.subject)
    assert found is not None, "a timer without an interruption"
    row = product.controls
    if found.limit_side and not limit_states.is_in(product, found.limit_side):
        limit_states.end(state, product)  # the last order at the collar expired by now
        return
    if found.limit_side:
        assert row is not None, "a limit state without limits"
        _interrupt(state, product, row)
        return
    if row is not None and found.halted and row.call_ns:
        _call(state, product, row, found.resume)
        return
    if row is not None and not found.halted and found.extensions < row.extensions_max:
        indication = auctions.look(state, product)
        low, high = collars.bounds(product, 2)
        if indication.size and not low <= indication.price <= high:
            until = _end(state, product, row)
            _put(state, msgspec.structs.replace(found, ends_at=until, extensions=found.extensions + 1))
            price, size, surplus, *_ = indication
            product.until = state.time + row.call_ns
            auction_indicated(state, product, price, size, surplus, product.until, True)
            return
    end(state, product)
    statuses.change(state, product, found.resume, StatusCause.COLLAR)


timers.HANDLERS[Timer.INTERRUPTION] = _due
