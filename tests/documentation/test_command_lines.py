"""Every command line that a page names exists, with the options that it has there."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from node.cli.program import main
from tests.documentation.pages import COMMAND, ROOT, RUN, blocks, command_lines

PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]
EARLIER = {"docs/reliability.md", "docs/benchmarks.md"}
"""Pages that describe runs of earlier versions."""

HIDDEN = {"--from", "--into"}
"""Spellings of earlier versions, which still work and should not be taught."""


def fault(words: list[str]) -> str:
    """Return what is wrong with a command line, "" if nothing is."""
    command: click.Command = main
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-") and rest[0].islower():
        inner = command.get_command(click.Context(command), rest[0])
        if inner is None:
            break
        command = inner
        rest.pop(0)
    if command is main and rest and rest[0].isalpha() and rest[0].islower():
        return f"no command {rest[0]!r}"
    known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]} | {"--help", "-h"}
    for word in rest:
        name = word.partition("=")[0]
        if name.startswith("--") and (name not in known):
            return f"{command.name} has no option {name}"
    return ""


@pytest.mark.parametrize("page", [page for page in PAGES if page not in EARLIER])
def test_the_commands_of_a_page_exist(page: str) -> None:
    faults = [f"{place}: {words}: {text}" for place, words in command_lines(page) if (text := fault(words))]
    assert not faults, "\n".join(faults)


def test_a_command_that_does_not_exist_is_found() -> None:
    assert fault(["snapshots", "list"])
    assert fault(["cluster", "up", "--nodes", "3"])
    assert not fault(["cluster", "up", "--node", "n1"])


@pytest.mark.parametrize("page", RUN)
def test_commands_stand_in_blocks_that_are_run_or_say_why_not(page: str) -> None:
    hidden = [
        f"{block.page}:{block.line}: {block.kind or 'unnamed'} block: {line.strip()}"
        for block in blocks(page)
        if block.kind not in ("sh", "console")
        for line in block.text.splitlines()
        if COMMAND.match(line)
    ]
    assert not hidden, "name the block sh or console:\n" + "\n".join(hidden)
    assert any(block.commands and not block.not_run for block in blocks(page))
    assert Path(ROOT, page).exists()
