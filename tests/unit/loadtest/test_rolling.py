"""The sum of several upgrades is reported, and the run continues without a person who watches it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest import rolling
from loadtest.errors import LoadTestError
from loadtest.rolling import FAILURES_MAX, Result, summary


def result(gap: float, *faults: str) -> Result:
    return Result(acknowledged=100, roll_gap=gap, level_gap=gap / 10, compared=5, differing=0, seconds=2.0, faults=[*faults])


def test_the_gaps_of_several_upgrades_are_summed_up() -> None:
    lines = summary([result(0.3), result(0.1), result(0.2, "the states differ")])
    assert lines[0] == "2 of 3 rolls hold; 300 acknowledged orders; 15 digests compared, 0 differing; 6 s"
    assert lines[4] == "| nodes were replaced | 3 | 200 ms | 300 ms | 300 ms |"
    assert lines[5] == "| the level changed | 3 | 20 ms | 30 ms | 30 ms |"


def test_one_that_could_not_be_made_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    async def run(directory: Path, _former: Path) -> Result:
        directory.mkdir()
        made.append(directory)
        if len(made) == 2:
            raise LoadTestError("no port is free")
        return result(0.1)

    monkeypatch.setattr(rolling, "run", run)
    out = tmp_path / "table.md"
    done = CliRunner().invoke(rolling.main, ["--rolls", "4", "--former", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 2
    assert "2/4: could not be made: no port is free" in done.output
    assert "4/4: holds, gaps 100 ms and 10 ms, 100 orders, 2 s; 0 min left" in done.output
    assert out.read_text().startswith("3 of 3 rolls hold")
    assert not made[0].parent.exists()


def test_a_roll_that_cannot_be_made_ends_the_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Path] = []

    async def run(directory: Path, _former: Path) -> Result:
        tries.append(directory)
        raise LoadTestError("no")

    monkeypatch.setattr(rolling, "run", run)
    done = CliRunner().invoke(rolling.main, ["--rolls", "50", "--former", str(tmp_path)])
    assert done.exit_code == 2
    assert len(tries) == FAILURES_MAX


def test_one_that_hangs_ends_in_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(_directory: Path, _former: Path) -> Result:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(rolling, "run", run)
    monkeypatch.setattr(rolling, "ROLL_SECONDS", 0.05)
    done = CliRunner().invoke(rolling.main, ["--former", str(tmp_path)])
    assert done.exit_code == 2
    assert "error: not done within 0.05 s" in done.output
