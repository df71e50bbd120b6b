"""Pages, docstrings and comments name files that exist."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = re.compile(r"(?<![\w/.:<-])((?:[a-z_0-9]+/)+[a-z_0-9]+\.(?:py|pyx|pxd|toml|yml|json|sh))(?![\w/])")
"""A path with a folder. Names without one are too often those of a node's own files."""

OTHERS = frozenset({"cluster/admin.json", "pysyncobj/syncobj.py", "pro/coinbaseexchange.py"})
"""Files of a cluster's directory, and of other projects, that pages name."""
FOLDERS = re.compile(r"(n\d+|exchange.*|data|results|etc|var|src|lib|run)/")
"""Folders of a cluster's directory and of a machine."""
PROSE = re.compile(r'\s*(?:#|"""|[A-Z`(])|.*  # ')
"""A line of Python that is a comment or that looks like one of a docstring."""


@functools.cache
def tracked() -> tuple[str, ...]:
    """Return the files of the checkout."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(done.stdout.splitlines())


def missing(name: str, lines: Iterable[tuple[int, str]]) -> list[str]:
    """Return the paths that lines name and the checkout does not have. A path may begin below a folder that the context
    names.
    """
    return [
        f"{name}:{number}: {path}"
        for number, line in lines
        for path in PATH.findall(line)
        if path not in OTHERS
        and FOLDERS.match(path) is None
        and not any(file == path or file.endswith(f"/{path}") for file in tracked())
    ]


def lines_of(name: str) -> list[tuple[int, str]]:
    """Return the lines of a file, numbered from 1."""
    return list(enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1))


PAGES = [name for name in tracked() if name.endswith(".md") and not name.startswith(("docs/adr/", "CHANGELOG"))]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_files_that_exist(page: str) -> None:
    assert missing(page, lines_of(page)) == []


def test_docstrings_and_comments_name_files_that_exist() -> None:
    modules = [name for name in tracked() if name.endswith(".py") and name != "tests/documentation/test_paths.py"]
    found = [missing(name, [line for line in lines_of(name) if PROSE.match(line[1])]) for name in modules]
    assert [path for paths in found for path in paths] == []
