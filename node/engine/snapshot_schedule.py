"""When a node takes snapshots: after so many commands, after so much time with commands in it, or so many bytes of log.

The bytes, and a bound on log entries that carry no commands, are counted where the log is (`cluster.settings`).
"""

from __future__ import annotations

from node.config.settings import NodeConfig


def staggered(value: int, config: NodeConfig) -> int:
    """From the configured number up to half as much again, each node another.

    A node pauses while its state is frozen. If all did so at the same entry, nobody would be left to lead.
    """
    rank = [node.node_id for node in config.nodes].index(config.node_id)
    return value + value * rank // (2 * len(config.nodes))


class SnapshotSchedule:
    """Knows when the next snapshot is due."""

    def __init__(self, config: NodeConfig) -> None:
        self._commands = staggered(config.snapshot.every_commands, config)
        self._seconds = config.snapshot.every_seconds

    def due(self, commands: int, seconds: float) -> bool:
        """Whether a snapshot is due `commands` applied commands and `seconds` after the latest, or after the start."""
        return commands >= self._commands or (0 < self._seconds <= seconds and commands > 0)
