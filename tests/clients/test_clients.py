"""Every foreign client makes its calls, and continues to trade while the leader is killed."""

from __future__ import annotations

import asyncio

import pytest

from node.gateway.values import order_text
from tests.clients import packages
from tests.clients.packages import CBPRO, CCXT, COINBASE_PRO, COINBASE_PRO_NODE, Package
from tests.clients.script import FOREIGN, Script
from tests.clients.stage import Stage
from tests.clients.table import Table

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(420)]

ORDERS = 100
BEFORE_THE_KILL = 10
PAUSE_MAX = 5.0
"""Seconds from the first to the last failed request, and of the slowest order. About one on a quiet machine."""


def command(package: Package, script: str) -> list[str]:
    """Return the command that runs a script in the package's environment."""
    if package.npm:
        return [packages.node(), str(FOREIGN / f"{script}.mjs")]
    return [packages.python(package), "-m", f"tests.clients.foreign.{script}"]


@pytest.mark.parametrize(
    ("name", "package", "script"),
    [
        ("ccxt", CCXT, "ccxt_rest"),
        ("ccxt.pro", CCXT, "ccxt_pro"),
        ("cbpro", CBPRO, "cbpro_rest"),
        ("coinbase-pro", COINBASE_PRO, "coinbase_pro"),
        ("coinbase-pro-node", COINBASE_PRO_NODE, "coinbase_pro_node"),
    ],
)
def test_a_foreign_client_trades(stage: Stage, table: Table, name: str, package: Package, script: str) -> None:
    run = command(package, script)
    modules = packages.modules(package) if package.npm else ""
    results, kill = asyncio.run(play(stage, name, run, modules))
    for call, result in results.items():
        table.add(name, package.version, call, result)
    table.add(name, package.version, f"{ORDERS} orders while the leader is killed", kill)
    failed = {call: result for call, result in results.items() if result.startswith("fails")}
    assert not failed


async def play(stage: Stage, name: str, run: list[str], modules: str) -> tuple[dict[str, str], str]:
    """Run a script while the leader is killed. Returns its results, and how long the kill interrupted it."""
    given = await stage.given(name, ORDERS) | {"modules": modules}
    script = await Script.start(*run, given=given)
    killed = ""
    try:
        await script.until("ready")
        killed = await stage.kill_leader_after(name, BEFORE_THE_KILL, ORDERS // 2)
        kill = await script.until("placed")
        await script.until("end")
    finally:
        await script.end()
        if killed:
            await stage.bring_back(killed)
    orders = {order.client_oid: order_text(order.order_id) for order in await stage.open_orders(name)}
    assert kill["placed"] == orders, "every order was placed once, as it was answered"
    assert len(orders) == ORDERS
    assert max(kill["span"], kill["longest"]) < PAUSE_MAX, kill["texts"]
    figures = f"{kill['failures']} failed requests within {kill['span']:.1f} s; the slowest order took {kill['longest']:.1f} s"
    return script.results(), f"{figures}; none lost, none doubled"
