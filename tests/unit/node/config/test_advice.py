"""At its start a node reports settings that are allowed and probably not intended."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config.checks import advice
from node.config.file import load
from node.deployment.setup import Host, initialise

HOSTS = [Host(f"n{number}", f"10.0.0.{number}") for number in (1, 2, 3)]


def test_a_configuration_made_by_init_needs_no_advice(tmp_path: Path) -> None:
    for path in [*initialise(tmp_path / "a"), *initialise(tmp_path / "b", HOSTS, https=True)]:
        assert advice(load(path), path) == []


def test_http_in_the_open_is_reported(tmp_path: Path) -> None:
    path = initialise(tmp_path / "c", HOSTS)[0]
    (line,) = advice(load(path), path)
    assert "HTTP on 10.0.0.1:7021 has no TLS" in line


@pytest.mark.parametrize("name", ["node.key", "cluster.key", "node.toml"])
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660])
def test_a_secret_that_others_may_read_or_change_is_reported(tmp_path: Path, name: str, mode: int) -> None:
    path = initialise(tmp_path / "c")[0]
    (path.parent / name).chmod(mode)
    (line,) = advice(load(path), path)
    assert line.startswith(str(path.parent / name))
    assert "chmod 600" in line


def test_the_mode_of_a_mounted_secret_is_accepted(tmp_path: Path) -> None:
    path = initialise(tmp_path / "c")[0]
    (path.parent / "node.key").chmod(0o440)
    assert advice(load(path), path) == []
