"""The operator's controls by the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.node.cli.conftest import Run

RunJson = Callable[..., Any]

CALENDAR = """
time_zone = "Europe/Berlin"
random = 30
[week]
mon-fri = ["08:50 auction", "09:00 continuous", "17:30 closing_auction", "17:35 closed"]
[days]
2026-12-25 = []
"""


def test_the_kill_switch_cancels_and_refuses_until_it_is_off(market: Run, run_json: RunJson) -> None:
    market("order", "place", "BTC-USD", "buy", "--size", "1", "--price", "90", "--as", "alice")
    assert market("kill-switch", "set", "account", "alice", "--note", "runaway", "--yes").stdout == (
        "account alice: kill\n1 orders cancelled\n"
    )
    (row,) = run_json("kill-switch", "show")
    assert (row["scope"], row["name"], row["off"], row["note"], row["cancelling"]) == (
        "account",
        "alice",
        "kill",
        "runaway",
        "no",
    )
    refused = market("order", "place", "BTC-USD", "buy", "--size", "1", "--price", "90", "--as", "alice", code=1)
    assert "kill switch" in refused.stderr
    assert market("kill-switch", "set", "account", "alice", "--to", "on").stdout == "account alice: on\n"
    assert run_json("kill-switch", "show") == []


def test_limits_and_risk_are_set_and_shown(market: Run, run_json: RunJson) -> None:
    times = ("--limit", "15", "--halt", "60", "--call", "300")
    market("limits", "set", "BTC-USD", "--dynamic", "0.05", "--action", "halt", *times, "--order-size", "5")
    (row,) = run_json("limits", "show")
    assert (row["dynamic"], row["action"], row["halt"], row["call"], row["order size"]) == ("0.05", "halt", "60", "300", "5")
    assert row["limit"] == "15"
    market("firm", "put", "acme")
    market("firm", "member", "alice", "acme")
    assert run_json("firm", "list") == [{"firm": "acme", "account": "alice"}]
    market("risk", "set", "firm", "acme", "--currency", "USD", "--open", "1000", "--volume", "5000")
    (risk,) = run_json("risk", "show")
    assert (risk["scope"], risk["name"], risk["open"], risk["volume"]) == ("firm", "acme", "1000", "5000")
    refused = market("order", "place", "BTC-USD", "buy", "--size", "6", "--price", "10", "--as", "alice", code=1)
    assert "order limit" in refused.stderr


def test_fees_are_set_and_shown(market: Run, run_json: RunJson) -> None:
    market("fees", "tiers", "currency", "USD", "0:0.004:0.006", "150:-0.001:0.002")
    assert run_json("fees", "show", "alice") == {
        "account_id": "alice",
        "maker_fee": "0.004",
        "taker_fee": "0.006",
        "volumes": {"USD": "0"},
    }
    market("fees", "override", "bob", "--product", "BTC-USD", "--maker", "-0.0005", "--taker", "0.001")
    shown = market("fees", "show", "bob", "--product", "BTC-USD").stdout
    assert shown == "bob: maker -0.0005, taker 0.001\ntraded in 30 days: 0 USD\n"
    assert [row["of"] for row in run_json("fees", "list")] == ["USD", "USD", "bob BTC-USD"]
    refused = market("fees", "override", "bob", "--maker", "-0.002", "--taker", "0.001", code=1)
    assert "maker fee" in refused.stderr
    market("fees", "override", "bob", "--product", "BTC-USD", "--remove")
    market("fees", "tiers", "currency", "USD")
    assert run_json("fees", "list") == []


def test_a_calendar_is_read_from_a_file(market: Run, run_json: RunJson, tmp_path: Path) -> None:
    path = tmp_path / "berlin.toml"
    path.write_text(CALENDAR)
    market("calendar", "set", "berlin", str(path))
    market("calendar", "follow", "product", "BTC-USD", "--calendar", "berlin")
    assert "09:00 continuous" in market("calendar", "show", "berlin").stdout
    (row,) = run_json("calendar", "show")
    assert row["product"] == "BTC-USD"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'time_zone = "Europe/Atlantis"\n[week]\n', "time_zone: expected a name of the IANA database"),
        (b"\xff", "can't decode"),
        (b'time_zone = "UTC"\n[week]\nfri-mon = ["09:00 continuous"]', "week: expected days such as mon or mon-fri"),
        (b'time_zone = "UTC"\n[week]\n"mon-" = ["09:00 continuous"]', "week: expected days such as mon or mon-fri"),
        (b'time_zone = "UTC"\nrandom = 9999999999999\n[week]', "`int` <= 86400"),
        (b'time_zone = "UTC"\nextensions = -1\n[week]', "`int` >= 0"),
    ],
)
def test_a_calendar_that_is_wrong_is_refused(market: Run, tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_bytes(text)
    assert message in market("calendar", "set", "x", str(path), code=1).stderr


def test_a_trade_is_busted(market: Run, run_json: RunJson) -> None:
    market("order", "place", "BTC-USD", "sell", "--size", "1", "--price", "100", "--as", "bob")
    market("order", "place", "BTC-USD", "buy", "--size", "1", "--price", "100", "--as", "alice")
    before = run_json("account", "alice")["balances"]
    assert "alice from bob" in market("trade", "bust", "BTC-USD", "1", "--yes", "--note", "fat finger").stdout
    after = run_json("account", "alice")["balances"]
    assert before != after
    assert "corrected before" in market("trade", "bust", "BTC-USD", "1", "--yes", code=1).stderr
