"""The list of commands: it says what each command says of itself, and reads none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from node.cli.program import COMMANDS, main

ROOT = Path(__file__).parents[4]
HEAVY = ("aiohttp", "asyncio", "cryptography", "prometheus_client", "pysyncobj", "rich", "rocksdict", "sortedcontainers")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
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


def test_a_command_that_does_not_exist_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["snapshots"])
    assert ended.value.code == 2
    assert "No such command 'snapshots'" in capsys.readouterr().err
