"""The draft of a level's modules compiles, and has every read of the present engine."""

from __future__ import annotations

import ast
import re
from types import ModuleType

import msgspec

from snapshots.abi import SCHEMA
from snapshots.abi.releases import Releases
from snapshots.levels import skeleton, states
from snapshots.levels.level import OWN, V0_2_0
from snapshots.levels.obstacles import Obstacles
from snapshots.levels.raising import raised
from statemachine.engine import Engine
from tests.unit.snapshots.levels.markets import Market


def test_the_engine_passes_on_every_call() -> None:
    text = skeleton.engine_module("0.3.0")
    tree = ast.parse(text)
    (former,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    written = {node.name for node in former.body if isinstance(node, ast.FunctionDef)}
    public = {
        name
        for name, value in vars(Engine).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property | classmethod))
    }
    assert public - written == {"patch", "apply"}
    assert "return self._core.apply_entry(payload)" in text
    assert "return self._core.freeze(whole=whole)" in text
    assert "core_0_3_0" in text


def test_the_rows_name_the_changed_fields() -> None:
    text = skeleton.rows_module("0.2.0", Releases().schema(V0_2_0.abi), SCHEMA)
    ast.parse(text)
    assert "OrderState: field added: fee_credit" in text
    assert "raise NotImplementedError" in text
    assert skeleton.module_names("0.3.0") == ("v0_3_0.py", "v0_3_0_rows.py", "v0_3_0_back.py")


def test_the_way_back_names_what_its_author_decides_by_table_and_column() -> None:
    text = skeleton.back_module("0.2.0", Releases().schema(V0_2_0.abi), SCHEMA)
    assert "0.2.0 does not have: mass_cancel, stream, timer" in text
    decisions = {
        node.name: ast.get_docstring(node) or ""
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name != "lowered"
    }
    assert set(decisions) == {"_counter", "_currency", "_product", "_api_key", "_order", "_done_order", "_outcome"}
    assert "- version: int = 0" in decisions["_product"]
    assert "- DoneReason, values added: MAKERS_MAX = 4, KILLED = 10" in decisions["_order"]
    assert "- OrderState.fee_credit: int = 0" in decisions["_outcome"]
    assert text.count("raise NotImplementedError") == len(decisions)


def test_a_draft_in_which_nothing_may_be_dropped_finds_every_column_in_use() -> None:
    text = skeleton.back_module("0.2.0", Releases().schema(V0_2_0.abi), SCHEMA)
    back = ModuleType("v0_2_0_back_draft")
    exec(re.sub("raise NotImplementedError.*", "return row", text), back.__dict__)
    state, market = states.empty(V0_2_0), Market(3)
    state.apply(market.foundations())
    rows = dict(raised(state, V0_2_0, OWN).tables())

    obstacles = Obstacles()
    back.lowered(rows, b"h" * 16, obstacles)
    assert obstacles.texts() == ["table product: version is in use, which 0.2.0 does not have (2 rows, the first is BTC-USD)"]

    back.CONVERT["product"] = lambda row: msgspec.structs.replace(row, version=0)
    made = back.lowered(rows, state.state_hash, Obstacles())
    before = dict(state.tables())
    assert {name: made[name] for name in before if name != "outcome"} == {
        name: list(found) for name, found in before.items() if name != "outcome"
    }
