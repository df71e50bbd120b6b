"""Each pair of rules that can meet is met in some script; `MISSING` lists the pairs that are not, and may only get
shorter.
"""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

RULES = {
    "amend": r"^\w+ amend ",
    "auction": r"status=auction",
    "expiry": r"^\w+ .* (gtt|until|for)=",
    "dead man's switch": r"^\w+ cancel-after ",
    "exits": r"^\w+ (buy|sell) .* (profit|loss)=",
    "fill or kill": r"^\w+ .* fok\b",
    "iceberg": r"^\w+ .* show=",
    "mass cancel": r"^\w+ cancel-all",
    "pair": r"^\w+ pair ",
    "post-only": r"^\w+ .* post\b",
    "replace": r"^\w+ replace ",
    "restart": r"^restart",
    "self-trade prevention": r"^  \S+ \d+ change #",
    "stop": r"^\w+ (buy|sell) .* stop=(loss|entry)@",
    "trailing stop": r"^\w+ .* trail=",
}
"""A rule, and how a line of a script shows that it is at work."""

MISSING: tuple[tuple[str, str], ...] = ()


def missing() -> list[tuple[str, str]]:
    """The pairs of rules that no script has."""
    met: dict[tuple[str, str], str] = {}
    for path in Path(__file__).parent.glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        here = [name for name, shown in RULES.items() if re.search(shown, text, re.MULTILINE)]
        for pair in combinations(here, 2):
            met[pair] = path.stem
    return [pair for pair in combinations(RULES, 2) if pair not in met]


def test_no_pair_of_rules_is_missing() -> None:
    assert missing() == list(MISSING)
