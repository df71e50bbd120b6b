"""The installed package: the wheel contains the page's files byte by byte, and the package finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("statemachine", "snapshots", "cluster", "node", "loadtest")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
SECONDS = 100
SHOW = "from node.gateway import page; print(page.ROOT); print(len(page.load()))"


@pytest.mark.timeout(2 * SECONDS)
def test_the_page_is_in_the_wheel(tmp_path: Path) -> None:
    source, wheels, target = tmp_path / "source", tmp_path / "wheels", tmp_path / "target"
    source.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__", "_compiled"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    plain = {**os.environ, "QUORUMBOOK_CORE": "plain"}
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(wheels),
    ]
    subprocess.run([*build, str(source)], env=plain, check=True, timeout=SECONDS)
    (wheel,) = wheels.glob("quorumbook-*.whl")
    static = ROOT / "node" / "gateway" / "ui" / "static"
    expected = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in static.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        found = {name: archive.read(name) for name in archive.namelist() if "/ui/static/" in name}
        archive.extractall(target)
    assert found == expected
    # `-P` and another directory: nothing of the checkout is found by accident.
    shown = subprocess.run(
        [sys.executable, "-P", "-c", SHOW],
        env={**plain, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        check=True,
        timeout=SECONDS,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert Path(shown[0]).is_relative_to(target)
    assert int(shown[1]) == len(expected)
