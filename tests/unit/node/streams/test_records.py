"""Records of a stream: topics, keys, sequences, JSON and msgpack. They contain no secrets."""

from __future__ import annotations

import json

import msgspec
import pytest

from node.history.projection import apply
from node.streams.broker import Record
from node.streams.records import KEY_MAX, RECORD_MAX, RecordWriter
from node.streams.schema import text as schema_text
from statemachine.commands import (
    AnyCommand,
    Batch,
    CancelAll,
    CorrectTrade,
    Deposit,
    NoteStream,
    OpenAccount,
    PlaceOrder,
    PutApiKey,
    PutCurrency,
    PutProduct,
    encode_batch,
)
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.types import OrderType, Side

SETUP: list[AnyCommand] = [
    PutCurrency(OPERATOR, "1", "BTC", 8),
    PutCurrency(OPERATOR, "2", "USD", 2),
    PutProduct(OPERATOR, "3", "BTC-USD", "BTC", "USD", 100, 10**8, 10**8, 10**12, 0, 0),
    OpenAccount(OPERATOR, "4", "alice"),
    OpenAccount(OPERATOR, "5", "bob"),
    Deposit("alice", "6", "USD", 10**9),
    Deposit("bob", "7", "BTC", 10**9),
    PutApiKey(OPERATOR, "8", "key", "alice", "c2VjcmV0c2VjcmV0", "passphrase-hush", 3),
]
TRADING: list[AnyCommand] = [
    PlaceOrder("alice", "9", "BTC-USD", Side.BUY, OrderType.LIMIT, 30_000, 2 * 10**8),
    PlaceOrder("bob", "10", "BTC-USD", Side.SELL, OrderType.LIMIT, 30_000, 10**8),
    PlaceOrder("bob", "11", "NO-SUCH", Side.SELL, OrderType.LIMIT, 30_000, 10**8),
    CancelAll("alice", "12"),
]


def made(form: str, *batches: list[AnyCommand]) -> list[Record]:
    """Return the records of some log entries."""
    engine, writer = Engine(), RecordWriter("qb", form)
    found: list[Record] = []
    for number, commands in enumerate(batches, 1):
        found += writer.records(engine, apply(engine, encode_batch(Batch(number * 10**9, commands))))
    return found


def of(records: list[Record], topic: str, key: str) -> list[Record]:
    return [record for record in records if (record.topic, record.key) == (f"qb.{topic}", key)]


def test_events_are_by_product_and_without_a_gap() -> None:
    events = of(made("json", SETUP, TRADING), "events", "BTC-USD")
    assert [record.sequence for record in events] == list(range(1, len(events) + 1))
    values = [json.loads(record.value) for record in events]
    assert [value["type"] for value in values] == [record.kind for record in events]
    trade = next(value for value in values if value["type"] == "order_matched")
    assert (trade["price"], trade["size"], trade["side"], trade["time_ns"]) == ("30000", "100000000", "buy", "2000000000")
    assert trade["auction"] is False


def test_commands_are_by_account_and_have_their_outcome() -> None:
    records = made("json", SETUP, TRADING)
    commands = [record for record in records if record.topic == "qb.commands"]
    assert [record.sequence for record in commands] == list(range(1, len(SETUP) + len(TRADING) + 1))
    refused = json.loads(next(record for record in commands if record.sequence == 11).value)
    assert (refused["outcome"]["type"], refused["outcome"]["reason"]) == ("rejected", "unknown_product")
    assert refused["command"]["command_id"] == "11"
    placed = json.loads(next(record for record in commands if record.sequence == 9).value)
    assert placed["outcome"]["order"]["remaining"] == "200000000"
    assert of(records, "commands", OPERATOR)


def test_balances_follow_the_log_entry() -> None:
    records = made("json", SETUP, TRADING)
    (value,) = [json.loads(record.value) for record in of(records, "accounts", "bob")][-1:]
    rows = {row["currency"]: (row["available"], row["hold"]) for row in value["balances"]}
    assert rows == {"BTC": ("900000000", "0"), "USD": ("30000", "0")}
    assert not of(records, "accounts", OPERATOR)


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_no_record_has_a_secret(form: str) -> None:
    records = made(form, SETUP)
    assert any(record.kind == "put_api_key" for record in records)
    assert not [record for record in records if b"c2VjcmV0" in record.value or b"hush" in record.value]


def test_records_in_msgpack_equal_those_in_json_with_integers() -> None:
    texts, packed = made("json", SETUP, TRADING), made("msgpack", SETUP, TRADING)
    assert [record.key for record in texts] == [record.key for record in packed]
    trade = msgspec.msgpack.decode(next(record for record in packed if record.kind == "order_matched").value)
    assert (trade["price"], trade["side"]) == (30_000, "buy")


def test_a_command_that_was_seen_makes_no_second_record() -> None:
    again = made("json", SETUP, [SETUP[5]])
    assert len(of(again, "commands", "alice")) == len(of(made("json", SETUP), "commands", "alice"))


def test_every_node_makes_the_same_bytes() -> None:
    assert made("json", SETUP, TRADING) == made("json", SETUP, TRADING)


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_every_record_fits_the_schema_that_is_documented(form: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    documented = json.loads(schema_text())
    judge = jsonschema.Draft202012Validator(documented[form])
    judge.check_schema(documented[form])
    records = made(form, SETUP, TRADING, [NoteStream("alice", "13", "key/o", "origin", "text", open=True)])
    records += RecordWriter("qb", form).cuts(Engine(), 0)
    assert {"place_order", "order_matched", "balances", "cut_back", "put_api_key"} <= {record.kind for record in records}
    for record in records:
        value = json.loads(record.value) if form == "json" else msgspec.msgpack.decode(record.value)
        judge.validate(value)
        wrong = {name: each for name, each in value.items() if name != "time_ns"}
        assert not judge.is_valid(wrong), "a field that is missing is noticed"


def test_report_streams_are_not_published() -> None:
    with_stream = made("json", SETUP, [NoteStream("alice", "13", "key/o", "origin", "35=A", open=True)], TRADING)
    assert not [record for record in with_stream if record.key == "key/o"]
    assert of(with_stream, "events", "BTC-USD")


def test_a_bust_that_moves_money_gives_the_balances_of_both_accounts() -> None:
    bust = CorrectTrade(OPERATOR, "13", "BTC-USD", 1, "alice", "bob", 30_000, 10**8, 0, 0)
    records = made("json", SETUP, TRADING, [bust])
    for name in ("alice", "bob"):
        (*_, last) = of(records, "accounts", name)
        assert last.sequence == len(SETUP) + len(TRADING) + 1


def test_a_record_has_the_headers_that_its_consumers_compare() -> None:
    """Only the position tells apart two balances of an account that changed with time alone."""
    record = Record("quorumbook.accounts", "ann", b"{}", 7, "balances", 3, 2)
    assert record.headers() == {"sequence": "7", "type": "balances", "place": "3.2"}


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_command_that_is_too_large_for_a_broker_is_cut(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka and NATS accept 1 MB. The stream published such a record again and again, and never continued."""
    huge = PlaceOrder("a" * 3_000_000, "\x00" * 400_000, "\u20ac" * 400_000, Side.BUY, OrderType.LIMIT, 1, 1)
    (record,) = made(form, [huge])
    assert len(record.value) < RECORD_MAX
    assert len(record.key) == KEY_MAX
    body = json.loads(record.value) if form == "json" else msgspec.msgpack.decode(record.value)
    assert (body["cut"], body["type"], body["outcome"]["type"]) == (True, "place_order", "rejected")
    assert body["command"]["product_id"] == "\u20ac" * 4_096
    orders: list[AnyCommand] = [
        PlaceOrder("alice", f"o{n}", "BTC-USD", Side.BUY, OrderType.LIMIT, 100, 10**8, client_oid=f"o{n}") for n in range(110)
    ]
    whole = made(form, SETUP, orders, [CancelAll("alice", "all")])[-2]
    monkeypatch.setattr("node.streams.records.RECORD_MAX", len(whole.value) - 1)
    record = made(form, SETUP, orders, [CancelAll("alice", "all")])[-2]
    assert (record.kind, len(record.value) < len(whole.value)) == ("cancel_all", True)
    body = json.loads(record.value) if form == "json" else msgspec.msgpack.decode(record.value)
    assert (body["cut"], len(body["outcome"]["orders"])) == (True, 100)


def test_a_command_with_few_orders_is_whole() -> None:
    (cancel,) = [each for each in made("json", SETUP, TRADING) if each.kind == "cancel_all"]
    assert "cut" not in json.loads(cancel.value)
