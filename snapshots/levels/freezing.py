"""Freezes a release's core: the sources of `statemachine` as one archive, importable beside the present core under a
name of its own.

    python -m snapshots.levels.freezing 0.3.0                       this tree's, at the release
    python -m snapshots.levels.freezing 0.2.0 --source DIRECTORY    the `statemachine` directory of an earlier release

A node of a later version runs this very code for each entry that was written at the release's level. So outcomes,
texts, hashes and snapshots are those of the release by construction. Nothing in an archive is ever changed; a test
compares each with its digest in `level.py`.

The archive has the plain sources. The sources of the compiled core are left out: both cores give the same results, and
the archive must work without a compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import zipfile
from pathlib import Path

RELEASED = Path(__file__).with_name("released")
PACKAGE = "snapshots.levels.released"

_IMPORT = re.compile(r"^(\s*(?:from|import) )statemachine\b", re.MULTILINE)
_WHEN = (1980, 1, 1, 0, 0, 0)
"""The time of every file, so that the same sources give the same archive."""

_INIT = '"""The core of version {version}, frozen."""\n\nCORE = "plain"\n'


def archive_path(version: str) -> Path:
    """Return the path of a release's archive."""
    return RELEASED / f"core-{version}.zip"


def package_name(version: str) -> str:
    """Return the name under which a frozen core is imported."""
    return f"core_{version.replace('.', '_')}"


def frozen_source(text: str, version: str) -> str:
    """Return a module's text with its imports of `statemachine` under the frozen name."""
    return _IMPORT.sub(rf"\g<1>{PACKAGE}.{package_name(version)}", text)


def freeze(source: Path, version: str, target: Path) -> str:
    """Write the archive of the core in `source`; its SHA-256 in hex.

    Raises:
        OSError: the sources cannot be read, or the archive cannot be written.
    """
    modules = sorted(path for path in source.glob("*.py") if path.name not in ("__init__.py", "core.py"))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, f"{package_name(version)}/__init__.py", _INIT.format(version=version))
        for path in modules:
            _add(archive, f"{package_name(version)}/{path.name}", frozen_source(path.read_text(), version))
    return digest(target)


def digest(path: Path) -> str:
    """Return the SHA-256 of an archive, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _add(archive: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name, _WHEN)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, text)


def main() -> int:
    """Run the program. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m snapshots.levels.freezing", description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[2] / "statemachine")
    options = parser.parse_args()
    path = archive_path(options.version)
    if path.exists():
        sys.stderr.write(f"error: {path} exists, and a frozen core never changes\n")
        return 1
    sys.stdout.write(f"{path}: {freeze(options.source, options.version, path)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
