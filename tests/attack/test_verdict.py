"""The judgement of harm."""

from __future__ import annotations

from typing import Any

import pytest

from tests.attack.honest import Window
from tests.attack.registry import load_attacks
from tests.attack.verdict import P99_FLOOR, Verdict, judge

CALM = Window([0.02] * 100)


def verdict(**changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "control": CALM,
        "attacked": CALM,
        "elections": 0,
        "growth": {},
        "gone": [],
        "growth_max": 10,
        "output": [],
    }
    values |= changes
    return judge("an attack", values.pop("control"), values.pop("attacked"), **values)


def test_a_run_without_harm_passes() -> None:
    assert verdict().holds
    assert verdict(attacked=Window([0.02] * 98 + [P99_FLOOR - 0.01] * 2)).holds, "a busy machine has such values too"
    assert verdict(control=Window([0.4] * 100), attacked=Window([0.7] * 100)).holds


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"attacked": Window([0.02] * 98 + [P99_FLOOR + 0.1] * 2)}, "p99 350 ms"),
        ({"attacked": Window([0.02] * 100, {"503 no leader": 1})}, "1 x 503 no leader"),
        ({"attacked": Window()}, "no order was taken"),
        ({"control": Window()}, "cannot be compared"),
        ({"control": Window([0.02], {"TimeoutError": 2})}, "cannot be compared"),
        ({"elections": 1}, "1 elections"),
        ({"growth": {"engine 7": 11}}, "engine 7 grew"),
        ({"gone": ["engine 7"]}, "engine 7 has ended"),
    ],
)
def test_each_kind_of_harm_fails_the_run(changes: dict[str, Any], fault: str) -> None:
    assert any(fault in each for each in verdict(**changes).faults)


def test_every_attack_has_a_description() -> None:
    attacks = load_attacks()
    assert attacks
    assert all(each.what for each in attacks.values())
