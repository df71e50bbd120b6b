"""Each pair of rules that can meet is met in some script. `MISSING` lists the pairs that are not, and may only get
shorter; `APART` those that cannot meet, with the reason.

Two rules meet in a line of a script if one of them acts in it (by its words, or by what its trace shows) while the
other acts, too, or is in force: an order with that option is open, that control is set, the product is in that phase.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

from statemachine.entities import Order
from statemachine.state import State
from statemachine.types import OrderStatus, Phase, ProductStatus, Switch, Timer
from tests.interaction.script import Script

ORDERS = {
    "amend": r"^\w+ amend ",
    "auction": r"status=auction|, opened ",
    "expiry": r"^\w+ .* (gtt|until|for)=|expired",
    "dead man's switch": r"^\w+ cancel-after | timer\b",
    "exits": r"^\w+ (buy|sell) .* (profit|loss)=",
    "fill or kill": r"^\w+ .* fok\b",
    "iceberg": r"^\w+ .* show=",
    "mass cancel": r"^\w+ cancel-all",
    "pair": r"^\w+ pair | linked",
    "post-only": r"^\w+ .* post\b",
    "replace": r"^\w+ replace ",
    "restart": r"^restart",
    "self-trade prevention": r" change #",
    "stop": r"^\w+ (buy|sell) .* stop=(loss|entry)@",
    "trailing stop": r"^\w+ .* trail=| trailed #",
}
"""What orders do, and how a line or its trace shows it."""

CONTROLS = {
    "collar": r"PRICE_COLLAR|collared|by the collar",
    "limit state": r" by the limit state| repriced #",
    "volatility auction": r" auction, by the collar",
    "halt": r" cancel_only, by the collar",
    "kill switch": r"^switches .* kill| killed|KILL_SWITCH",
    "trading switches": r"^switches .* (buy-off|sell-off|cancel-only)|TRADING_OFF",
    "risk limit": r"^risk |RISK_LIMIT",
    "fat finger": r"ORDER_LIMIT",
    "calendar phase": r"by the calendar",
    "closing cross": r" opened .*, by the calendar",
    "correction": r"^bust ",
    "fee tier": r"^(tiers|override|rates) ",
    "rebate": r"fees -",
}
"""What the operator sets, and how a line or its trace shows it."""

RULES = ORDERS | CONTROLS

MISSING: tuple[tuple[str, str], ...] = ()

BEGIN = {"volatility auction", "halt", "closing cross"}
"""Rules that act when they come into force."""

_AT_ONCE = "each acts in one command or moment, and leaves nothing in force"
APART: dict[tuple[str, str], str] = {
    ("fill or kill", "mass cancel"): _AT_ONCE,
    ("fill or kill", "restart"): _AT_ONCE,
    ("fill or kill", "correction"): _AT_ONCE,
    ("mass cancel", "restart"): _AT_ONCE,
    ("mass cancel", "correction"): _AT_ONCE,
    ("restart", "correction"): _AT_ONCE,
    ("self-trade prevention", "halt"): "nothing trades in a halt",
}
"""Pairs that cannot meet, and why."""

TOUCHED = {"amend": r"= amended #(\d+)", "replace": r"= replaced #\d+ by #(\d+)", "self-trade prevention": r" change #(\d+)"}
"""Rules that leave a mark on an order. They are in force while the order is open."""


def in_force(state: State) -> Iterator[str]:
    """Return the rules that wait in a state for something to happen."""
    orders: list[Order] = [order for account in state.accounts.values() for order in account.open_orders()]
    for order in orders:
        terms = order.terms
        found = {
            "expiry": bool(order.expires_at),
            "post-only": bool(order.post_only),
            "stop": bool(order.stop),
            "iceberg": terms is not None and bool(terms.display_size),
            "exits": terms is not None and bool(terms.take_profit or terms.stop_loss),
            "pair": terms is not None and bool(terms.link),
            "trailing stop": terms is not None and bool(terms.trail),
        }
        yield from (name for name, is_so in found.items() if is_so)
    records = state.records
    for limits in records["product_limits"]:
        if limits.dynamic_ppm or limits.static_ppm:
            yield "collar"
        if limits.order_size_max or limits.order_notional_max or limits.distance_ppm:
            yield "fat finger"
    for row in records["interruption"]:
        yield "limit state" if row.limit_side else "halt" if row.halted else "volatility auction"
    for row in records["switch"]:
        yield "kill switch" if row.switches & Switch.KILL else "trading switches"
    for row in records["phase"]:
        yield "calendar phase"
        if row.phase == Phase.CLOSING_AUCTION:
            yield "closing cross"
    tiers = [rates for row in records["fee_tiers"] for rates in row.tiers]
    products = state.products.values()
    found = {
        "auction": any(product.status == ProductStatus.AUCTION for product in products),
        "dead man's switch": any(row.kind == Timer.CANCEL_AFTER for row in records["timer"]),
        "risk limit": len(records["risk"]) > 0,
        "fee tier": state.fee_rules,
        "rebate": any(product.maker_fee_ppm < 0 for product in products) or any(maker < 0 for _, maker, _ in tiers),
    }
    yield from (name for name, is_so in found.items() if is_so)


class Watched(Script):
    """A script that records which rules meet in its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[tuple[str, str]] = set()
        self.touched: set[tuple[str, int]] = set()

    def line(self, line: str) -> list[str]:
        before = self.waiting()
        trace = super().line(line)
        text = "\n".join([line, *(f"  {each}" for each in trace)])
        acting = {name for name, shown in RULES.items() if re.search(shown, text, re.MULTILINE)}
        self.touched |= {(name, int(found)) for name, shown in TOUCHED.items() for found in re.findall(shown, text)}
        after = self.waiting()
        acting |= (after - before) & BEGIN
        around = acting | before | after
        self.met |= {pair for pair in combinations(RULES, 2) if set(pair) <= around and acting & set(pair)}
        return trace

    def waiting(self) -> set[str]:
        """Return the rules that are in force."""
        states = ((name, self.engine.order(order_id)) for name, order_id in self.touched)
        touched = {name for name, order in states if order is not None and order.status is not OrderStatus.DONE}
        return touched | set(in_force(self.engine._state))


@cache
def met() -> frozenset[tuple[str, str]]:
    """Return the pairs of rules that meet in some script."""
    found: set[tuple[str, str]] = set()
    for path in sorted(Path(__file__).parent.glob("*.txt")):
        script = Watched()
        script.run(path.read_text(encoding="utf-8"))
        found |= script.met
    return frozenset(found)


def test_no_pair_of_rules_is_missing() -> None:
    assert [pair for pair in combinations(RULES, 2) if pair not in met() and pair not in APART] == list(MISSING)


def test_pairs_of_rules_that_exclude_each_other_have_no_script() -> None:
    assert all(pair in set(combinations(RULES, 2)) and reason for pair, reason in APART.items())
    assert [pair for pair in APART if pair in met()] == []
