"""Exact arithmetic with products that do not fit 64 bits.

Every stored number fits 64 bits, but a price times a size does not. Python's integers have no bound. The compiled core
uses 64 bits, and 128 bits in this module: the type `wide` of `exact.pxd`.
"""

from __future__ import annotations

from statemachine.limits import EXECUTED_MAX, PPM

_PPM = PPM
_EXECUTED_MAX = EXECUTED_MAX


def notional(price: int, size: int, unit: int) -> int:
    """Return the notional of `size` at `price`: `price * size // unit`. At most 128 bits."""
    return price * size // unit


def fee(notional: int, ppm: int, credit: int) -> int:
    """Return the fee on a notional at a rate in parts per million, less `credit`, rounded up. `credit` is what was paid
    before above the exact rate, in millionths of a unit.
    """
    return (notional * ppm + (_PPM - 1 - credit)) // _PPM


def credit_after(notional: int, ppm: int, credit: int, paid: int) -> int:
    """Return the credit after a `fee` was paid: from 0 to a millionth less than one unit."""
    return credit + paid * _PPM - notional * ppm


def most_lots(budget: int, lot_cost: int, ppm: int, credit: int) -> int:
    """Return the most lots n with `n * lot_cost + fee(n * lot_cost, ppm, credit) <= budget`. At most 128 bits."""
    return (budget * _PPM + credit) // (lot_cost * (_PPM + ppm))


def executed(so_far: int, notional: int) -> int:
    """Return the sum of an order's notionals, up to `limits.EXECUTED_MAX`."""
    total = so_far + notional
    return total if total < _EXECUTED_MAX else _EXECUTED_MAX
