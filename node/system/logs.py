"""Logging of a node's processes: one line an event, UTC, on standard error, where the supervisor's own lines go."""

from __future__ import annotations

import logging
import sys
import time


class _LineFormatter(logging.Formatter):
    """ "2026-01-31T12:00:00.123Z n1 engine INFO cluster.raft text", a traceback folded into the same line."""

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        name = process.replace("%", "%%")
        super().__init__(f"%(asctime)s.%(msecs)03dZ {name} %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", " | ")


def set_up(level: str, process: str) -> None:
    """Log from `level` ("debug", "info" ...) on. `process` names node and process in every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
