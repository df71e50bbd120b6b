"""Orders, books, accounts and money by the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from node.native.client import RequestFailed
from node.native.products import put_again
from node.native.protocol import FailCode
from statemachine.commands import AnyCommand, PlaceOrder, PutProduct
from statemachine.events import AnyOutcome
from statemachine.types import ProductStatus
from tests.unit.node.cli.conftest import Run
from tests.unit.node.cli.fakes import FakeClient

RunJson = Callable[..., Any]
FIRST = "00000000-0000-0000-0000-000000000001"


def test_two_orders_trade(market: Run, run_json: RunJson) -> None:
    asked = run_json("order", "place", "BTC-USD", "sell", "--size", "2", "--price", "100.50", "--as", "bob")
    assert asked["id"] == FIRST
    assert asked["status"] == "open"
    assert market("order", "place", "BTC-USD", "buy", "--size", "0.5", "--as", "alice").stdout == (
        "00000000-0000-0000-0000-000000000002: market buy 0.5 BTC-USD: done filled, filled 0.5 for 50.25, fees 0.05025\n"
    )
    assert run_json("book", "BTC-USD")["asks"] == [["100.5", "1.5", 1]]
    assert run_json("book", "BTC-USD", "--level", "3")["asks"] == [["100.5", "1.5", FIRST]]
    balances = {row["currency"]: row for row in run_json("account", "bob")["balances"]}
    assert balances["BTC"] == {"currency": "BTC", "balance": "9.5", "available": "8", "hold": "1.5"}
    assert balances["USD"]["available"] == "50.25"


def test_the_book_is_shown_with_asks_above_bids(market: Run) -> None:
    market("order", "place", "BTC-USD", "sell", "--size", "1", "--price", "101", "--as", "bob")
    market("order", "place", "BTC-USD", "sell", "--size", "1", "--price", "102", "--as", "bob")
    market("order", "place", "BTC-USD", "buy", "--size", "1", "--price", "99", "--as", "alice")
    lines = [line for line in market("book", "BTC-USD").stdout.splitlines() if "ask" in line or "bid" in line]
    assert [line.split("│")[2].strip() for line in lines] == ["102", "101", "99"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "1", "--price", "1.0000001"], "price: expected at most 6 digits after the decimal point, not '1.0000001'"),
        (["--size", "1", "--price", "1.001"], "rejected: price off tick: field price: expected a multiple of 0.01"),
        (["--size", "0.00001", "--price", "1"], "expected a"),
        (["--size", "1000001", "--price", "1"], "expected at most 1000000"),
        (["--size", "1e3", "--price", "1"], "size: expected a plain decimal such as 12.5, not '1e3'"),
        (["--size", "-1", "--price", "1"], "size: expected a number that is not negative, not '-1'"),
        (["--funds", "0.0000001"], "funds: expected at most 6 digits"),
        (["--size", "0", "--price", "1"], "rejected: invalid size"),
        (["--size", "1", "--price", "0"], "rejected: invalid price"),
        (["--size", "100000", "--price", "1000"], "rejected: insufficient funds"),
        ([], "rejected: invalid"),
        (["--size", "1", "--price", "1", "--post-only", "--tif", "ioc"], "rejected: invalid order"),
        (
            ["--size", "1", "--price", "1", "--stop-price", "1.001"],
            "rejected: price off tick: field stop_price: expected a multiple",
        ),
        (["--size", "1", "--price", "1", "--stop-price", "one"], "stop-price: expected a plain decimal"),
        (["--size", "1", "--price", "1", "--tif", "gtt"], "rejected: invalid cancel after: field cancel_after"),
        (["--size", "1", "--cancel-after", "min"], "rejected: invalid order: field time_in_force"),
    ],
)
def test_a_bad_order_is_one_line_that_names_the_field(market: Run, arguments: list[str], message: str) -> None:
    result = market("order", "place", "BTC-USD", "buy", "--as", "alice", *arguments, code=1)
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["order", "place", "BTC-USD", "buy", "--size", "1"], "--as ACCOUNT"),
        (["order", "place", "BTC-USD", "long", "--size", "1", "--as", "alice"], "'long' is not one of 'buy', 'sell'"),
        (["order", "place", "BTC-USD", "buy", "1", "--size", "1", "--as", "alice"], "Give the size once"),
        (
            ["order", "place", "BTC-USD", "buy", "1", "--price", "1", "--stop", "loss", "--as", "alice"],
            "--stop needs --stop-price",
        ),
        (
            ["order", "place", "BTC-USD", "buy", "1", "--price", "1", "--cancel-after", "week", "--as", "alice"],
            "must be one of min,",
        ),
        (["order", "cancel", "--as", "alice"], "by its ID or by --client-oid"),
        (["order", "cancel", "1", "--client-oid", "x", "--as", "alice"], "by its ID or by --client-oid"),
        (["order", "cancel", "first", "--as", "alice"], "'first' is not an order id"),
        (["order", "cancel", "0", "--as", "alice"], "'0' is not an order id"),
        (["order", "cancel", "f" * 8 + "-ffff-ffff-ffff-" + "f" * 12, "--as", "alice"], "is not an order id"),
        (["product", "put", "BTCUSD"], "BASE-QUOTE"),
        (["key", "put", "k", "--account", "alice", "--permissions", "view,fly"], "'fly' is none of"),
        (["book", "BTC-USD", "--level", "4"], "'4' is not one of"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(market: Run, arguments: list[str], message: str) -> None:
    assert message in market(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["order", "place", "ETH-USD", "buy", "--size", "1", "--as", "alice"], "no product 'ETH-USD'; there are: BTC-USD"),
        (["book", "ETH-USD"], "no product 'ETH-USD'"),
        (["account", "carol"], "no account 'carol'"),
        (["deposit", "alice", "EUR", "1"], "no currency 'EUR'; there are: BTC, USD"),
        (["deposit", "carol", "USD", "1"], "rejected: unknown account"),
        (["withdraw", "alice", "USD", "9999999"], "rejected: insufficient funds"),
        (["order", "cancel", "77", "--as", "alice"], "rejected: unknown order"),
        (["product", "put", "ETH-USD"], "no currency 'ETH'"),
        (["currency", "put", "USD", "--scale", "3"], "rejected: currency changed"),
        (["order", "list", "--key", "absent.json"], "absent.json: cannot be read"),
    ],
)
def test_a_missing_or_refused_object_is_reported_in_one_line(market: Run, arguments: list[str], message: str) -> None:
    result = market(*arguments, code=1)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_same_client_oid_answers_the_same(market: Run, client: FakeClient) -> None:
    arguments = ("order", "place", "BTC-USD", "buy", "--size", "1", "--price", "99", "--as", "alice", "--client-oid", "mine")
    first = market(*arguments).stdout
    assert market(*arguments).stdout == f"sent before: {first}"
    assert len(client.engine.orders("alice")) == 1
    placed = client.submitted[-1][0]
    assert isinstance(placed, PlaceOrder)
    assert placed.command_id == "c:mine"


def test_orders_are_cancelled_by_either_id_or_all(market: Run, run_json: RunJson) -> None:
    for oid in ("a", "b", "c", "d"):
        market("order", "place", "BTC-USD", "buy", "--size", "1", "--price", "99", "--as", "alice", "--client-oid", oid)
    assert "done cancelled" in market("order", "cancel", "1", "--as", "alice").stdout
    assert run_json("order", "cancel", "--client-oid", "b", "--as", "alice")[0]["client_oid"] == "b"
    assert "done cancelled" in market("order", "cancel", "00000000-0000-0000-0000-000000000003", "--as", "alice").stdout
    assert [view["client_oid"] for view in run_json("order", "list", "--as", "alice")] == ["d"]
    assert [view["client_oid"] for view in run_json("order", "cancel-all", "--as", "alice")] == ["d"]
    assert market("order", "cancel-all", "--as", "alice").stdout == "no open orders\n"
    assert len(run_json("order", "list", "--as", "alice", "--done")) == 4


def test_a_stop_order_waits_for_its_price(market: Run, run_json: RunJson) -> None:
    arguments = ("order", "place", "BTC-USD", "sell", "1", "--price", "90", "--as", "bob")
    assert market(*arguments, "--stop", "loss", "--stop-price", "95").stdout == (
        f"{FIRST}: limit sell 1 BTC-USD at 90, stop loss at 95: active\n"
    )
    assert run_json(*arguments, "--stop-price", "94")["stop"] == "loss", "loss is the default for a sell"
    assert run_json(*arguments, "--stop-price", "94", "--stop", "entry")["stop"] == "entry"
    assert "active, stop loss at 95" in market("order", "list", "--as", "bob").stdout
    assert market("order", "cancel", "1", "--as", "bob").stdout.endswith("stop loss at 95: done cancelled\n")


def test_an_order_is_given_a_time_to_live(market: Run, run_json: RunJson, client: FakeClient) -> None:
    arguments = ("order", "place", "BTC-USD", "buy", "1", "--price", "90", "--as", "alice", "--cancel-after")
    line = market(*arguments, "min").stdout
    assert ": open, until 20" in line
    view = run_json(*arguments, "90", "--tif", "gtt")
    assert (view["time_in_force"], bool(view["expires_at"])) == ("GTT", True)
    placed = client.submitted[-1][0]
    assert isinstance(placed, PlaceOrder)
    assert placed.cancel_after == 90 * 10**9


def test_a_transfer_id_books_once(market: Run, run_json: RunJson) -> None:
    first = run_json("deposit", "alice", "USD", "5", "--transfer-id", "t1")
    again = run_json("deposit", "alice", "USD", "5", "--transfer-id", "t1")
    assert (first["available"], first["duplicate"]) == ("1000005", False)
    assert (again["available"], again["duplicate"]) == ("1000005", True)
    assert market("withdraw", "alice", "USD", "0.01").stdout == "alice has 1000004.99 USD available\n"


def test_money_moves_between_accounts_once(market: Run, run_json: RunJson) -> None:
    sent = ("account", "transfer", "alice", "bob", "USD", "2.5", "--transfer-id", "rent")
    assert market(*sent).stdout == "alice has 999997.5 USD available\n"
    assert market(*sent).stdout == "alice has 999997.5 USD available (booked before)\n"
    assert {row["currency"]: row["available"] for row in run_json("account", "bob")["balances"]} == {"BTC": "10", "USD": "2.5"}
    assert (
        "rejected: unknown account: field to_account_id"
        in market("account", "transfer", "alice", "carol", "USD", "1", code=1).stderr
    )


def test_a_status_changes_and_nothing_else(market: Run, run_json: RunJson, client: FakeClient) -> None:
    market("currency", "put", "EUR", "--scale", "2")
    market("product", "put", "BTC-EUR", "--maker-fee", "0.0005", "--min-size", "2")
    before = {view["id"]: view for view in run_json("product", "list")}
    assert market("product", "status", "BTC-EUR", "auction").stdout == "BTC-EUR auction (before: online)\n"
    after = {view["id"]: view for view in run_json("product", "list")}
    changed = {"status": "auction", "sequence": after["BTC-EUR"]["sequence"]}
    assert after == before | {"BTC-EUR": before["BTC-EUR"] | changed}
    assert run_json("product", "status", "--all", "auction") == [
        {"id": "BTC-EUR", "status": "auction", "before": "auction"},
        {"id": "BTC-USD", "status": "auction", "before": "online"},
    ]
    assert market("product", "status", "BTC-USD", "BTC-EUR", "online").stdout == (
        "BTC-USD online (before: auction)\nBTC-EUR online (before: auction)\n"
    )
    assert {view["status"] for view in run_json("product", "list")} == {"online"}
    assert market("product", "status", "BTC-USD", "limit_only", "--then", "cancel_only").stdout == (
        "BTC-USD limit_only cancel_only (before: online)\n"
    )
    assert len(client.submitted[-1]) == 2, "one request"
    assert [view["status"] for view in run_json("product", "list")] == ["online", "cancel_only"]
    assert "no product 'ETH-USD'" in market("product", "status", "ETH-USD", "online", code=1).stderr


def test_a_closing_auction_trades_and_nothing_comes_after_it(market: Run, run_json: RunJson) -> None:
    market("product", "status", "--all", "auction")
    assert "in an auction, which would trade 0 now\n" in market("book", "BTC-USD").stdout
    market("order", "place", "BTC-USD", "buy", "--size", "2", "--price", "101", "--as", "alice")
    market("order", "place", "BTC-USD", "sell", "--size", "1", "--price", "101", "--as", "bob")
    end = time.monotonic() + 10  # what an auction would do may be that of a moment ago
    while "in an auction, which would trade 1 at 101 now\n" not in market("book", "BTC-USD").stdout:
        assert time.monotonic() < end
    assert run_json("book", "BTC-USD")["auction"] == {"price": "101", "size": "1"}
    refused = market("order", "place", "BTC-USD", "buy", "--size", "1", "--as", "alice", code=1).stderr
    assert "rejected: product in auction: field order_type" in refused
    market("product", "status", "--all", "limit_only", "--then", "cancel_only")
    assert run_json("book", "BTC-USD")["auction"] is None
    assert run_json("book", "BTC-USD")["bids"] == [["101", "1", 1]]
    (sold,) = run_json("order", "list", "--as", "bob", "--done")
    assert (sold["status"], sold["executed_value"]) == ("done", "101")
    refused = market("order", "place", "BTC-USD", "buy", "--size", "1", "--price", "1", "--as", "alice", code=1).stderr
    assert "rejected: product cancel only" in refused


@pytest.mark.parametrize("names", [[], ["BTC-USD", "--all"]])
def test_a_status_is_for_named_products_or_for_all(market: Run, names: list[str]) -> None:
    assert "Name the products, or give --all" in market("product", "status", *names, "online", code=2).stderr


def test_a_product_keeps_its_tick_and_gives_whole_notionals(market: Run, run_json: RunJson) -> None:
    (view,) = run_json("product", "list")
    assert (view["tick"], view["lot"], view["taker_fee"], view["status"]) == ("0.01", "0.0001", "0.001", "online")
    market("currency", "put", "EUR", "--scale", "2")
    market("product", "put", "BTC-EUR")
    market("product", "put", "BTC-EUR", "--status", "cancel_only", "--maker-fee", "0.0005", "--replace")
    found = {view["id"]: view for view in run_json("product", "list")}["BTC-EUR"]
    assert (found["tick"], found["lot"], found["status"], found["maker_fee"]) == ("0.01", "1", "cancel_only", "0.0005")


def test_a_key_file_acts_for_its_account(market: Run, run_json: RunJson, tmp_path: Path, client: FakeClient) -> None:
    path = tmp_path / "alice.json"
    market("key", "put", "alice-key", "--account", "alice", "--out", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    written = json.loads(path.read_text())
    row = client.engine.api_key("alice-key")
    assert row is not None
    assert (row.owner_id, row.secret, row.passphrase, row.permissions) == ("alice", written["secret"], written["passphrase"], 3)
    market("order", "place", "BTC-USD", "buy", "--size", "1", "--price", "99", "--key", str(path))
    assert run_json("order", "list", "--key", str(path))[0]["account_id"] == "alice"
    assert "File exists" in market("key", "put", "alice-key", "--account", "alice", "--out", str(path), code=1).stderr
    assert json.loads(path.read_text()) == written


def test_a_key_that_was_not_put_leaves_no_file(market: Run, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    assert "rejected" in market("key", "put", "k", "--account", "carol", "--out", str(path), code=1).stderr
    assert not path.exists()


def test_no_leader_is_one_line(market: Run, client: FakeClient) -> None:
    client.failures.append(RequestFailed(FailCode.NO_LEADER, "no answer from a leader within 8 s"))
    result = market("account", "open", "carol", code=69)
    assert result.stderr == "Error: NO_LEADER: no answer from a leader within 8 s\n"


def test_account_is_short_for_account_show(market: Run) -> None:
    assert market("account", "alice").stdout == market("account", "show", "alice").stdout
    assert market("account", "--as", "alice").stdout == market("account", "alice").stdout
    assert "account open NAME" in market("account", "--help").stdout


def test_the_readmes_first_steps_work(run: Run, run_json: RunJson) -> None:
    readme = (Path(__file__).parents[4] / "README.md").read_text(encoding="utf-8")
    lines = [
        part.strip()
        for line in readme.splitlines()
        if line.startswith("quorumbook ")
        for part in line.partition("#")[0].split("&&")
    ]
    steps = [line.split()[1:] for line in lines if line.split()[1] not in ("init", "cluster")]
    assert len(steps) >= 5
    for step in steps:
        run(*step)
    assert run_json("product", "list")[0]["sequence"] > 0


def test_reads_reflect_everything_acknowledged(market: Run, client: FakeClient) -> None:
    market("book", "BTC-USD")
    assert client.linearizable
    assert all(client.linearizable)


def test_without_a_leader_a_read_shows_one_nodes_view_and_reports_it(market: Run, client: FakeClient) -> None:
    client.leaderless = True
    shown = market("account", "alice")
    assert "there is no leader at the moment" in shown.stderr
    assert "1000000" in shown.stdout


def test_a_product_is_changed_where_it_is_named_and_nowhere_else(market: Run, run_json: RunJson) -> None:
    """Formerly `product put` with one option opened a market that was in an auction, and reset its other fee and its
    largest size.
    """
    market(
        "product",
        "put",
        "BTC-EUR",
        "--base",
        "BTC",
        "--quote",
        "USD",
        "--max-size",
        "1000",
        "--maker-fee",
        "0.002",
        "--status",
        "auction",
    )
    refused = market("product", "put", "BTC-EUR", "--base", "BTC", "--quote", "USD", "--taker-fee", "0.003", code=1).stderr
    assert "product set" in refused
    output = market("product", "set", "BTC-EUR", "--taker-fee", "0.003").stdout
    assert output == "BTC-EUR taker_fee: 0.003 (before: 0)\n"
    found = {view["id"]: view for view in run_json("product", "list")}["BTC-EUR"]
    named = ("max_size", "maker_fee", "taker_fee", "status")
    assert tuple(found[name] for name in named) == ("1000", "0.002", "0.003", "auction")
    assert "has these values already" in market("product", "set", "BTC-EUR", "--taker-fee", "0.003").stdout
    assert "Name a setting to change" in market("product", "set", "BTC-EUR", code=2).stderr
    assert "no product 'XRP-USD'" in market("product", "set", "XRP-USD", "--status", "online", code=1).stderr


def test_a_product_that_is_the_same_may_be_put_again(market: Run) -> None:
    assert "exists already with these values" in market("product", "put", "BTC-USD", "--taker-fee", "0.001").stdout


def test_ticker_and_trades_show_the_market(market: Run, run_json: RunJson) -> None:
    market("order", "place", "--account", "bob", "BTC-USD", "sell", "2", "--price", "100")
    market("order", "place", "--account", "alice", "BTC-USD", "buy", "0.5", "--price", "100")
    (tick,) = run_json("ticker")
    assert (tick["last"], tick["trade_id"], tick["bid"], tick["ask"], tick["ask_size"]) == ("100", 1, "", "100", "1.5")
    assert run_json("ticker", "BTC-USD") == [tick]
    assert "100" in market("ticker").stdout
    assert market("trades", "BTC-USD").exit_code == 0
    assert "no product 'XRP-USD'" in market("trades", "XRP-USD", code=1).stderr


def test_a_change_at_the_same_moment_is_not_lost(
    market: Run, run_json: RunJson, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the read and the command, another operator halts the market and changes its largest size."""
    submit, others = client.submit, [PutProduct]

    async def slow(commands: Sequence[AnyCommand], *arguments: Any) -> list[AnyOutcome]:
        if isinstance(commands[0], PutProduct) and others:
            others.clear()
            row = client.engine.product("BTC-USD")
            assert row is not None
            await submit([put_again(row, "other", status=ProductStatus.AUCTION, max_size=10**11)])
        return await submit(commands, *arguments)

    monkeypatch.setattr(client, "submit", slow)
    market("product", "set", "BTC-USD", "--taker-fee", "0.003")
    (found,) = run_json("product", "list")
    assert (found["taker_fee"], found["status"], found["max_size"]) == ("0.003", "auction", "1000")
    others.append(PutProduct)
    market("product", "status", "BTC-USD", "cancel_only", "--then", "offline")
    assert run_json("product", "list")[0]["status"] == "offline"
    assert not others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("order", "place", "BTC-USD", "buy", "1000", "--price", "9999", "--as", "alice"), "10008999 needed, 1000000 available"),
        (("order", "place", "BTC-USD", "sell", "10.5", "--price", "100", "--as", "bob"), "10.5 needed, 10 available"),
        (("withdraw", "alice", "USD", "1000000.5"), "1000000 available"),
        (("account", "transfer", "alice", "bob", "USD", "1000000.5"), "1000000 available"),
        (("product", "put", "BTC-USD", "--tick", "0.1", "--replace"), "is 0.01 and cannot change"),
        (("product", "put", "BTC-USD", "--lot", "1", "--replace"), "is 0.0001 and cannot change"),
    ],
)
def test_a_person_reads_coins_and_not_smallest_units(market: Run, arguments: tuple[str, ...], message: str) -> None:
    assert message in market(*arguments, code=1).stderr


def test_a_command_does_not_wait_twice_for_a_leader(market: Run, client: FakeClient) -> None:
    """Formerly it took 17 s instead of the 8 s that are documented: it waited once for the digits and once for the
    command.
    """
    client.leaderless = True
    sent = len(client.submitted)
    result = market("deposit", "alice", "USD", "1", code=69)
    assert "nothing was applied" in result.stderr
    assert len(client.submitted) == sent
