"""A node whose state diverged leaves service, keeps the evidence, and does not start on that data again."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from cluster.divergence import DivergenceWatch
from cluster.errors import DivergedError, RaftFatalError, RemovedError
from node import exit_codes, supervisor
from node.config.file import load
from node.config.settings import NodeConfig
from node.data_directory import evidence, identity
from node.deployment.setup import initialise
from node.engine import process as engine_process
from node.errors import DataDirectoryError, cause
from tests.ports import free_port
from tests.unit.node.engine.test_process import operator
from tests.unit.node.fakes import WORLD

ERROR = DivergedError("n1", index=640, term=3, own=b"\x01" * 16, majority=b"\x02" * 16, agreeing=("n2", "n3"))


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    """Return a node whose data directory was just made."""
    (path,) = initialise(tmp_path / "cluster", 1, base_port=free_port())
    return load(path)


def test_the_evidence_says_all_there_is(tmp_path: Path) -> None:
    path = evidence.keep_divergence(tmp_path, ERROR, 1_700_000_000.25)
    assert msgspec.json.decode(path.read_bytes()) == {
        "node_id": "n1",
        "index": 640,
        "term": 3,
        "state_hash": "01" * 16,
        "majority_hash": "02" * 16,
        "agreeing": ["n2", "n3"],
        "found_at": "2023-11-14T22:13:20.250+00:00",
    }


def test_without_evidence_nothing_is_refused(tmp_path: Path) -> None:
    evidence.refuse_start(tmp_path)
    evidence.refuse_start(tmp_path / "missing")


@pytest.mark.parametrize("rejoin", [False, True])
def test_evidence_prevents_every_start_even_with_rejoin(config: NodeConfig, rejoin: bool) -> None:
    identity.mark_started(config, identity.read(config))
    evidence.keep_divergence(config.data_path, ERROR, 0.0)
    expected = (
        rf"diverged\.json.*At index 640 its hash was {'01' * 16}, that of n2, n3 {'02' * 16}.*evidence.*audit.*new data.*--rejoin"
    )
    with pytest.raises(DataDirectoryError, match=expected):
        identity.format_data(config, rejoin=True) if rejoin else identity.read(config)


def test_a_start_is_one_line_and_exit_code_2(tmp_path: Path, config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    evidence.keep_divergence(config.data_path, ERROR, 0.0)
    (path,) = tmp_path.glob("cluster/*/node.toml")
    assert supervisor.run_or_explain(path) == exit_codes.CANNOT_START
    assert "the state in this data directory has diverged" in capsys.readouterr().err


def test_evidence_that_cannot_be_read_is_still_evidence(config: NodeConfig) -> None:
    (config.data_path / evidence.DIVERGED).write_bytes(b"\xff{")
    with pytest.raises(DataDirectoryError, match="has diverged"):
        identity.read(config)
    (config.data_path / evidence.DIVERGED).unlink()
    (config.data_path / evidence.DIVERGED).mkdir()
    with pytest.raises(DataDirectoryError, match="cannot be read"):
        identity.read(config)


def test_a_node_can_start_on_a_new_data_directory(config: NodeConfig) -> None:
    identity.mark_started(config, identity.read(config))
    evidence.keep_divergence(config.data_path, ERROR, 0.0)
    shutil.move(config.data_path, config.data_path.with_name("evidence"))
    made = identity.format_data(config, rejoin=True)
    assert made.stage is identity.Stage.REJOIN
    assert identity.read(config) == made


def test_a_divergence_is_found_as_the_cause_of_a_later_error() -> None:
    later = RaftFatalError("this node has failed and must stop")
    later.__cause__ = ERROR
    assert cause(ERROR, DivergedError) is cause(later, DivergedError) is ERROR
    assert cause(RaftFatalError("another"), DivergedError) is None


async def _until_diverged(config: NodeConfig) -> int:
    task = asyncio.create_task(engine_process.run(config, identity.read(config), asyncio.Event()))
    async with operator(config) as client, asyncio.timeout(20):
        submission = asyncio.ensure_future(client.submit(WORLD))
        try:
            return await task
        finally:
            submission.cancel()
            await asyncio.gather(submission, return_exceptions=True)


async def test_an_engine_that_diverged_ends_with_70_and_keeps_evidence(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def tick(self: DivergenceWatch) -> list[object]:
        if self._unsaid:
            raise ERROR
        return []

    monkeypatch.setattr(DivergenceWatch, "tick", tick)
    assert await _until_diverged(config) == exit_codes.IN_DOUBT
    assert (config.data_path / evidence.DIVERGED).exists()
    assert "must stop: the state of n1 has diverged: at index 640" in caplog.text
    assert "will not start on this data directory again" in caplog.text
    with pytest.raises(DataDirectoryError, match="has diverged"):
        identity.read(config)


async def test_an_engine_that_was_removed_ends_with_4_and_does_not_start_again(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def tick(self: DivergenceWatch) -> list[object]:
        if self._unsaid:
            raise RaftFatalError("this node has failed and must stop") from RemovedError("n1", 640)
        return []

    monkeypatch.setattr(DivergenceWatch, "tick", tick)
    assert await _until_diverged(config) == exit_codes.REMOVED == exit_codes.REMOVED
    assert "n1 was removed from its cluster (log entry 640)" in caplog.text
    assert not (config.data_path / evidence.DIVERGED).exists()
    with pytest.raises(DataDirectoryError, match="n1 was removed from the cluster"):
        identity.read(config)


async def test_a_disk_that_takes_no_evidence_does_not_keep_it_in_service(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_arguments: object) -> Path:
        raise OSError(28, "No space left on device")

    def tick(self: DivergenceWatch) -> list[object]:
        if self._unsaid:
            raise ERROR
        return []

    monkeypatch.setattr(evidence, "keep_divergence", full)
    monkeypatch.setattr(DivergenceWatch, "tick", tick)
    assert await _until_diverged(config) == exit_codes.IN_DOUBT
    assert "cannot keep the evidence" in caplog.text
