"""The exceptions of a load test.

LoadTestError
├── SetupRefusedError    the exchange refused a product, account, key or deposit of the test
├── WrongAnswerError     the exchange answered a request with something that cannot be right
├── RecordError          a record of requests and answers cannot be read
└── DeadlineError        a condition that was waited for did not come about in time
"""

from __future__ import annotations


class LoadTestError(Exception):
    """The base of all exceptions of this package."""


class SetupRefusedError(LoadTestError):
    """The exchange refused a product, account, key or deposit that the test needs; the text names it."""


class WrongAnswerError(LoadTestError):
    """The exchange answered with something that cannot be right; the text says what and for which command."""


class RecordError(LoadTestError):
    """A record of requests and answers cannot be read; the text names file and line."""


class DeadlineError(LoadTestError):
    """A condition did not come about in time; the text says which one and what was seen instead."""
