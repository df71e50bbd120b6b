"""The descriptions of all released ABIs, one file each: `released/<first version>-<abi>.json`. Never edited, never
removed.

`python -m snapshots.abi.releases VERSION` adds that of this software.
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
        directory: where the descriptions lie; `DIRECTORY` unless named.
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
        """All ABIs, oldest first."""
        return list(self._schemas)

    def schema(self, abi: str) -> Schema:
        """A schema by its ABI, or the first digits of it.

        Raises:
            UnknownAbiError: there is none, or several begin so.
        """
        found = [known for known in self._schemas if known == abi or (len(abi) >= ABI_PREFIX_MIN and known.startswith(abi))]
        if len(found) != 1:
            raise UnknownAbiError(abi, [self.title(known) for known in self._schemas])
        return self._schemas[found[0]]

    def title(self, abi: str) -> str:
        """An ABI with the version that brought it, for a person."""
        if abi in self.versions:
            return f"{abi} (version {self.versions[abi]})"
        return f"{abi} (this software)" if abi == self.current else abi


def _descriptions(directory: Path) -> list[tuple[str, str, Path]]:
    """Version, ABI and file, by version."""
    found = [(match, path) for path in directory.glob("*.json") if (match := _NAME.fullmatch(path.name)) is not None]
    found.sort(key=lambda item: [int(part) for part in item[0].group(1).split(".")])
    return [(match.group(1), match.group(2), path) for match, path in found]


def release(version: str, directory: Path = DIRECTORY) -> Path | None:
    """Keep the description of this software as that of `version`; None if an earlier version has the same."""
    if SCHEMA.abi in Releases(directory).versions:
        return None
    path = directory / f"{version}-{SCHEMA.abi}.json"
    path.write_bytes(SCHEMA.encode())
    return path


def main() -> int:
    """The program. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m snapshots.abi.releases", description=__doc__)
    parser.add_argument("version")
    path = release(parser.parse_args().version)
    sys.stdout.write(f"{path or 'an earlier version has this ABI already'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
