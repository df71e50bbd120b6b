"""How far a node's engine has come in its life: named, logged, and told in its status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

log = logging.getLogger(__name__)


class Mode(StrEnum):
    """The steps of an engine's life, in order. Commands are only taken in `READY`."""

    STARTED = "Started"
    """The process runs and has read its configuration. Data of another version is migrated now."""
    BOOTSTRAPPING = "Bootstrapping"
    """It reads the newest snapshot and the log."""
    INITIALISING = "Initialising"
    """It speaks with the other nodes, applies what it has missed and, on the first leader of a cluster, loads the
    dataset.
    """
    READY = "Ready"
    """It has caught up with a leader, or leads. Also while no leader is known later on: the status says that apart."""
    UNLOAD = "Unload"
    """It was told to stop: it refuses commands, finishes those under way, and has another node lead."""
    UNLOADING = "Unloading"
    """It writes its last snapshot."""
    CLOSED = "Closed"
    """Everything is written; sessions are closed."""
    SHUTDOWN = "Shutdown"
    """The process ends."""


class Modes:
    """The mode that one engine is in. Going back is a defect.

    Args:
        note: told each mode, for those who ask while the engine cannot answer.
    """

    def __init__(self, node_id: str, note: Callable[[str], object] = lambda _mode: None) -> None:
        self._node_id = node_id
        self._note = note
        self.current = Mode.STARTED
        self._tell()

    def enter(self, mode: Mode) -> None:
        """Go on to a later mode; the one it is in already changes nothing."""
        order = list(Mode)
        assert order.index(mode) >= order.index(self.current), f"from {self.current} to {mode}"
        if mode is not self.current:
            self.current = mode
            self._tell()

    def _tell(self) -> None:
        log.info("%s mode %s", self._node_id, self.current)
        self._note(self.current)
