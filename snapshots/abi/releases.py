"""The descriptions of all released ABIs, one file each: `released/<first version>-<abi>.json`. A file is never edited
or removed.

`python -m snapshots.abi.releases VERSION` adds the description of this software.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from snapshots.abi import SCHEMA
from snapshots.abi.schema import Schema, decode_schema
from snapshots.errors import UnknownAbiError

DIRECTORY = Path(__file__).with_name("released")
_NAME = re.compile(r"([0-9]+(?:\.[0-9]+)*)-([0-9a-f]{40})\.json")
ABI_PREFIX_MIN = 6


class Releases:
    """The known schemas, oldest first: those released, then this software's if it is none of them.

    Args:
        directory: of the descriptions; by default `DIRECTORY`.
        current: the schema of this software.

    Raises:
        ValueError: a description is not what its name says.
    """

    def __init__(self, directory: Path | None = None, current: Schema = SCHEMA) -> None:
        self.current = current.abi
        self.versions: dict[str, str] = {}
        self._schemas: dict[str, Schema] = {}
        for version, abi, path in _descriptions(directory or DIRECTORY):
            schema = decode_schema(path.read_bytes())
            if schema.abi != abi:
                raise ValueError(f"{path}: was edited: its ABI is {schema.abi}. A released description never changes")
            self._schemas[abi] = schema
            self.versions[abi] = version
        self._schemas.setdefault(self.current, current)

    @property
    def abis(self) -> list[str]:
        """Return all ABIs, oldest first."""
        return list(self._schemas)

    def schema(self, abi: str) -> Schema:
        """Return a schema by its ABI, or by the first digits of it.

        Raises:
            UnknownAbiError: no ABI begins with the digits, or several do.
        """
        found = [known for known in self._schemas if known == abi or (len(abi) >= ABI_PREFIX_MIN and known.startswith(abi))]
        if len(found) != 1:
            raise UnknownAbiError(abi, [self.title(known) for known in self._schemas])
        return self._schemas[found[0]]

    def title(self, abi: str) -> str:
        """Return an ABI with its first version, for a person."""
        if abi in self.versions:
            return f"{abi} (version {self.versions[abi]})"
        return f"{abi} (this software)" if abi == self.current else abi


def _descriptions(directory: Path) -> list[tuple[str, str, Path]]:
    """Return the version, ABI and file, by version."""
    found = [(match, path) for path in directory.glob("*.json") if (match := _NAME.fullmatch(path.name)) is not None]
    found.sort(key=lambda item: [int(part) for part in item[0].group(1).split(".")])
    return [(match.group(1), match.group(2), path) for match, path in found]


def release(version: str, directory: Path = DIRECTORY) -> Path | None:
    """Write the description of this software as that of `version`. Returns None if an earlier version has the same."""
    if SCHEMA.abi in Releases(directory).versions:
        return None
    path = directory / f"{version}-{SCHEMA.abi}.json"
    path.write_bytes(SCHEMA.encode())
    return path


def main() -> int:
    """Run the program. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m snapshots.abi.releases", description=__doc__)
    parser.add_argument("version")
    path = release(parser.parse_args().version)
    sys.stdout.write(f"{path or 'an earlier version has this ABI already'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
