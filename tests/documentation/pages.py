"""The blocks of the pages that operators read, and which of their commands are run.

| in the page | what it is |
|---|---|
| a fenced block `sh` | commands, run as they are printed |
| a fenced block `console` | lines that begin with `$ ` are commands, run as they are printed; what stands below them shows what they may say |
| a fenced block with another name or none | no commands |
| `<!-- not run: why -->` on the line before a block | its commands cannot be run by a test, for the reason that is given |
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("README.md", "docs/operations.md")
"""Pages all of whose blocks are run, or say why not."""

COMMAND = re.compile(r"^\s*(\$ )?(quorumbook|make|\.venv/bin/|git|docker|kubectl|systemctl|locust|curl)\b")
_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_NOT_RUN = re.compile(r"^\s*<!-- not run: (\S.*\S) -->\s*$")
_SPAN = re.compile(r"`(quorumbook [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A block of a page. `line`: where its text begins, from 1. `not_run`: why its commands are not run, "" where they
    are.
    """

    page: str
    line: int
    kind: str
    text: str
    not_run: str

    @property
    def commands(self) -> str:
        """The commands of the block that are run, as shell text."""
        if self.kind == "sh":
            return self.text
        lines = self.text.splitlines() if self.kind == "console" else []
        found: list[str] = []
        going_on = False
        for line in lines:
            if line.startswith("$ "):
                found.append(line[2:])
            elif going_on:
                found.append(line.removeprefix("> "))
            else:
                continue
            going_on = found[-1].endswith("\\")
        return "\n".join(found)


def blocks(page: str) -> list[Block]:
    """Return all fenced blocks of a page, and those that are indented by four spaces (kind "indented")."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            if lines[number].startswith("    ") and number and not lines[number - 1].strip():
                begin = number
                while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                    number += 1
                found.append(Block(page, begin + 1, "indented", "\n".join(lines[begin:number]), ""))
                continue
            number += 1
            continue
        begin, indent = number, len(fence[1])
        number += 1
        while not _FENCE.match(lines[number]):
            number += 1
        text = "\n".join(line[indent:] for line in lines[begin + 1 : number])
        remark = _NOT_RUN.match(lines[begin - 1]) if begin else None
        found.append(Block(page, begin + 2, fence[2], text, remark[1] if remark else ""))
        number += 1
    return found


def command_lines(page: str) -> Iterator[tuple[str, list[str]]]:
    """Return every `quorumbook ...` of a page, in blocks and in the text: where it is, and its words. What stands for
    something else is left as it is.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        spans = _SPAN.findall(line)
        bare = re.match(r"^\s*(?:\$ )?(quorumbook .*)$", line)
        for part in [*spans, *([bare[1]] if bare else [])]:
            for one in re.split(r"&&|\|\||;|(?<!\w)\|", part):
                if one.strip().startswith("quorumbook"):
                    yield f"{page}:{number}", _words(one)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)[1:]
    except ValueError:
        return text.split()[1:]
