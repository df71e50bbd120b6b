"""The list of commands shows what each command says of itself, and imports none of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from node.cli.program import COMMANDS, INSIDE, main
from snapshots.abi import ABI
from tests.unit.node.cli.conftest import Run

ROOT = Path(__file__).parents[4]
HEAVY = ("aiohttp", "asyncio", "cryptography", "prometheus_client", "pysyncobj", "rich", "rocksdict", "sortedcontainers")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_shows_their_help(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert COMMANDS[name][1] == command.get_short_help_str(limit=200)


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], HEAVY),
        (["version"], ("aiohttp", "rocksdict", "node.migration", "snapshots.migration")),
        (["cluster", "--help"], ("aiohttp", "rocksdict", "node.migration", "snapshots.migration")),
        (["order", "--help"], ("aiohttp", "rocksdict", "node.migration", "snapshots.migration")),
    ],
)
def test_a_command_reads_no_more_than_it_needs(arguments: list[str], unwanted: tuple[str, ...]) -> None:
    code = "import sys; from node.cli import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    read = set(done.stdout.splitlines()[-1].split())
    assert not {name for name in unwanted if name in read}


def test_a_command_that_does_not_exist_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["snapshots"])
    assert ended.value.code == 2
    assert "No such command 'snapshots'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "meant"),
    [("status", "cluster status"), ("acount", "account"), ("snapshots", "snapshot list"), ("restore", "snapshot restore")],
)
def test_a_command_of_another_name_is_suggested(capsys: pytest.CaptureFixture[str], word: str, meant: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 2
    assert f"'{meant}'" in capsys.readouterr().err


def test_every_place_that_is_suggested_is_there() -> None:
    for words in INSIDE.values():
        command: click.Command = main
        for word in words.split():
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), word)
            assert found is not None, words
            command = found


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_the_version_is_printed_as_elsewhere(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments, standalone_mode=False)
    assert f"ABI {ABI}" in capsys.readouterr().out


def _groups(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        yield path
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from _groups(inner, (*path, name))


def test_no_help_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly the lists of commands in groups ended in "..." if a line was long."""
    monkeypatch.setenv("COLUMNS", "80")
    found = list(_groups(main))
    assert len(found) > 8
    for path in found:
        text = CliRunner().invoke(main, [*path, "--help"]).stdout
        assert not re.search(r"\w\.\.\.$", text, flags=re.MULTILINE), (path, text)


def test_help_is_a_command() -> None:
    by_command, by_option = (
        CliRunner().invoke(main, words).stdout for words in (["help", "cluster", "up"], ["cluster", "up", "-h"])
    )
    assert "--rejoin" in by_command
    assert by_command.splitlines()[2:] == by_option.splitlines()[2:]
    assert CliRunner().invoke(main, ["help", "nothing"]).exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(shell: str) -> None:
    assert "_QUORUMBOOK_COMPLETE" in CliRunner().invoke(main, ["completion", shell]).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["account", "open", "\udcff"],
        ["deposit", "alice", "USD", "1", "--transfer-id", "\udcff"],
        ["proposal", "approve", "9" * 40],
        ["trade", "bust", "BTC-USD", "-1"],
        ["risk", "set", "account", "alice", "--orders", "9" * 40],
        ["limits", "set", "BTC-USD", "--halt", "9" * 18],
        ["access", "set", "--bootstrap", "--seconds", "-1"],
        ["risk", "set", "account", "alice", "--currency", "USD", "--open", "0"],
        ["risk", "set", "account", "alice", "--orders", "0"],
        ["limits", "set", "BTC-USD", "--order-size", "0.0"],
        ["order", "place", "BTC-USD", "buy", "1", "--funds", "0", "--as", "alice"],
        ["check", "lag", "--warning", "nan"],
        ["snapshot", "take", "n1", "--wait", "inf"],
        ["cluster", "can-stop", "n1", "--wait", "NaN"],
    ],
)
def test_an_argument_that_no_command_can_mean_is_a_wrong_command_line(market: Run, arguments: list[str]) -> None:
    market(*arguments, code=2)


def test_text_of_a_user_is_printed_as_it_is(market: Run) -> None:
    """rich would take it for markup, or for the code of an emoji."""
    for note in ("[/] out", "[red] in", ":cat: up"):
        market("user", "put", "u", "viewer", "--note", note)
        assert note in market("user", "list").stdout
    market("user", "put", "u", "viewer", "--note", "a\x1b]0;title\x07\x9bb")
    assert r"a\x1b]0;title\x07\x9bb" in market("user", "list").stdout
