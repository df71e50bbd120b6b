"""Gives a Python process the releases of an earlier time, or another ABI. Python loads this module in a process that has this
directory in PYTHONPATH.

`EARLIER_RELEASES` names a directory with the descriptions of `tests.unit.snapshots.versions`, from which this software
then has a chain of migrations. `OTHER_ABI` replaces the software's own ABI.
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
