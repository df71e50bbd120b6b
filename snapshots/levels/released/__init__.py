"""The frozen cores of released versions: the package `core_X_Y_Z` is that of version X.Y.Z, read from the archive
beside this file.
"""

from __future__ import annotations

from pathlib import Path

__path__.extend(str(path) for path in sorted(Path(__file__).parent.glob("core-*.zip")))
