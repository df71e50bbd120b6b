"""The exceptions of a chaos run.

ChaosError
├── NotPossibleError    this machine cannot make the fault
├── CommandFailedError  a program of the system that the run needs has failed
└── UnsafeError         a node did what it must not
"""

from __future__ import annotations


class ChaosError(Exception):
    """Root of the errors of this package."""


class NotPossibleError(ChaosError):
    """This machine cannot make the fault (no root, a tool or a part of the kernel is missing); the text says which."""


class CommandFailedError(ChaosError):
    """A program of the system has failed. The text has its command line and its output."""


class UnsafeError(ChaosError):
    """A node did what it must not, such as starting on a damaged file; the text says what."""
