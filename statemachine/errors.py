"""The exceptions of this package.

    StateMachineError
    ├── StateError               tables from which no engine can be rebuilt
    └── decimals.DecimalError    text that is not an amount (also a ValueError)

A command that cannot be executed is answered with a `Rejected`, not an exception. A broken invariant raises an
`AssertionError`.
"""

from __future__ import annotations


class StateMachineError(Exception):
    """The base of all exceptions of this package."""


class StateError(StateMachineError):
    """Tables are damaged, incomplete or contradictory. The text names the row and what was expected."""
