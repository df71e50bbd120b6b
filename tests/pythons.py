"""Checks that all supported Pythons compute the same state: `python -m tests.pythons` runs every one that is installed.

Each applies a fixed corpus of commands with the plain core. The running hash and the hash over all tables are compared.
The second detects what the first cannot: rows that differ although commands, outcomes and events are equal. Each Python
gets a temporary environment with the packages that the state machine and the corpus need. Exit code 1 if hashes differ,
2 if fewer than two Pythons could run it. `python -m tests.pythons --here` prints the hashes of this Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
PACKAGES = ("msgspec", "sortedcontainers", "hypothesis")
NETWORKS = "::ffff:1.2.3.0/120,2001:DB8:0:0:1::/80,192.0.2.0/24,::/0,1::,198.51.100.7"


def hashes() -> str:
    """Return the running hash and the full hash after the corpus."""
    from statemachine.commands import Batch, PutApiKey
    from statemachine.engine import Engine
    from statemachine.limits import OPERATOR
    from tests.property.worlds import auction_command, busy_command, foundations

    engine, random, second = Engine(), Random(17), 10**9
    engine.apply(Batch(second, foundations((1_000, 3_000), 50_000)))
    engine.apply(Batch(2 * second, [PutApiKey(OPERATOR, "key", "key", "ann", "c2VjcmV0", "pass", 31, NETWORKS)]))
    for number in range(2_000):
        command = (busy_command if number % 400 < 300 else auction_command)(random, number)
        engine.apply(Batch((number + 3) * second, [command]))
    engine.check()
    again = Engine.restore(dict(engine.tables()))
    assert again.full_hash() == engine.full_hash()
    return f"{engine.state_hash.hex()} {engine.full_hash().hex()}"


def locked() -> list[str]:
    """Return the packages in their locked versions."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = [re.search(rf"^{name}==[^ \\]+", text, re.MULTILINE) for name in PACKAGES]
    return [match.group() for match in found if match is not None]


def interpreter(version: str) -> str | None:
    """Return a Python of this version, on the path or among pyenv's."""
    for name in sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python{version}")):
        return str(name)
    return shutil.which(f"python{version}")


def ask(python: str, directory: Path) -> str:
    """Return the hashes that a Python computes.

    Raises:
        subprocess.CalledProcessError: it could not run; its output gives the reason.
    """
    environment = {**os.environ, "QUORUMBOOK_CORE": "plain", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    own = str(directory / "bin" / "python")
    for command in (
        [python, "-m", "venv", str(directory)],
        [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *locked()],
        [own, "-m", "tests.pythons", "--here"],
    ):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> int:
    """Run the program. Returns its exit code."""
    if sys.argv[1:] == ["--here"]:
        sys.stdout.write(f"{hashes()}\n")
        return 0
    found: dict[str, str] = {}
    for version in VERSIONS:
        python = interpreter(version)
        if python is None:
            sys.stdout.write(f"{version}: not here\n")
            continue
        with tempfile.TemporaryDirectory() as directory:
            try:
                found[version] = ask(python, Path(directory))
            except subprocess.CalledProcessError as error:
                sys.stdout.write(f"{version}: could not be asked: {(error.stderr or error.stdout).strip()[-300:]}\n")
                continue
        sys.stdout.write(f"{version}: {found[version]}\n")
    if len(set(found.values())) > 1:
        sys.stdout.write("they differ\n")
        return 1
    return 0 if len(found) > 1 else 2


if __name__ == "__main__":
    sys.exit(main())
