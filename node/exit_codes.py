"""The exit codes of a node's processes and of the command line. Each has one meaning; docs/operations.md says what to
do.
"""

from __future__ import annotations

FAILED = 1
"""Command line: refused, or not possible as things are. A gateway or a history: an error that may pass; the supervisor
starts it again.
"""

CANNOT_START = 2
"""A person has to look, a restart does not help: configuration, port, a damaged or foreign data directory, log or
snapshot. Nothing was changed. Command line: a wrong command line."""

NOT_MIGRATED = 3
"""Data of another version could not be migrated. It is sound and as it was: the version that wrote it can start on it."""

REMOVED = 4
"""The cluster has removed the node."""

TOO_OLD = 5
"""The cluster has gone on to a level that this node's software does not know. Its data is sound: a later version goes
on with it.
"""

UNAVAILABLE = 69
"""Command line: no node or no leader answered; nothing was applied."""

IN_DOUBT = 70
"""A running node must not go on: its state or its disk is in doubt, or the disk is full."""

ORPHANED = 71
"""A process whose supervisor is gone. Nobody waits for it."""

UNKNOWN = 75
"""Command line: whether the command was applied is not known yet."""
