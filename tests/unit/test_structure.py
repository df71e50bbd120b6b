"""Rules of structure that no linter checks: sizes of files and functions, and the trees of exceptions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.tree import ROOT

PACKAGES = ("statemachine", "snapshots", "cluster", "node", "loadtest", "tests")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
OWN_FILE_LINES = 100
"""A module below this joins the only module that imports it, unless it has a reason."""

LONG_FILES = {
    "cluster/raft.py": "the facade of PySyncObj: every callback of the library in one class",
    "node/engine/service.py": "the requests of the native protocol, one method each",
    "node/engine/session.py": "one session of the native protocol: its reads, its writes and its subscriptions share its state",
    "node/gateway/calls.py": "one call from its route to its answer, as every handler sees it",
    "node/gateway/channels.py": "every message of the WebSocket channels: one list",
    "node/gateway/feeds.py": "the feed of a product, from the engine's events to the readers",
    "node/gateway/history.py": "every call that reads the history, with its answer",
    "node/gateway/http/connection.py": "one HTTP connection: one compiled class",
    "node/gateway/orders.py": "every call about orders, with its request and answer",
    "node/native/connection.py": "one connection: requests, answers and the feed share its state",
    "node/native/protocol.py": "the messages of the native protocol: one list, read in one chunk",
    "statemachine/commands.py": "the commands: one list, read in one chunk",
    "statemachine/engine.py": "the map of the engine: its public reads with their examples, and the dispatch of commands",
    "statemachine/entities.py": "the entities share a file, because their compiled types share one .pxd",
    "statemachine/invariants.py": "all conditions of a state, and the sums over open orders that loading shares with them",
    "statemachine/validation.py": "the checks of commands: one list, in the order that is part of the rules",
    "tests/interaction/script.py": "the language of the scripts: one method for each word",
    "tests/property/twin_trading.py": "the twin's matching: one class, to be read in one piece beside the rules",
    "tests/simulation/world.py": "the simulated machine room: one class",
    "tests/unit/node/engine/test_native_server.py": "a session of the native protocol: its tests share a client that can say anything",
    "tests/unit/node/test_migration.py": "a migration at the start: its tests share data that another version left",
}
"""Files that may be longer, each with its reason."""

LONG_FUNCTIONS = {
    "cluster/raft.py:Raft.__init__": "constructs all parts of a node once, in the order of their dependence",
    "node/engine/service.py:EngineService.__init__": "constructs all parts of the service once; a third is the list of its arguments",
    "node/engine/parts.py:build": "constructs all parts of the engine process once, in the order of their dependence",
}
"""Functions that may be longer, each with its reason."""

SMALL_MODULES = {
    "cluster/captures.py": "when the log may be compacted: the rule is tested without a node",
    "cluster/outlook.py": "the log lines about a missing majority: they change nothing, and the node beside them is long",
    "loadtest/compare/growth.py": "runs in one process without a cluster, unlike the module that calls it",
    "loadtest/locust_loop.py": "the only module that knows gevent",
    "loadtest/traffic/arrival.py": "open and closed loop: an idea with a source, whatever the requests are",
    "node/fix/counting.py": "the figures for Prometheus; with the server in one file it would pass the limit",
    "node/gateway/http/tls_port.py": "decides about a connection before HTTP begins, and a server without TLS does not use it",
    "node/gateway/plain_order.py": "has a compiled twin, plain_order.pyx, which replaces the whole module",
    "snapshots/migration/types.py": "types of a described schema, which no stored type knows",
    "snapshots/money.py": "the check that no money is lost or made: independent of what it checks",
    "statemachine/dead_man.py": "the rules of the dead man's switch",
    "statemachine/order_rows.py": "has a compiled twin, order_rows.pyx, which replaces the whole module",
    "statemachine/visibility.py": "which rows a viewer sees: rules of their own, beside an engine that is long",
}
"""Modules that are smaller and imported by one module, each with its reason."""


def sources() -> list[tuple[str, ast.Module, int]]:
    """Name, syntax tree and number of lines of every file."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.append((str(path.relative_to(ROOT)), ast.parse(text), len(text.splitlines())))
    return found


SOURCES = sources()


def functions(tree: ast.AST, prefix: str = "") -> list[tuple[str, int]]:
    """Qualified names and lengths of all functions."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((prefix + node.name, (node.end_lineno or 0) - node.lineno + 1))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found += functions(node, f"{prefix}{node.name}.")
    return found


def test_a_long_file_has_a_reason() -> None:
    long = {name: lines for name, _, lines in SOURCES if lines > FILE_LINES_MAX and name not in LONG_FILES}
    assert not long, "cut it by idea, or write the reason into LONG_FILES"
    gone = set(LONG_FILES) - {name for name, _, lines in SOURCES if lines > FILE_LINES_MAX}
    assert not gone, "they are short or gone: remove their reasons"


def test_a_long_function_has_a_reason() -> None:
    long = {f"{file}:{name}": lines for file, tree, _ in SOURCES for name, lines in functions(tree) if lines > FUNCTION_LINES_MAX}
    assert not {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS}


def importers() -> dict[str, set[str]]:
    """Return the product's modules that import each of its modules, by file name. Packages and programs are left out."""
    names = {name.removesuffix(".py").replace("/", "."): name for name, _, _ in SOURCES if not name.startswith("tests/")}
    found: dict[str, set[str]] = {module: set() for module in names}
    programs = set()
    for module, name in names.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        if "__name__ ==" in text:
            programs.add(module)
        for place, imported in re.findall(r"^ *from ([\w.]+) import (\([^)]*\)|.*)", text, re.MULTILINE):
            whole = {f"{place}.{each.split()[0]}" for each in imported.strip("()").split(",") if each.split()}
            for target in (whole & found.keys()) or ({place} & found.keys()):
                found[target].add(module)
    return {names[module]: those for module, those in found.items() if module not in programs and "__init__" not in module}


def test_a_small_module_with_one_importer_has_a_reason() -> None:
    lengths = {name: lines for name, _, lines in SOURCES}
    small = {name for name, those in importers().items() if len(those) == 1 and lengths[name] < OWN_FILE_LINES}
    assert sorted(small - SMALL_MODULES.keys()) == [], "join it with its importer, or write the reason into SMALL_MODULES"
    assert sorted(SMALL_MODULES.keys() - small) == [], "they are long, gone or imported elsewhere: remove their reasons"


def _defined(package: str) -> dict[str, tuple[str, str]]:
    """Module and first base of every class of a package."""
    found: dict[str, tuple[str, str]] = {}
    for name, tree, _ in SOURCES:
        if not name.startswith(f"{package}/"):
            continue
        module = name.removeprefix(f"{package}/").removesuffix(".py").replace("/", ".")
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.bases and isinstance(node.bases[0], ast.Name):
                found[node.name] = module, node.bases[0].id
    return found


def _drawn(text: str, root: str) -> dict[str, str]:
    """Name and parent of every exception in the tree that a docstring draws."""
    found: dict[str, str] = {}
    path = [root]
    for line in text[text.index(root) :].splitlines()[1:]:
        matched = re.match(r"\s*((?:[│ ]   )*)[├└]── ([\w.]+)", line)
        if matched is None:
            break
        depth = len(matched[1]) // 4 + 1
        path[depth:] = [matched[2].rpartition(".")[2]]
        found[matched[2]] = path[depth - 1]
    return found


@pytest.mark.parametrize(
    ("package", "root"),
    [
        ("statemachine", "StateMachineError"),
        ("snapshots", "SnapshotError"),
        ("cluster", "ClusterError"),
        ("node", "QuorumbookError"),
    ],
)
def test_the_tree_of_exceptions_is_drawn_as_it_is(package: str, root: str) -> None:
    defined = _defined(package)

    def below(name: str) -> bool:
        return name in defined and (defined[name][1] == root or below(defined[name][1]))

    text = ast.get_docstring(ast.parse(Path(ROOT / package / "errors.py").read_text(encoding="utf-8")))
    assert text is not None
    expected = {
        (name if module == "errors" else f"{module}.{name}"): base
        for name, (module, base) in defined.items()
        if below(name) and not name.startswith("_")
    }
    assert _drawn(text, root) == expected
