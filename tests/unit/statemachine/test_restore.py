"""An engine is restored from its tables. Damaged tables raise a `StateError` and no other exception."""

from __future__ import annotations

from random import Random
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statemachine.commands import Batch
from statemachine.engine import Engine
from statemachine.errors import StateError
from statemachine.events import OrderState
from statemachine.tables import KEPT, TABLES, BalanceRow, CounterRow, CurrencyRow, OutcomeRow, ProductRow
from statemachine.types import OrderStatus
from tests.property.worlds import SECOND, busy_command, foundations

Row = TypeVar("Row", bound=msgspec.Struct)


def busy() -> Engine:
    """Return an exchange with rows in most tables."""
    engine, random = Engine(), Random(11)
    engine.apply(Batch(1, foundations((1_000, 3_000), 5_000)))
    for number in range(0, 200, 10):
        engine.apply(Batch((2 + number) * SECOND // 10, [busy_command(random, number + each) for each in range(10)]))
    engine.check()
    return engine


BUSY = dict(busy().tables())


def change(table: str, row: msgspec.Struct, **fields: object) -> tuple[bytes, bytes]:
    """Return the row of a table with some fields changed, under its former key."""
    key = next(key for key, payload in BUSY[table] if msgspec.msgpack.decode(payload, type=type(row)) == row)
    return key, msgspec.msgpack.encode(msgspec.structs.replace(row, **fields))


def replaced(row: msgspec.Struct, **fields: object) -> bytes:
    """Return the bytes of a row with some fields changed."""
    return msgspec.msgpack.encode(msgspec.structs.replace(row, **fields))


def every(table: str, row_type: type[Row]) -> list[Row]:
    return [msgspec.msgpack.decode(payload, type=row_type) for _, payload in BUSY[table]]


def first(table: str, row_type: type[Row]) -> Row:
    return every(table, row_type)[0]


CONTROLS = [table.name for table in KEPT if table.name not in ("api_key", "mass_cancel")]
"""Tables of settings of the operator, which this market does not have: see test_controls.py."""


def test_tables_come_in_their_order_with_sorted_keys() -> None:
    assert list(BUSY) == list(TABLES)
    for rows in BUSY.values():
        keys = [key for key, _ in rows]
        assert keys == sorted(keys)
        assert len(dict(rows)) == len(rows)
    assert all(rows for name, rows in BUSY.items() if name not in ("api_key", "mass_cancel", "stream", *CONTROLS))


def test_rows_decode_by_their_types() -> None:
    for name, row_type in TABLES.items():
        for _, payload in BUSY[name]:
            assert msgspec.msgpack.encode(msgspec.msgpack.decode(payload, type=row_type)) == payload


def test_rows_may_come_in_any_order() -> None:
    shuffled = {name: Random(3).sample(rows, len(rows)) for name, rows in BUSY.items()}
    assert Engine.restore(shuffled).full_hash() == Engine.restore(BUSY).full_hash()
    assert dict(Engine.restore(shuffled).tables()) == BUSY


def test_rows_of_an_iterator_come_in_key_order() -> None:
    assert Engine.restore({name: iter(rows) for name, rows in BUSY.items()}).full_hash() == Engine.restore(BUSY).full_hash()
    for name in ("balance", "order", "done_order", "outcome"):
        rows = BUSY[name]
        for wrong in ([*rows[:5], rows[6], rows[5], *rows[7:]], [*rows[:6], *rows[5:]]):
            with pytest.raises(StateError, match=f"table {name}"):
                Engine.restore({**BUSY, name: iter(wrong)})


@pytest.mark.parametrize("verified", [False, True])
def test_a_restored_state_has_the_same_queues_books_and_indexes(verified: bool) -> None:
    """Loading checks the rows. This test checks the queues, books and indexes that follow from them, and applies
    further commands to them.
    """
    here, there = busy(), Engine.restore(BUSY, verified=verified)
    there.check()
    assert dict(there.tables()) == BUSY
    commands = [busy_command(Random(number), number) for number in range(150, 400)]
    late = Batch(99 * SECOND, commands)
    assert there.apply(late) == here.apply(late)
    there.check()
    assert there.full_hash() == here.full_hash()


def test_an_empty_engine_can_be_restored() -> None:
    engine = Engine()
    assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()


@pytest.mark.parametrize("name", [name for name in TABLES if BUSY[name]])
def test_a_missing_table_is_refused(name: str) -> None:
    tables = {other: rows for other, rows in BUSY.items() if other != name}
    with pytest.raises(StateError):
        Engine.restore(tables)
    with pytest.raises(StateError):
        Engine.restore({**BUSY, "more": []})


@pytest.mark.parametrize("name", ["counter", "currency", "product", "account", "balance", "order"])
def test_a_missing_row_is_refused(name: str) -> None:
    for gone in range(min(5, len(BUSY[name]))):
        with pytest.raises(StateError):
            Engine.restore({**BUSY, name: BUSY[name][:gone] + BUSY[name][gone + 1 :]})


@pytest.mark.parametrize("name", [name for name in TABLES if BUSY[name]])
def test_a_repeated_row_is_refused(name: str) -> None:
    with pytest.raises(StateError):
        Engine.restore({**BUSY, name: [*BUSY[name], BUSY[name][0]]})


@pytest.mark.parametrize("name", [name for name in TABLES if BUSY[name]])
def test_bytes_that_are_no_row_are_refused(name: str) -> None:
    for junk in (b"", b"\xc1", b"\x90", b"\x93\x01\x02\x03", msgspec.msgpack.encode({"a": 1})):
        with pytest.raises(StateError):
            Engine.restore({**BUSY, name: [(BUSY[name][0][0], junk), *BUSY[name][1:]]})
        with pytest.raises(StateError):
            Engine.restore({**BUSY, name: [(junk + b"\x01", BUSY[name][0][1]), *BUSY[name][1:]]})


def changed_rows() -> dict[str, tuple[str, tuple[bytes, bytes]]]:
    """Return one contradiction each: its name, the table and the row."""
    balance, currency = first("balance", BalanceRow), first("currency", CurrencyRow)
    order, done = first("order", OrderState), first("done_order", OrderState)
    waiting = next(row for row in every("order", OrderState) if row.stop and row.status is OrderStatus.ACTIVE)
    resting = next(row for row in every("order", OrderState) if row.status is OrderStatus.OPEN)
    counter, outcome = first("counter", CounterRow), first("outcome", OutcomeRow)
    product = first("product", ProductRow)
    return {
        "money from nothing": ("balance", change("balance", balance, available=balance.available + 1)),
        "a debt": ("balance", change("balance", balance, available=-1)),
        "a hold without an order": (
            "balance",
            change("balance", balance, hold=balance.hold + 1, available=balance.available - 1),
        ),
        "fees that nobody paid": ("currency", change("currency", currency, fees=currency.fees + 1)),
        "a scale out of bounds": ("currency", change("currency", currency, scale=10**15)),
        "an order that holds too little": ("order", change("order", order, hold=order.hold - 1)),
        "an order with nothing left": ("order", change("order", order, remaining=0)),
        "an open order that is done": ("order", change("order", order, status=2)),
        "a price of nothing": ("order", change("order", order, price=0)),
        "a product without a tick": ("product", change("product", product, tick=0)),
        "a product without a lot": ("product", change("product", product, lot=0)),
        "an unknown product": ("order", change("order", order, product_id="NO-SUCH")),
        "an unknown account": ("order", change("order", order, account_id="nobody")),
        "an order that came to the book with an event of the future": ("order", change("order", order, opened_sequence=10**9)),
        "an order that enters later, and has no such place": ("order", change("order", waiting, queued=10**6)),
        "an order on the book that enters later": ("order", change("order", resting, queued=1)),
        "an order that stays and leaves": ("order", change("order", order, expires_at=10**18)),
        "a stop order without a price": ("order", change("order", waiting, stop_price=0)),
        "a stop order that was on the book": ("order", change("order", waiting, opened_sequence=1)),
        "a stop order that has traded": ("order", change("order", waiting, filled_size=1)),
        "a stop order that holds too little": ("order", change("order", waiting, hold=waiting.hold - 1)),
        "a done order that holds": ("done_order", change("done_order", done, hold=1)),
        "a done order that is open": ("done_order", change("done_order", done, status=1)),
        "an order id of the future": ("counter", change("counter", counter, last_order_id=0)),
        "a sequence of the past": ("counter", change("counter", counter, sequence=1)),
        "a short hash": ("counter", change("counter", counter, state_hash=b"123")),
        "a sequence that is not the key's": (
            "outcome",
            change("outcome", outcome, outcome=msgspec.structs.replace(outcome.outcome, sequence=outcome.outcome.sequence + 1)),
        ),
        "an order below the first": ("order", (msgspec.msgpack.encode([-1]), replaced(order, order_id=-1))),
        "a long fingerprint": ("outcome", change("outcome", outcome, fingerprint=b"123456789")),
    }


@pytest.mark.parametrize("what", changed_rows())
def test_rows_that_contradict_each_other_are_refused(what: str) -> None:
    table, (key, row) = changed_rows()[what]
    tables = {**BUSY, table: [*((k, payload) for k, payload in BUSY[table] if k != key), (key, row)]}
    with pytest.raises(StateError):
        Engine.restore(tables)


def test_an_outcome_that_cannot_be_decoded_is_refused() -> None:
    """An outcome stays packed until its command comes again. A row that would fail then is refused at the start."""
    key, payload = BUSY["outcome"][0]
    account_id, command_id, mark, outcome = msgspec.msgpack.decode(payload)
    damaged = msgspec.msgpack.encode([account_id, command_id, mark, [*outcome[:2], "no time", *outcome[3:]]])
    with pytest.raises(StateError, match=r"table outcome, row 0: .*int"):
        Engine.restore({**BUSY, "outcome": [(key, damaged), *BUSY["outcome"][1:]]})


def with_client_oids(*fields: tuple[str, int, str, int]) -> dict[str, list[tuple[bytes, bytes]]]:
    """Return the tables, with client_oids in some rows of one account. Each field is (table "order" or "done_order",
    index of the row, client_oid, order id or 0).
    """
    tables = {name: list(rows) for name, rows in BUSY.items()}
    for table, place, client_oid, order_id in fields:
        key, payload = tables[table][place]
        row = msgspec.structs.replace(msgspec.msgpack.decode(payload, type=OrderState), client_oid=client_oid)
        row = msgspec.structs.replace(row, order_id=order_id or row.order_id)
        tables[table][place] = (key, msgspec.msgpack.encode(row))
    return tables


def places(table: str, account_id: str) -> list[int]:
    decoded = [msgspec.msgpack.decode(payload, type=OrderState) for _, payload in BUSY[table]]
    return [place for place, order in enumerate(decoded) if order.account_id == account_id]


def test_a_client_oid_has_one_open_order_which_is_the_latest() -> None:
    account_id = first("order", OrderState).account_id
    (one, two, *_), done = places("order", account_id), places("done_order", account_id)[0]
    with pytest.raises(StateError, match=f"table order: account {account_id} has client_oid same open twice"):
        Engine.restore(with_client_oids(("order", one, "same", 0), ("order", two, "same", 0)))
    later = first("counter", CounterRow).last_order_id + 1
    opened = msgspec.msgpack.decode(BUSY["order"][one][1], type=OrderState).order_id
    with pytest.raises(
        StateError, match=f"table done_order: order {later}, and the earlier {opened} with its client_oid is open"
    ):
        Engine.restore(with_client_oids(("order", one, "same", 0), ("done_order", done, "same", later)))


def test_a_command_that_is_twice_in_the_reply_cache_is_refused() -> None:
    rows = [msgspec.msgpack.decode(payload) for _, payload in BUSY["outcome"]]
    second = [*rows[1][:1], rows[0][1], *rows[1][2:]]
    assert second[0] == rows[0][0]
    tables = {
        **BUSY,
        "outcome": [BUSY["outcome"][0], (BUSY["outcome"][1][0], msgspec.msgpack.encode(second)), *BUSY["outcome"][2:]],
    }
    with pytest.raises(StateError, match=f"a command of account {second[0]} comes twice"):
        Engine.restore(tables)


@given(st.sampled_from(list(TABLES)), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 255), st.booleans())
@settings(max_examples=150)
def test_a_flipped_byte_is_refused_or_harmless(name: str, row: int, place: int, flip: int, in_key: bool) -> None:
    """Damage gives a StateError or a consistent state, never another exception and never a hang."""
    rows = list(BUSY[name])
    if not rows:
        return
    pair = [bytearray(part) for part in rows[row % len(rows)]]
    target = pair[0] if in_key else pair[1]
    target[place % len(target)] ^= flip
    rows[row % len(rows)] = (bytes(pair[0]), bytes(pair[1]))
    try:
        engine = Engine.restore({**BUSY, name: rows})
    except StateError:
        return
    engine.check()
    engine.apply(Batch(99, [busy_command(Random(5), number) for number in range(1_000, 1_010)]))
    engine.check()
