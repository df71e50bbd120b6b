"""The state machine is pure. The test reads its syntax trees.

A line that needs an exception carries the comment `# pure:` and the reason.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import statemachine

SOURCES = sorted(Path(statemachine.__file__).parent.glob("*.py"))

ALLOWED_IMPORTS = frozenset(
    [
        "__future__",
        "bisect",
        "collections",
        "collections.abc",
        "contextlib",
        "copy",
        "dataclasses",
        "enum",
        "hashlib",
        "operator",
        "bisect",
        "heapq",
        "ipaddress",
        "itertools",
        "re",
        "typing",
        "msgspec",
        "sortedcontainers",
    ]
)
REFUSED_CALLS = frozenset(
    [
        *["open", "print", "input", "hash", "id", "eval", "exec", "compile", "float", "complex", "set", "frozenset", "round"],
        *["globals", "locals", "vars", "dir", "__import__", "breakpoint"],
    ]
)


def faults(source: str) -> list[str]:
    """Return the impure places of a source text, each as "line: what"."""
    excused = {number for number, line in enumerate(source.splitlines(), 1) if "# pure: " in line}
    found = []
    for node in ast.walk(ast.parse(source)):
        fault = _fault(node)
        if fault is not None and getattr(node, "lineno", 0) not in excused:
            found.append(f"{getattr(node, 'lineno', 0)}: {fault}")
    return found


def _fault(node: ast.AST) -> str | None:
    match node:
        case ast.Import(names=names):
            return next((f"imports {name.name}" for name in names if not _may_import(name.name)), None)
        case ast.ImportFrom(module=module, level=level):
            return None if level == 0 and _may_import(module or "") else f"imports from {module}"
        case ast.Call(func=ast.Name(id=name)) if name in REFUSED_CALLS:
            return f"calls {name}"
        case ast.Constant(value=float() | complex()):
            return "has a float"
        case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
            return "divides with /"
        case ast.BinOp(op=ast.Pow(), right=ast.UnaryOp(op=ast.USub())):
            return "has a negative power"
        case ast.Set() | ast.SetComp():
            return "makes a set"
        case ast.Global() | ast.Nonlocal():
            return "changes an outer variable"
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            return "is asynchronous"
        case ast.Attribute(attr="__dict__" | "__hash__" | "environ"):
            return "looks where it must not"
        case ast.ExceptHandler(type=None) | ast.ExceptHandler(type=ast.Name(id="Exception" | "BaseException")):
            return "catches everything"
    return None


def _may_import(module: str) -> bool:
    return module in ALLOWED_IMPORTS or module == "statemachine" or module.startswith("statemachine.")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_state_machine_is_pure(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def test_every_module_of_the_state_machine_is_checked() -> None:
    assert {"engine.py", "matching.py", "book.py", "persistence.py", "limits.py"} <= {path.name for path in SOURCES}


@pytest.mark.parametrize(
    "snippet",
    [
        "import time",
        "import os.path",
        "from random import random",
        "from threading import Thread",
        "from . import engine",
        "from cluster import ports",
        "x = 1.5",
        "x = 4 / 2",
        "x /= 2",
        "x = 10 ** -2",
        "x = float(3)",
        "x = hash('a')",
        "x = id(x)",
        "open('file')",
        "print(1)",
        "for x in {1, 2}: pass",
        "x = {y for y in z}",
        "x = set(y)",
        "def f():\n    global x",
        "async def f(): pass",
        "x.__dict__",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
        "x = round(y, 2)",
    ],
)
def test_impure_code_is_found(snippet: str) -> None:
    assert len(faults(snippet)) == 1


@pytest.mark.parametrize(
    "snippet",
    [
        "from collections import deque",
        "x = 4 // 2",
        "x = 10 ** 2",
        "x = {1: 2}",
        "from statemachine.limits import PPM",
        "book.open(1)",
    ],
)
def test_pure_code_passes(snippet: str) -> None:
    assert faults(snippet) == []


def test_an_exception_needs_a_reason() -> None:
    assert faults("x = set(y)  # pure: only its length is used") == []
    assert faults("x = set(y)  # pure:") != []
