"""Volatility interruptions: the price collar stops continuous trading, an auction is called, and it opens by itself.

- The order that would have traded outside the collar keeps what it traded up to it. What is left of it is collected, if
  it may rest and would not meet its own account's orders; else it leaves.
- `CollarAction.HALT` halts first: for `halt_ns` orders can only be cancelled. Then the call begins, or at once with
  `CollarAction.AUCTION`.
- The call takes `call_ns`, and up to `random_ns` more by chance (`chance`). When it ends while the price that the
  auction would open at is more than twice as far from the reference as the collar allows, it is extended by as much
  again, at most `extensions_max` times; then it opens.
- Then the product goes on in the status that it had. A status that the operator sets, or a phase that its calendar
  begins, ends the interruption.

Times are those of the log. Where it jumps, an interruption that is over by then ends with the entry that finds it so.

Sources: Xetra, "Protective mechanisms in continuous trading" (random end, extended interruption, and a scheduled
auction that takes over); the Plan to Address Extraordinary Market Volatility (limit up, limit down) for a halt of a
fixed time before the reopening. That plan's limit state of 15 seconds is not here.
"""

from __future__ import annotations

import msgspec

from statemachine import auctions, collars, statuses, timers
from statemachine.chance import draw
from statemachine.emit import auction_indicated
from statemachine.entities import Order, Product
from statemachine.matching import close
from statemachine.state import State
from statemachine.tables import InterruptionRow, ProductLimitsRow, TimerRow
from statemachine.types import CollarAction, DoneReason, ProductStatus, StatusCause, TimeInForce, Timer
from statemachine.validation import can_rest

_COLLARED: int = DoneReason.COLLARED


def interrupt(state: State, product: Product, order: Order) -> None:
    """An order that is on no book would trade outside the collar now: it leaves or is collected, and trading is
    interrupted if the limits say so."""
    row = product.controls
    assert row is not None, "the product has limits"
    interrupts = row.action != CollarAction.REJECT and order.time_in_force != TimeInForce.FOK
    collected = (
        interrupts
        and not order.stop
        and can_rest(order.order_type, order.time_in_force)
        and not auctions.crosses_own(state, order.account, product, order.side, order.price)
    )
    if collected:
        state.wait(order)
        auctions.add(state, product, order)
    else:
        close(state, product, order, _COLLARED, False)
    if not interrupts:
        return
    resume = product.status
    if row.action == CollarAction.HALT:
        until = state.time + row.halt_ns
        _put(state, InterruptionRow(product.product_id, ProductStatus(resume), True, until))
        statuses.interrupt(state, product, ProductStatus.CANCEL_ONLY, until)
    else:
        _call(state, product, row, ProductStatus(resume))


def _call(state: State, product: Product, row: ProductLimitsRow, resume: ProductStatus) -> None:
    """The call of the auction begins."""
    earliest = state.time + row.call_ns
    _put(state, InterruptionRow(product.product_id, resume, False, _end(state, product, row)))
    statuses.interrupt(state, product, ProductStatus.AUCTION, earliest)


def _end(state: State, product: Product, row: ProductLimitsRow) -> int:
    return state.time + row.call_ns + draw(state, f"call {product.product_id} {product.sequence}", row.random_ns)


def _put(state: State, row: InterruptionRow) -> None:
    state.records["interruption"].put(row)
    timers.put(state, Timer.INTERRUPTION, row.product_id, "", row.ends_at)


def end(state: State, product: Product) -> None:
    """The interruption of the product, if there is one, is over: somebody else says what comes."""
    if state.records["interruption"].get(product.product_id) is not None:
        state.records["interruption"].remove(product.product_id)
        timers.remove(state, Timer.INTERRUPTION, product.product_id, "")


def _due(state: State, timer: TimerRow) -> None:
    """The time has come that a halt or a call was to last."""
    product, found = state.products[timer.subject], state.records["interruption"].get(timer.subject)
    assert found is not None, "a timer without an interruption"
    row = product.controls
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
