"""Report streams: every event of an account's orders gets a number in the account's stream, and a restored engine
continues the numbers.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    Batch,
    CancelAll,
    CancelOrder,
    CorrectTrade,
    NoteStream,
    OrderOptions,
    PlaceOrder,
    PutApiKey,
)
from statemachine.engine import Engine
from statemachine.events import AnyEvent, Noted, OrderReported, Rejected, StreamNoted
from statemachine.limits import NOTE_MAX, OPERATOR, STREAMS_ACTIVE, STREAMS_PER_ACCOUNT
from statemachine.types import OrderType, Reason, ReportKind, Side, StopType
from tests.unit.statemachine.market import PRODUCT, limit, market, placed, send

STREAM = "ann-key/o"
SECRET = "c2VjcmV0c2VjcmV0"


def opened(engine: Engine, stream_id: str = STREAM, account: str = "ann", **more: Any) -> Noted:
    outcome = send(engine, note(stream_id, account, open=True, **more))
    assert isinstance(outcome, Noted), outcome
    return outcome


def note(stream_id: str = STREAM, account: str = "ann", text: str = "", **more: object) -> NoteStream:
    global _notes
    _notes += 1
    return msgspec.structs.replace(NoteStream(account, f"note-{_notes}", stream_id, "n1", text), **more)


_notes = 0


def events_of(engine: Engine, command: AnyCommand, stream_id: str = STREAM) -> list[AnyEvent]:
    """Return the events that a command adds to a stream."""
    events = engine.apply(Batch(engine.time + 1, [command])).events
    return [event for event in events if event.product_id == stream_id]


def kinds(events: list[AnyEvent]) -> list[ReportKind]:
    return [event.kind for event in events if isinstance(event, OrderReported)]


def test_the_reports_of_an_order_have_numbers_without_gaps() -> None:
    engine = market(maker_ppm=1_000)
    assert opened(engine).number == 0
    new = events_of(engine, limit("ann", "1", Side.BUY, 10, 100, oid="one"))
    trade = events_of(engine, limit("bob", "2", Side.SELL, 4, 90))
    gone = events_of(engine, CancelAll("ann", "3"))
    assert kinds([*new, *trade, *gone]) == [ReportKind.NEW, ReportKind.TRADE, ReportKind.DONE]
    assert [event.product_sequence for event in (*new, *trade, *gone)] == [1, 2, 3]
    filled = trade[0]
    assert isinstance(filled, OrderReported)
    assert (filled.last_price, filled.last_size, filled.last_fee, filled.trade_id) == (100, 4, 1, 1)
    assert (filled.remaining, filled.filled_size, filled.executed_value, filled.client_oid) == (6, 4, 400, "one")
    assert not filled.liquidity_taker
    engine.check()


def test_the_last_trade_of_a_whole_order_is_its_last_report() -> None:
    engine = market()
    opened(engine)
    events_of(engine, limit("bob", "1", Side.SELL, 3, 100))
    assert kinds(events_of(engine, limit("ann", "2", Side.BUY, 3, 100))) == [ReportKind.NEW, ReportKind.TRADE]


def test_an_order_by_funds_is_reported_done() -> None:
    engine = market()
    opened(engine)
    events_of(engine, limit("bob", "1", Side.SELL, 3, 100))
    by_funds = PlaceOrder("ann", "2", PRODUCT, Side.BUY, OrderType.MARKET, 0, 0, 250)
    assert kinds(events_of(engine, by_funds)) == [ReportKind.NEW, ReportKind.TRADE, ReportKind.DONE]


def test_a_stop_order_is_new_then_triggered() -> None:
    engine = market(names=("ann", "bob", "cat"))
    opened(engine)
    stop = PlaceOrder("ann", "1", PRODUCT, Side.BUY, OrderType.LIMIT, 100, 5, client_oid="s", stop=StopType.ENTRY, stop_price=90)
    assert kinds(events_of(engine, stop)) == [ReportKind.NEW]
    events_of(engine, limit("bob", "2", Side.SELL, 1, 95))
    assert kinds(events_of(engine, limit("cat", "3", Side.BUY, 1, 95))) == [ReportKind.TRIGGERED]


def test_only_accounts_with_a_stream_get_reports_and_only_their_own() -> None:
    engine = market()
    opened(engine)
    assert events_of(engine, limit("bob", "1", Side.SELL, 3, 100)) == []
    assert engine.stream("bob-key/o") is None


def test_a_note_has_a_number_and_a_reset_sets_a_new_base() -> None:
    engine = market()
    first = opened(engine, text="logon", taken=1)
    assert (first.number, first.base, first.taken) == (1, 0, 1)
    events_of(engine, limit("ann", "1", Side.BUY, 10, 100))
    again = opened(engine, text="logon", reset=True, taken=1)
    assert (again.number, again.base, again.taken) == (3, 2, 1)
    empty = send(engine, note(taken=7))
    assert isinstance(empty, Noted)
    assert (empty.number, empty.taken) == (3, 7)
    lower = send(engine, note(taken=5))
    assert isinstance(lower, Noted)
    assert lower.taken == 7


def test_a_note_that_comes_again_is_written_once() -> None:
    engine = market()
    command = note(text="logon", open=True)
    events = events_of(engine, command)
    assert [type(event) for event in events] == [StreamNoted]
    assert events_of(engine, command) == []
    outcome = send(engine, command)
    assert isinstance(outcome, Noted)
    assert outcome.duplicate
    assert outcome.number == 1


def test_invalid_notes_are_refused_and_leave_no_trace() -> None:
    engine = market()
    opened(engine)
    before = dict(engine.tables())["stream"]
    refused = (
        note("no slash", open=True),
        note("a/" + "b" * 9, open=True),
        note(text="x" * (NOTE_MAX + 1)),
        note(taken=-1),
        note(origin="x" * 65),
        note("other/o"),
        note(account="bob"),
    )
    for command in refused:
        outcome = send(engine, command)
        assert isinstance(outcome, Rejected), command
        assert outcome.reason is Reason.INVALID_STREAM
    assert dict(engine.tables())["stream"] == before
    engine.check()


def key(engine: Engine, key_id: str, account: str = "ann", permissions: int = 3) -> None:
    """Add, change or revoke an API key."""
    command = PutApiKey(OPERATOR, f"put-{engine.sequence}", key_id, account, SECRET, "passphrase", permissions)
    assert not isinstance(send(engine, command), Rejected)


def test_the_oldest_active_stream_becomes_inactive_and_the_oldest_inactive_one_ends() -> None:
    """A user who may view the account could use up its streams for ever, and so could keys that are changed each month."""
    engine = market()
    for number in range(STREAMS_PER_ACCOUNT + 1):
        key(engine, f"key{number}")
    for number in range(STREAMS_ACTIVE + 1):
        opened(engine, f"key{number}/o", text="logon")
    first = engine.stream("key0/o")
    assert first is not None
    assert not first.active
    resting = send(engine, note("key0/o", text="x"))
    assert isinstance(resting, Rejected)
    assert opened(engine, "key0/o", reset=True).number == 1
    for number in range(STREAMS_ACTIVE + 1, STREAMS_PER_ACCOUNT):
        opened(engine, f"key{number}/o")
    further = opened(engine, f"key{STREAMS_PER_ACCOUNT}/o", text="logon")
    assert engine.stream("key1/o") is None
    assert engine.stream("key2/o") is not None
    assert further.number == further.base + 1
    assert further.base >= max(number for name, number in engine.sequences().items() if "/" in name) - 1
    again = opened(engine, "key1/o", text="logon")
    assert again.base >= further.number, "numbers of a stream never restart"
    engine.check()


def test_streams_of_revoked_keys_end_first_and_active_ones_of_valid_keys_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statemachine.streams.STREAMS", 3)
    engine = market()
    for name, account in (("a", "ann"), ("b", "bob"), ("u", OPERATOR), ("c", "ann")):
        key(engine, name, account)
    opened(engine, "a/o")
    opened(engine, "b/o", "bob")
    opened(engine, "ann:u/d")
    refused = send(engine, note("c/o", open=True))
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.TOO_MANY_STREAMS
    key(engine, "b", "bob", permissions=0)
    opened(engine, "c/o")
    assert (engine.stream("b/o"), engine.account_exists("bob")) == (None, True)
    key(engine, "u", OPERATOR, permissions=0)
    assert isinstance(send(engine, note("b/o", "bob", open=True)), Noted)
    assert engine.stream("ann:u/d") is None
    engine.check()


def test_a_key_that_changes_its_account_begins_a_stream_of_its_own() -> None:
    engine = market()
    key(engine, "a")
    before = opened(engine, "a/o", text="logon")
    assert isinstance(send(engine, note("a/o", "bob", open=True, reset=True)), Rejected)
    key(engine, "a", "bob")
    assert isinstance(send(engine, note("a/o", "bob", open=True)), Rejected), "its client has to count anew"
    begun = opened(engine, "a/o", "bob", reset=True)
    assert begun.base == before.number
    stream = engine.stream("a/o")
    assert stream is not None
    assert (stream.account_id, stream.active) == ("bob", True)
    engine.check()


def test_the_stream_of_a_revoked_key_rests_first() -> None:
    engine = market()
    for number in range(STREAMS_ACTIVE + 1):
        key(engine, f"k{number}")
        if number < STREAMS_ACTIVE:
            opened(engine, f"k{number}/o")
    key(engine, "k2", permissions=0)
    opened(engine, f"k{STREAMS_ACTIVE}/o")
    active = [number for number in range(STREAMS_ACTIVE + 1) if (found := engine.stream(f"k{number}/o")) and found.active]
    assert 2 not in active
    assert len(active) == STREAMS_ACTIVE


def test_a_drop_copy_displaces_drop_copies_before_order_entry() -> None:
    """A user who may only view an account can open drop copies. Four of them ended the reports of its order entry."""
    engine = market()
    for name in ("trader", *(f"{who}{number}" for who in ("viewer", "other") for number in range(STREAMS_ACTIVE + 2))):
        key(engine, name)
    opened(engine, "trader/o")
    for number in range(STREAMS_ACTIVE + 2):
        opened(engine, f"viewer{number}/d")
    active = [name for name in ("trader/o", "viewer0/d", "viewer5/d") if (found := engine.stream(name)) and found.active]
    assert active == ["trader/o", "viewer5/d"]
    for number in range(STREAMS_ACTIVE):
        opened(engine, f"other{number}/o")
    trader = engine.stream("trader/o")
    assert trader is not None
    assert not trader.active, "order entry displaces order entry"
    engine.check()


def test_a_restored_engine_continues_with_the_next_number() -> None:
    engine = market()
    opened(engine, "b/o")
    opened(engine, "a/d", text="logon")
    placed(engine, limit("ann", "1", Side.BUY, 10, 100, oid="one"))
    other = Engine.restore(dict(engine.tables()))
    assert other.sequences() == engine.sequences() == {PRODUCT: 3, "b/o": 1, "a/d": 2}
    batch = Batch(engine.time + 1, [CancelOrder("ann", "2", 0, "one")])
    assert other.apply(batch).events == engine.apply(batch).events
    assert other.state_hash == engine.state_hash
    other.check()


def test_a_closed_stream_gets_no_reports() -> None:
    engine = market()
    opened(engine)
    send(engine, note(close=True))
    assert events_of(engine, limit("ann", "1", Side.BUY, 10, 100)) == []
    assert isinstance(send(engine, note(text="x", open=True)), Rejected)
    assert opened(engine, reset=True, text="x").base == 0


def reports(events: list[AnyEvent]) -> list[OrderReported]:
    return [event for event in events if isinstance(event, OrderReported)]


def test_a_cancel_and_an_amendment_are_named_in_their_reports_only() -> None:
    engine = market()
    opened(engine)
    opened(engine, "bob-key/o", "bob")
    events_of(engine, limit("bob", "0", Side.SELL, 3, 100))
    events_of(engine, limit("ann", "1", Side.BUY, 10, 90, oid="one"))
    (amended,) = reports(events_of(engine, AmendOrder("ann", "f:G:two", 0, "one", "", 8, 0, 0, "two")))
    assert (amended.kind, amended.request, amended.orig_client_oid) == (ReportKind.AMENDED, "f:G:two", "one")
    assert (amended.client_oid, amended.size, amended.remaining) == ("two", 8, 8)
    crossing = AmendOrder("ann", "f:G:three", 0, "two", "", 0, 100, 0, "three")
    events = engine.apply(Batch(engine.time + 1, [crossing])).events
    mine = reports([event for event in events if event.product_id == STREAM])
    assert [(each.kind, each.request) for each in mine] == [(ReportKind.AMENDED, "f:G:three"), (ReportKind.TRADE, "")]
    (other,) = reports([event for event in events if event.product_id == "bob-key/o"])
    assert (other.kind, other.request, other.orig_client_oid) == (ReportKind.TRADE, "", "")
    (done,) = reports(events_of(engine, CancelOrder("ann", "f:F:four", 0, "three")))
    assert (done.kind, done.request, done.client_oid, done.orig_client_oid) == (ReportKind.DONE, "f:F:four", "three", "three")
    engine.check()


def test_an_iceberg_is_reported_with_its_whole_size() -> None:
    engine = market()
    opened(engine)
    iceberg = PlaceOrder("ann", "1", PRODUCT, Side.BUY, OrderType.LIMIT, 100, 10, options=OrderOptions(display_size=4))
    events_of(engine, iceberg)
    slice_traded = reports(events_of(engine, limit("bob", "2", Side.SELL, 4, 100)))
    assert [(each.kind, each.remaining, each.filled_size) for each in slice_traded] == [(ReportKind.TRADE, 6, 4)]


def test_a_bust_and_a_correction_are_reported_to_both_accounts() -> None:
    engine = market()
    opened(engine)
    opened(engine, "bob-key/o", "bob")
    events_of(engine, limit("ann", "1", Side.BUY, 2, 100, oid="one"))
    first = reports(events_of(engine, limit("bob", "2", Side.SELL, 1, 100)))[0]
    second = reports(events_of(engine, limit("bob", "3", Side.SELL, 1, 100)))[0]
    correct = CorrectTrade("operator", "c1", PRODUCT, first.trade_id, "ann", "bob", 100, 1, 0, 0, 90, "", first.order_id)
    events = engine.apply(Batch(engine.time + 1, [correct])).events
    (mine,) = reports([event for event in events if event.product_id == STREAM])
    assert (mine.kind, mine.trade_id, mine.order_id, mine.client_oid) == (
        ReportKind.CORRECTED,
        first.trade_id,
        first.order_id,
        "one",
    )
    assert (mine.last_price, mine.last_size, mine.filled_size, mine.side) == (90, 1, 2, Side.BUY)
    (other,) = reports([event for event in events if event.product_id == "bob-key/o"])
    assert (other.kind, other.order_id, other.filled_size, other.side) == (ReportKind.CORRECTED, 0, 0, Side.SELL)
    bust = CorrectTrade("operator", "c2", PRODUCT, second.trade_id, "ann", "bob", 100, 1, 0, 0)
    assert kinds(events_of(engine, bust)) == [ReportKind.BUSTED]
    unknown = CorrectTrade("operator", "c3", PRODUCT, second.trade_id, "ann", "bob", 100, 1, 0, 0, buyer_order_id=99)
    assert isinstance(send(engine, unknown), Rejected)
    engine.check()
