"""A small recorded order flow through one engine, by the command line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.errors import ReplayError
from node.native.client import RequestFailed
from node.native.protocol import FailCode
from node.records.replay import ReplayPlan, replay
from tests.unit.node.cli.conftest import Run
from tests.unit.node.cli.fakes import FakeClient

RunJson = Callable[..., Any]

OPS = """op,id,side,price,size,flag
seed,1,sell,585.33,100,
seed,2,sell,585.33,50,
new,3,buy,585.30,10,
new,4,buy,585.33,120,ioc
cancel,3,,,,
new,5,sell,585.30,10,ioc
new,6,buy,585.34,30,ioc
"""
TRADES = """taker_id,maker_id,price,size
4,1,585.33,100
4,2,585.33,20
6,2,585.33,30
"""


@pytest.fixture
def ops(tmp_path: Path) -> str:
    path = tmp_path / "ops.csv.gz"
    path.write_bytes(gzip.compress(OPS.encode()))
    return str(path)


@pytest.fixture
def trades(tmp_path: Path) -> str:
    path = tmp_path / "trades.csv"
    path.write_text(TRADES)
    return str(path)


def test_every_execution_is_as_recorded(run: Run, ops: str, trades: str) -> None:
    output = run("replay", ops, "--trades", trades).stdout
    assert "3 of 3 executions as recorded" in output
    assert output.startswith("7 commands in ")


def test_chunks_do_not_change_the_result_and_runs_do_not_meet(
    run_json: RunJson, ops: str, trades: str, client: FakeClient
) -> None:
    reports = [run_json("replay", ops, "--trades", trades, "--chunk", str(size)) for size in (1, 2, 500)]
    assert [(report["matched"], report["expected"], report["commands"]) for report in reports] == [(3, 3, 7)] * 3
    assert [report["product_id"] for report in reports] == ["AAPL-USD", "AAPL-USD.2", "AAPL-USD.3"]
    client.engine.check()


def test_a_limit_expects_only_executions_that_can_be(run_json: RunJson, ops: str, trades: str) -> None:
    report = run_json("replay", ops, "--trades", trades, "--limit", "4")
    assert (report["matched"], report["expected"], report["executed"]) == (2, 2, 2)


@pytest.mark.parametrize("maker", ["1", "9"])
def test_a_difference_is_exit_code_1(run: Run, ops: str, trades: str, maker: str) -> None:
    Path(trades).write_text(TRADES.replace("4,2,", f"4,{maker},"))
    output = run("replay", ops, "--trades", trades, code=1).stdout
    assert "2 of 3 executions as recorded" in output
    assert "the first difference is execution 2" in output


def test_an_additional_execution_is_a_difference(run: Run, ops: str, trades: str) -> None:
    Path(trades).write_text(TRADES.replace("6,2,585.33,30\n", ""))
    output = run("replay", ops, "--trades", trades, code=1).stdout
    assert "2 of 2 executions as recorded" in output
    assert "3 executions happened" in output


def test_without_trades_the_executions_are_counted(run: Run, ops: str) -> None:
    assert "3 executions" in run("replay", ops).stdout


def test_a_run_id_is_used_once(run: Run, ops: str) -> None:
    run("replay", ops, "--run-id", "monday")
    assert "run 'monday' was used before: AAPL-USD.monday exists" in run("replay", ops, "--run-id", "monday", code=1).stderr


def test_the_currencies_that_are_there_are_used_with_their_scales(run: Run, run_json: RunJson, ops: str, trades: str) -> None:
    run("currency", "put", "USD", "--scale", "6")
    run("currency", "put", "AAPL", "--scale", "3")
    assert run_json("replay", ops, "--trades", trades)["matched"] == 3


def test_a_currency_that_is_too_coarse_is_one_line(run: Run, ops: str) -> None:
    run("currency", "put", "USD", "--scale", "1")
    assert "USD has 1 decimal digits here" in run("replay", ops, code=1).stderr


@pytest.mark.parametrize("content", ["", "op,id\n", OPS + "new,7,buy,1e,1,\n", OPS + "cancel,77,,,,\n"])
def test_an_invalid_recording_is_reported_in_one_line(run: Run, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    assert run("replay", str(path), code=1).stderr.count("\n") == 1


async def test_a_lost_cluster_says_how_far_it_came(client: FakeClient, ops: str) -> None:
    def fail_later(done: int, total: int) -> None:
        if done == 4:
            client.failures.append(RequestFailed(FailCode.NO_LEADER, "no answer from a leader within 30 s"))

    with pytest.raises(ReplayError, match="stopped after 4 of 7 commands: no answer from a leader"):
        await replay(client, ReplayPlan(Path(ops), chunk=2), fail_later)


async def test_progress_is_reported(client: FakeClient, ops: str) -> None:
    progress: list[tuple[int, int]] = []
    await replay(client, ReplayPlan(Path(ops), chunk=3), lambda done, total: progress.append((done, total)))
    assert progress == [(3, 7), (6, 7), (7, 7)]
