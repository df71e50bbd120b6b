"""What users write of an order's stop and of its time to live, and what it means to the engine."""

from __future__ import annotations

from statemachine.limits import CANCEL_AFTER_MAX
from statemachine.types import Side, StopType

STOPS = {"loss": StopType.LOSS, "entry": StopType.ENTRY}
PERIODS = {"min": 60, "hour": 3_600, "day": 86_400}
"""Seconds of the periods that have a name."""
SECOND = 1_000_000_000
SECONDS_MAX = CANCEL_AFTER_MAX // SECOND
PERIOD_EXPECTED = f"one of {', '.join(PERIODS)}, or a number of seconds from 1 to {SECONDS_MAX}"
_USUAL_STOPS = {Side.BUY: StopType.ENTRY, Side.SELL: StopType.LOSS}


def stop_type(name: str | None, side: Side) -> StopType:
    """The kind of stop that is named, or else what a stop price usually means: buy when the price has risen to it, sell when it has fallen to it.

    Raises:
        KeyError: there is no such kind.
    """
    return STOPS[name] if name is not None else _USUAL_STOPS[side]


def lifetime(text: str) -> int:
    """The nanoseconds that a `cancel_after` stands for: the name of a period, or a number of seconds.

    Raises:
        ValueError: neither; the message says what is expected.
    """
    seconds = PERIODS.get(text, 0)
    if not seconds and text.isascii() and text.isdigit() and len(text) <= len(str(SECONDS_MAX)):
        seconds = int(text)
    if not 1 <= seconds <= SECONDS_MAX:
        raise ValueError(f"must be {PERIOD_EXPECTED}")
    return seconds * SECOND
