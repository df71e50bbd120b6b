"""Recorded order flow. It is not part of this repository; tests read it from a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

RECORDINGS = Path(os.environ.get("QUORUMBOOK_DATA") or Path(__file__).resolve().parents[1] / "../shared/data")
"""The directory with the recordings; the environment variable QUORUMBOOK_DATA names another one."""

needs_recordings = pytest.mark.skipif(
    not (RECORDINGS / "aapl_2012-06-21_ops.csv.gz").exists(),
    reason=f"no recorded order flow in {RECORDINGS}; QUORUMBOOK_DATA may name its directory",
)
