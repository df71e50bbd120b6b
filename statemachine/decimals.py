"""Conversion between decimal text and integers. It is exact both ways and uses no float.

A currency of scale s has 10**s smallest units. `to_units("1.5", 8, "size")` is 150_000_000, `to_text(150_000_000, 8)`
is "1.5".
"""

from __future__ import annotations

import re
from enum import Enum

from statemachine.errors import StateMachineError
from statemachine.limits import AMOUNT_MAX

TEXT_MAX = 64
"""Characters of a decimal: the largest amount with the most digits takes fewer than 40."""

_PLAIN = re.compile(r"(?P<sign>-?)(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?")


class DecimalFault(Enum):
    """The kinds of invalid decimals."""

    NOT_PLAIN = "not plain"
    """The text is not digits with at most one point between them: it is empty or has an exponent, a sign, NaN or
    spaces.
    """
    NEGATIVE = "negative"
    TOO_PRECISE = "too precise"
    """The text has more digits after the point than the scale."""
    TOO_LARGE = "too large"


class DecimalError(StateMachineError, ValueError):
    """Text that is not an amount. The message names the field and what was expected.

    Attributes:
        field: the field, as the caller named it.
        fault: the kind of error.
        expected: what a valid text would be.
    """

    def __init__(self, field: str, fault: DecimalFault, expected: str) -> None:
        super().__init__(f"{field}: {expected}")
        self.field = field
        self.fault = fault
        self.expected = expected


def _shown(text: str) -> str:
    """Return `text` for a message: quoted, and cut where it is long."""
    return repr(text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "...")


def to_units(text: str, scale: int, field: str, largest: int = AMOUNT_MAX) -> int:
    """Return the number of smallest units, 10**-`scale` each, that plain decimal `text` stands for.

    Zeros at the end of the fraction do not count as digits: "1.500" has one.

    Raises:
        DecimalError: not a plain decimal, negative, too many digits after the point, or more than `largest` units.
    """
    match = _PLAIN.fullmatch(text) if len(text) <= TEXT_MAX else None
    if match is None:
        raise DecimalError(field, DecimalFault.NOT_PLAIN, f"expected a plain decimal such as 12.5, not {_shown(text)}")
    if match["sign"]:
        raise DecimalError(field, DecimalFault.NEGATIVE, f"expected a number that is not negative, not {_shown(text)}")
    fraction = (match["fraction"] or "").rstrip("0")
    if len(fraction) > scale:
        digits = f"at most {scale} digits" if scale != 1 else "at most 1 digit"
        raise DecimalError(field, DecimalFault.TOO_PRECISE, f"expected {digits} after the decimal point, not {_shown(text)}")
    units = int(match["whole"] + fraction.ljust(scale, "0"))
    if units > largest:
        raise DecimalError(field, DecimalFault.TOO_LARGE, f"expected at most {to_text(largest, scale)}, not {_shown(text)}")
    return units


def signed_units(text: str, scale: int, field: str) -> int:
    """Convert a number that may have a minus sign; otherwise like `to_units`."""
    return -to_units(text[1:], scale, field) if text.startswith("-") else to_units(text, scale, field)


def to_text(units: int, scale: int) -> str:
    """Write `units` of 10**-`scale` as the shortest plain decimal: no exponent, no zeros at the end of the fraction."""
    sign, digits = ("-" if units < 0 else ""), str(abs(units)).rjust(scale + 1, "0")
    if scale == 0:
        return sign + digits
    whole, fraction = digits[:-scale], digits[-scale:].rstrip("0")
    return f"{sign}{whole}.{fraction}" if fraction else sign + whole
