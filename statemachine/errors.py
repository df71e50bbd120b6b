"""What can go wrong outside of commands, as one tree.

    StateMachineError
    ├── StateError               tables from which no engine can be rebuilt
    └── decimals.DecimalError    text that is not an amount (also a ValueError)

A command that cannot be carried out is no exception but a `Rejected`; a broken invariant is an `AssertionError`.
"""

from __future__ import annotations


class StateMachineError(Exception):
    """What every error of this package is."""


class StateError(StateMachineError):
    """Tables are damaged, incomplete or contradict each other; the text says which row and what was expected."""
