"""A start raises the limit of file descriptors. If the hard limit is too low, the error says what to do."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from node.deployment.setup import initialise
from node.engine.connection_limits import CONNECTIONS_MAX
from node.system import processes
from node.system.processes import DESCRIPTORS_MIN, DescriptorsError, raise_limit

OTHERS = 280
"""Descriptors of an engine that are not connections of the native protocol: see `DESCRIPTORS_MIN`."""


class Limits:
    """The limits of a process, played by the test."""

    RLIMIT_NOFILE = resource.RLIMIT_NOFILE
    RLIM_INFINITY = resource.RLIM_INFINITY

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def getrlimit(self, _which: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, _which: int, limits: tuple[int, int]) -> None:
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "result"),
    [
        (1_024, 1_048_576, 65_536),
        (1_024, 8_192, 8_192),
        (8_192, 8_192, 8_192),
        (100_000, 200_000, 100_000),
        (1_024, resource.RLIM_INFINITY, 65_536),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 65_536),
    ],
)
def test_the_soft_limit_is_raised(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, result: int) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(processes, "resource", limits)
    assert raise_limit() == result
    assert limits.now[0] in (result, resource.RLIM_INFINITY)
    assert limits.now[1] == hard


def test_too_low_a_hard_limit_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "resource", Limits(1_024, 2_048))
    with pytest.raises(DescriptorsError, match=r"may open 2048 files \(hard limit 2048\); a node needs 8192.*LimitNOFILE=65536"):
        raise_limit()


def test_connections_leave_room_for_files() -> None:
    assert CONNECTIONS_MAX + OTHERS <= DESCRIPTORS_MIN


def test_a_node_that_may_open_too_few_files_says_so_and_does_not_start(tmp_path: Path) -> None:
    """This holds for the supervisor, and for each other process that is started by hand."""
    for module in ("node.supervisor", "node.engine.process", "node.gateway.process", "node.history.process"):
        code = (
            "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500));"
            f"sys.argv = ['x', '--config', sys.argv[1]]; runpy.run_module({module!r}, run_name='__main__')"
        )
        config = initialise_one(tmp_path)
        ended = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode in (1, 2), (module, ended.stderr)
        assert "this process may open 500 files (hard limit 500); a node needs 8192" in ended.stderr, module


def initialise_one(directory: Path) -> Path:
    """Return the configuration of a node that has never run."""
    if not (directory / "c").exists():
        initialise(directory / "c", 1)
    return directory / "c" / "n1" / "node.toml"
