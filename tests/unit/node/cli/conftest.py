"""The command line over a cluster that is one engine in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from node.cli import main, session
from node.cluster_directory import Access
from node.keys.credentials import Credentials
from tests.unit.node.cli.fakes import FakeClient

Run = Callable[..., Result]
Watched = Callable[..., str]


class FakeTerminal(io.StringIO):
    """A terminal that keeps its output."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(session, "open_client", lambda target: fake)
    monkeypatch.setattr(session, "reach", lambda target: Access({"n1": "127.0.0.1:7011"}, "PEM", Credentials("operator", "", "")))
    return fake


@pytest.fixture
def run(tmp_path: Path, client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line. Its exit code must be `code`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUORUMBOOK_CLUSTER", raising=False)

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == code, f"{arguments}: exit code {result.exit_code}\n{result.output}"
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def watched(run: Run, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Run a command line whose stderr is a terminal. Returns the terminal's output. The exit code must be `code`."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("CI", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str, code: int = 0) -> str:
        terminal = FakeTerminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        assert (ended.value.code or 0) == code, terminal.getvalue()
        return terminal.getvalue()

    return invoke


@pytest.fixture
def run_json(run: Run) -> Callable[..., Any]:
    """Run a command line with `--json`. Returns the decoded output."""

    def invoke(*arguments: str, code: int = 0) -> Any:
        return json.loads(run(*arguments, "--json", code=code).stdout)

    return invoke


@pytest.fixture
def market(run: Run) -> Run:
    """BTC-USD, with alice and bob who have money."""
    run("currency", "put", "BTC", "--scale", "8")
    run("currency", "put", "USD", "--scale", "6")
    run("product", "put", "BTC-USD", "--taker-fee", "0.001")
    for name, amount, currency in (("alice", "1000000", "USD"), ("bob", "10", "BTC")):
        run("account", "open", name)
        run("deposit", name, currency, amount)
    return run
