"""The rejection of a command."""

from __future__ import annotations

from typing import NamedTuple

from statemachine.types import Reason


class Reject(NamedTuple):
    """The rejection of a command: the reason, the invalid field, and what was expected (numbers in smallest units)."""

    reason: Reason
    field: str
    detail: str
