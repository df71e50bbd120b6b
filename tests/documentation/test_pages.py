"""README.md and docs/operations.md work as printed: all their commands, in order, in a fresh clone.

Each page has a clone, a home and a network of its own (so that the usual ports are free), and the environment that
`make setup` would have made.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.deployment.local_cluster import LocalCluster
from tests.documentation.pages import ROOT, RUN, blocks
from tests.tree import copy_tree

pytestmark = pytest.mark.cluster

SECONDS = 900.0
"""For all commands of a page. On a quiet machine they take less than two minutes; other work on the machine stretches
that.
"""

MADE = ("installed", "core")
"""What `make setup` leaves in .venv when it is done."""

ISOLATED = ("unshare", "--net", "--map-root-user")
PREAMBLE = "set -euo pipefail\nip link set lo up\n"


def clone(place: Path) -> Path:
    """Copy what git has of this tree, with changes that are not committed, and an environment that needs no setup."""
    copy_tree(place)
    subprocess.run(["git", "init", "--quiet"], cwd=place, check=True)
    prefix = Path(sys.prefix)
    environment = place / ".venv"
    environment.mkdir()
    for entry in prefix.iterdir():
        if entry.name not in MADE:
            (environment / entry.name).symlink_to(entry)
    for package in ("statemachine", "node"):
        if (ROOT / package / "_compiled").is_dir():
            shutil.copytree(ROOT / package / "_compiled", place / package / "_compiled")
    for name in MADE:
        (environment / name).touch()
    return place


def can_isolate() -> bool:
    """Return whether this machine allows a network namespace."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    done = subprocess.run([*ISOLATED, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """Make a clone. What the page left running in it is killed at the end."""
    place = clone(tmp_path / "quorumbook")
    try:
        yield place
    finally:
        for path in tmp_path.rglob("ca.pem"):
            if any(path.parent.glob("*/node.toml")):
                cluster = LocalCluster(path.parent)
                for node_id in cluster.layout.configs:
                    cluster.kill(node_id, signal.SIGKILL)


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("page", RUN)
def test_a_page_works_as_printed(page: str, checkout: Path, tmp_path: Path) -> None:
    if not can_isolate():
        pytest.skip("needs util-linux's unshare, iproute2's ip and the right to a network namespace, since pages use fixed ports")
    script = PREAMBLE + "\n".join(
        f"echo '===== {block.page}:{block.line}' >&2\n{block.commands}"
        for block in blocks(page)
        if block.commands and not block.not_run
    )
    (tmp_path / "home").mkdir()
    (tmp_path / "page.sh").write_text(script)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    with (tmp_path / "output_file").open("wb") as output_file:
        process = subprocess.Popen(
            [*ISOLATED, "bash", str(tmp_path / "page.sh")],
            cwd=checkout,
            env={**kept, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(checkout)},
            stdin=subprocess.DEVNULL,
            stdout=output_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = -signal.SIGKILL
    text = (tmp_path / "output_file").read_text(errors="replace")
    assert code == 0, f"exit code {code}; the end of what was said:\n{text[-6_000:]}"
