"""The draft of a level's modules compiles, and has every read of the present engine."""

from __future__ import annotations

import ast

from snapshots.abi import SCHEMA
from snapshots.abi.releases import Releases
from snapshots.levels import skeleton
from snapshots.levels.level import V0_2_0
from statemachine.engine import Engine


def test_the_engine_passes_every_call_on() -> None:
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


def test_the_rows_name_what_changed() -> None:
    text = skeleton.rows_module("0.2.0", Releases().schema(V0_2_0.abi), SCHEMA)
    ast.parse(text)
    assert "OrderState: field added: fee_credit" in text
    assert "raise NotImplementedError" in text
    assert skeleton.module_names("0.3.0") == ("v0_3_0.py", "v0_3_0_rows.py")
