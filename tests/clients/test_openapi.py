"""The OpenAPI document describes the server: schemathesis makes requests from it, and every answer must be one that it
lists.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from node.gateway.limits import Limits
from tests.clients import packages
from tests.clients.packages import SCHEMATHESIS
from tests.clients.script import ROOT
from tests.unit.node.gateway.harness import ADMIN, Exchange
from tests.unit.node.gateway.kept import running_with_history

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = int(os.environ.get("QUORUMBOOK_OPENAPI_EXAMPLES", "8"))
"""Requests of each call that are drawn at random, beside those at the bounds of each parameter."""

REFUSED = {("POST", "/coinbase-accounts/{id}/addresses")}
"""Calls that are there to be refused in words."""

ELSEWHERE = {
    ("POST", "/orders/pair"),
    ("POST", "/orders/{id}/replace"),
    ("POST", "/admin/products/{id}/resume"),
    ("POST", "/admin/products/{id}/trades/{trade}/correction"),
    ("PUT", "/admin/calendars/{id}"),
    ("POST", "/admin/proposals/{id}/{decision}"),
}
"""Calls whose fields must fit each other, or that need a halted product or a proposal, so that no random request is
carried out. `tests/unit/node/gateway/test_amending.py`, `test_controls.py` and `test_access.py` reach them.
"""

CONTROLS = (
    r"^/admin/(switches|risk|follows|calendars|firms|access|products/[^/]+/(limits|group|resume|trades)|accounts/[^/]+/firm)"
)
"""Calls that stop trading, or bound it."""

PARTS = (
    ("--exclude-method", "DELETE", "--exclude-path-regex", CONTROLS),
    ("--include-method", "DELETE", "--exclude-path-regex", CONTROLS),
    ("--include-path-regex", CONTROLS),
)
"""The order of the calls: a cancel of all orders, and a kill switch, leave none for the others."""

DONE = re.compile(r'^quorumbook_http_requests_total{method="(\w+)",node="n1",route="([^"]+)",status="200"', re.MULTILINE)


@pytest.mark.timeout(420)
async def test_every_answer_is_in_the_document(tmp_path: Path) -> None:
    program = packages.environment(SCHEMATHESIS) / "venv" / "bin" / "schemathesis"
    async with running_with_history(tmp_path) as exchange:
        exchange.gateway.limits = Limits(0, 0)
        url = str(exchange.client.make_url("/openapi.json"))
        values = await given(exchange)
        for part in PARTS:
            output = await run(
                *(str(program), "run", url, "--checks", CHECKS, "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"),
                *("--phases", "coverage,fuzzing", "--suppress-health-check", "all", "--generation-database", "none"),
                *("--generation-with-security-parameters", "false", "--warnings", "off", "--continue-on-failure"),
                *part,
                given=values,
                directory=tmp_path,
            )
            assert "No issues found" in output, output[-6_000:]
        await check_reach(exchange)


async def run(*command: str, given: dict[str, object], directory: Path) -> str:
    """Run the program. Returns what it prints. It keeps its findings in `directory`."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment |= {
        "SCHEMATHESIS_HOOKS": "tests.clients.foreign.schemathesis_hooks",
        "QUORUMBOOK_GIVEN": json.dumps(given),
        "PYTHONPATH": str(ROOT),
    }
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        return (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def given(exchange: Exchange) -> dict[str, object]:
    """Return keys and values that exist."""
    trader = exchange.keys["alice"]
    orders = [await exchange.order("alice", "buy", "1", "1", client_oid=f"known-{number}") for number in range(10)]
    await exchange.order("bob", "sell", "900", "5")
    await exchange.order("alice", "buy", "900", "1")
    order_ids = [order["id"] for order in orders]
    return {
        "admin": {"key": ADMIN.key_id, "secret": ADMIN.secret, "passphrase": ADMIN.passphrase},
        "trader": {"key": trader.key_id, "secret": trader.secret, "passphrase": trader.passphrase},
        "known": {
            "id": ["BTC-USD", "ETH-BTC"],
            "/orders/{id} id": [*order_ids, "client:known-1", "client:known-9"],
            "/accounts/{id} id": ["alice:USD", "alice:BTC"],
            **{f"/accounts/{{id}}/{what} id": ["alice:USD", "alice:BTC"] for what in ("ledger", "holds", "transfers")},
            "/transfers/{id} id": ["start-USD"],
            "/transfers type": ["deposit", "withdraw"],
            "/accounts/{id}/transfers type": ["deposit"],
            "/accounts/{id}/ledger type": ["match", "transfer"],
            **{f"/admin/{what}/{{scope}}/{{id}} scope": ["account"] for what in ("switches", "risk")},
            **{f"/admin/{what}/{{scope}}/{{id}} id": ["alice"] for what in ("switches", "risk")},
            "/admin/fees/{scope}/{id} scope": ["product"],
            "/admin/fees/{scope}/{id} id": ["BTC-USD"],
            "tiers": [[]],
            "user_id": [""],
            "/admin/follows/{scope}/{id} scope": ["product"],
            "/admin/follows/{scope}/{id} id": ["BTC-USD"],
            "order_id": order_ids[:2],
            "/profiles/{id} id": ["alice"],
            "/currencies/{id} id": ["USD", "BTC"],
            "/admin/currencies/{id} id": ["USD", "NEW"],
            "/admin/accounts/{id}/deposits id": ["alice", "bob"],
            "/admin/keys/{id} id": ["spare"],
            "account_id": ["alice"],
            "permissions": [["view"]],
            "secret": [trader.secret],
            "base_currency": ["BTC"],
            "quote_currency": ["USD"],
            "product_id": ["BTC-USD", "BTC/USD"],
            "profile_id": ["alice", None],
            "currency": ["USD", "BTC"],
            "amount": ["1", "0.01"],
            "side": ["buy", "sell"],
            "type": ["limit", "market", "stop"],
            "price": ["800", "900"],
            "size": ["1", "0.5"],
            "time_in_force": ["GTC", "IOC", "GTT", None],
            "cancel_after": ["min", 90, None],
            "stop": ["loss", "entry", None],
            "stop_price": ["800", None],
            "stp": ["dc", "co", "cn", "cb", None],
            **{name: [None] for name in ("stop_limit_price", "max_floor")},
            "order_ids": [order_ids[:2], order_ids[2:4]],
            "scale": [8],
        },
    }


async def check_reach(exchange: Exchange) -> None:
    """Check that nearly every call of the document was also answered with 200. Otherwise the run has seen rejects only."""
    text = await (await exchange.client.get("/metrics")).text()
    document: dict[str, Any] = await (await exchange.client.get("/openapi.json")).json()
    done = set(DONE.findall(text))
    wanted = {(method.upper(), path) for path, item in document["paths"].items() for method in item} - REFUSED - ELSEWHERE
    never = wanted - done
    assert len(never) <= len(wanted) // 10, "\n".join(f"{method} {path}" for method, path in sorted(never))
