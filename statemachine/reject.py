"""Why a command is not carried out."""

from __future__ import annotations

from typing import NamedTuple

from statemachine.types import Reason


class Reject(NamedTuple):
    """Why a command is not carried out: the reason, the field at fault, what was expected (numbers in smallest units)."""

    reason: Reason
    field: str
    detail: str
