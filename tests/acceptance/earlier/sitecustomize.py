"""Gives a Python process a past, or another ABI. Python loads this by itself in a process that has this directory in
PYTHONPATH.

`EARLIER_RELEASES` names a directory with the descriptions of `tests.unit.snapshots.versions`, from which this software
then knows the way here. `OTHER_ABI` is what the software believes its ABI to be.
"""

from __future__ import annotations

import os
from pathlib import Path

if "EARLIER_RELEASES" in os.environ:
    from snapshots.abi import releases
    from snapshots.migration import chain
    from tests.unit.snapshots.versions import FORWARD

    releases.DIRECTORY = Path(os.environ["EARLIER_RELEASES"])
    written = chain.written_migrations()
    chain.written_migrations = lambda: {**written, **FORWARD}

if "OTHER_ABI" in os.environ:
    import snapshots.abi

    snapshots.abi.ABI = os.environ["OTHER_ABI"]
