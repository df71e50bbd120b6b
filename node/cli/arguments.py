"""Types of arguments, with bounds: what does not fit is a wrong command line, never an exception."""

from __future__ import annotations

import math
from typing import Any

import click

from statemachine.limits import SECOND_NS

INT64_MAX = 2**63 - 1
COUNT = click.IntRange(0, INT64_MAX)
"""A count or an id: a number that a command of the exchange can hold."""
WHOLE_SECONDS = click.IntRange(0, INT64_MAX // SECOND_NS)
"""A duration of the exchange, which stores nanoseconds."""


def above_zero(units: int, option: str, omitted: str = "") -> int:
    """Return the amount that an option gives. It must not be 0, because 0 in a command means that there is no amount.

    Args:
        omitted: a sentence of the error that says how to give no amount, after a space.

    Raises:
        click.UsageError: it is 0.
    """
    if not units:
        raise click.UsageError(f"--{option}: expected more than 0.{omitted}")
    return units


class Finite(click.FloatRange):
    """A number within bounds. Not NaN, which compares with no bound, and not infinity, for which no clock can wait."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Raises click.BadParameter."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, not {value!r}", param, ctx)
        return float(number)
