"""Docstrings name functions, classes and constants that exist: `limits.AMOUNT_MAX`, `Engine.apply`."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from node.config.settings import NodeConfig
from tests.documentation.test_paths import ROOT, tracked

NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.([A-Za-z_]\w*)(?:\(\))?`")
WORD = re.compile(r"[A-Za-z_]\w*")
SECTIONS = frozenset(NodeConfig.__struct_fields__) | {"table", "progress"}
"""Tables of node.toml and of schemas, whose keys have the form of a name in a module."""

SUFFIXES = frozenset({"py", "json", "log", "toml", "csv"})


@functools.cache
def words_of(module: str) -> frozenset[str]:
    """Return all words in the modules with this name, and of the packages."""
    paths = [path for path in tracked() if path.endswith((f"/{module}.py", f"/{module}.pyx"))]
    paths += [path for path in tracked() if path.endswith(".py") and f"/{module}/" in f"/{path}"]
    return frozenset(
        word for path in paths for word in WORD.findall((ROOT / path).read_text(encoding="utf-8") + f" {Path(path).stem}")
    )


def docstrings() -> Iterator[tuple[str, str]]:
    """Yield each docstring of the product with its file."""
    for path in tracked():
        if path.endswith(".py") and not path.startswith("tests/"):
            for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                    yield path, node.value.value


def test_a_name_in_a_module_exists() -> None:
    missing = [
        f"{path}: {module}.{name}"
        for path, text in docstrings()
        for module, name in NAME.findall(text)
        if (last := module.rpartition(".")[2]) not in SECTIONS
        and last.islower()
        and words_of(last)
        and name not in words_of(last) | SUFFIXES
    ]
    assert missing == []
