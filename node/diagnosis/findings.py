"""The result of one check: how bad it is, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import msgspec


class Severity(IntEnum):
    """The severity of a finding. The value is the exit code of `quorumbook doctor` and `quorumbook check`, as Nagios
    defines it.
    """

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3
    """The check could not be made."""


class Finding(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        node_id: the node, or "" for the whole cluster.
        check: the check's name.
        text: what was found.
        advice: what to do, or "".
        figures: numbers for a monitoring system, by name with their unit.
    """

    level: Severity
    node_id: str
    check: str
    text: str
    advice: str = ""
    figures: dict[str, float] = {}


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the worst level. CRITICAL is worse than UNKNOWN, and UNKNOWN is worse than WARNING."""
    order = (Severity.CRITICAL, Severity.UNKNOWN, Severity.WARNING)
    levels = {finding.level for finding in findings}
    return next((level for level in order if level in levels), Severity.OK)
