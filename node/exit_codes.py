"""The exit codes of a node's processes and of the command line. Each has one meaning; docs/operations.md says what to
do.
"""

from __future__ import annotations

FAILED = 1
"""Command line: rejected, or not possible at present. A gateway or a history: an error that may be temporary, so the
supervisor restarts it.
"""

CANNOT_START = 2
"""A person has to act, because a restart does not help: configuration, port, or a damaged or foreign data directory,
log or snapshot. Nothing was changed. Command line: invalid arguments.
"""

NOT_MIGRATED = 3
"""Data of another version could not be migrated. It is intact, and the version that wrote it can start on it."""

REMOVED = 4
"""The cluster has removed the node."""

TOO_OLD = 5
"""The cluster runs at a level that this node's software does not know. The node's data is intact, and a later version
can continue with it.
"""

UNAVAILABLE = 69
"""Command line: no node or no leader answered; nothing was applied."""

IN_DOUBT = 70
"""A running node must not continue, because its state or its disk is in doubt, or the disk is full."""

ORPHANED = 71
"""The supervisor of the process has ended. Nobody waits for the process."""

UNKNOWN = 75
"""Command line: it is not known yet whether the command was applied."""
