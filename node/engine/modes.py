"""The modes of a node's engine from start to end. They are logged and shown in the status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

log = logging.getLogger(__name__)


class Mode(StrEnum):
    """The modes of an engine, in order. It accepts commands only in `READY`."""

    STARTED = "Started"
    """The process runs and has read its configuration. Data of another version is migrated now."""
    BOOTSTRAPPING = "Bootstrapping"
    """It reads the newest snapshot and the log."""
    INITIALISING = "Initialising"
    """It connects to the other nodes and applies missing entries. The first leader of a cluster also loads the dataset.
    """
    READY = "Ready"
    """It has caught up with a leader, or leads. It stays in this mode when the leader is lost later; the status shows
    the leader separately.
    """
    UNLOAD = "Unload"
    """It is stopping: it refuses new commands, finishes pending ones, and transfers leadership to another node."""
    UNLOADING = "Unloading"
    """It writes its last snapshot."""
    CLOSED = "Closed"
    """All data is written; sessions are being closed."""
    SHUTDOWN = "Shutdown"
    """The process ends."""


class Modes:
    """The current mode of one engine. A change to an earlier mode is a defect.

    Args:
        note: called with each mode, so that it can be read while the engine cannot answer.
    """

    def __init__(self, node_id: str, note: Callable[[str], object] = lambda _mode: None) -> None:
        self._node_id = node_id
        self._note = note
        self.current = Mode.STARTED
        self._tell()

    def enter(self, mode: Mode) -> None:
        """Change to a later mode. The current mode has no effect."""
        order = list(Mode)
        assert order.index(mode) >= order.index(self.current), f"from {self.current} to {mode}"
        if mode is not self.current:
            self.current = mode
            self._tell()

    def _tell(self) -> None:
        log.info("%s mode %s", self._node_id, self.current)
        self._note(self.current)
