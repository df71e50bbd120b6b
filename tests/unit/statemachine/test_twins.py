"""Where the compiled core has a source of its own (`writer.pyx`, `entry.pyx`, `reply_cache.pyx`,
`order_index.pyx`, `order_rows.pyx`), it does the same as the plain one. Both write the bytes that msgspec writes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import statemachine
from statemachine import entry, events, order_index, order_rows, reply_cache, writer
from statemachine.commands import Batch, Deposit, PlaceOrder, encode_batch
from statemachine.entities import Account, Cancelling, Currency, Placing
from statemachine.errors import StateError
from statemachine.limits import AMOUNT_MAX
from statemachine.state import State
from statemachine.tables import ProductRow
from statemachine.teardown import clear
from statemachine.types import OrderType, ProductStatus, Side
from tests.property.worlds import commands


def plain(name: str) -> ModuleType:
    """Return a module of the plain core, whichever core runs."""
    path = Path(statemachine.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"plain_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PLAIN_WRITER, PLAIN_ENTRY, PLAIN_REPLY_CACHE = plain("writer"), plain("entry"), plain("reply_cache")
PLAIN_ORDER_INDEX, PLAIN_ORDER_ROWS = plain("order_index"), plain("order_rows")

numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([value for n in range(64) for s in (1, -1) for d in (-1, 0) if (value := s * 2**n + d) >= -(2**63)]),
)
values = st.lists(st.one_of(numbers, st.text(max_size=300), st.booleans()), max_size=40)


@given(values)
def test_both_writers_write_the_bytes_of_msgspec(values: list[int | str | bool]) -> None:
    written = []
    for made in (PLAIN_WRITER.Writer(), writer.Writer()):
        made.raw(b"head")
        made.array(len(values))
        sizes = []
        for value in values:
            if isinstance(value, bool):
                made.flag(value)
            elif isinstance(value, int):
                made.number(value)
            else:
                made.text(value)
            made.mark()
            sizes.append(made.size())
        ends = made.ends()
        assert list(ends) == sizes
        assert made.size() == len(made.since(0))
        written.append(made.since(4))
        made.clear()
        assert made.since(0) == b""
        made.mark()
        assert list(made.ends()) == [0]
        assert list(ends) == sizes, "a view does not change"
    assert written[0] == written[1] == msgspec.msgpack.encode(values)


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), max_size=600))
@settings(max_examples=60)
def test_both_reply_caches_keep_and_drop_the_same(bound: int, steps: list[tuple[int, int]]) -> None:
    """Every command id that is not in the cache is added. Now and then a view is taken, and it is read after all
    additions.
    """
    caches = [module.ReplyCache(bound) for module in (PLAIN_REPLY_CACHE, reply_cache)]
    views: list[list[Any]] = []
    for number, (name, extra) in enumerate(steps, 1):
        command_id, packed = f"c{name}" * (1 + name % 5), reply_cache.pack(bytes([extra]) * 8, outcome(number, extra))
        found = [cache.find(command_id) for cache in caches]
        assert found[0] == found[1]
        if extra % 2:
            assert caches[0].add_new(command_id, packed) is caches[1].add_new(command_id, packed) is (found[0] is None)
        elif found[0] is None:
            assert caches[0].add(command_id, packed) == caches[1].add(command_id, packed)
        assert len(caches[0]) == len(caches[1]) <= bound
        assert caches[0].added == caches[1].added
        if extra == 7:
            views.append([cache.newest(name) for cache in caches])
    for first, second in views:
        assert list(first) == list(second)
        assert first.first_sequence == second.first_sequence
    everything = [list(cache.newest(bound)) for cache in caches]
    assert everything[0] == everything[1]
    if everything[0]:
        assert caches[0].has_room(1) == caches[1].has_room(1)
        assert caches[0].has_room(10**6) == caches[1].has_room(10**6)
    for sequence in (len(steps) // 2, len(steps) // 2, len(steps) + 1):
        assert caches[0].forget_before(sequence) == caches[1].forget_before(sequence)
        left = [list(cache.newest(bound)) for cache in caches]
        assert left[0] == left[1]
    assert not len(caches[0])


def market() -> State:
    """Return a state with one product and one account."""
    state = State()
    state.currencies.update({name: Currency(name, 0) for name in ("B", "Q")})
    state.new_product(ProductRow("P", "B", "Q", 1, 1, 1, 1, 0, 0, ProductStatus.ONLINE))
    state.accounts["ann"] = Account("ann", 1)
    return state


@given(st.lists(st.tuples(st.integers(1, 200), st.sampled_from(["put", "put", "new", "new", "drop", "find"])), max_size=500))
@settings(max_examples=60)
def test_both_indexes_of_orders_find_the_same(steps: list[tuple[int, str]]) -> None:
    """Orders are added, removed, and added again under their ids. Several of them share a `client_oid`."""
    state = market()
    account, product = state.accounts["ann"], state.products["P"]
    known = {number: order_index.new_order(number, account, product) for number in range(1, 201)}
    for number, order in known.items():
        order.client_oid = f"oid-{number % 60}" * (1 + number % 4)
    ids = [module.OrdersById() for module in (PLAIN_ORDER_INDEX, order_index)]
    oids = [module.OrdersByOid() for module in (PLAIN_ORDER_INDEX, order_index)]
    for number, step in steps:
        order = known[number]
        if step == "put":
            for index in (*ids, *oids):
                index.put(order)
        elif step == "new" and number not in ids[0]:
            assert oids[0].put_new(order) is oids[1].put_new(order)
            for index in ids:
                index.put(order)
        elif step == "drop" and number in ids[0]:
            for index in (*ids, *oids):
                index.drop(order)
        assert ids[0].find(number) is ids[1].find(number) is ids[1].get(number)
        assert oids[0].find(order.client_oid) is oids[1].find(order.client_oid) is oids[1].get(order.client_oid)
        assert (number in ids[0]) is (number in ids[1])
        assert (len(ids[0]), len(oids[0])) == (len(ids[1]), len(oids[1]))
    assert sorted(ids[0]) == sorted(ids[1])
    assert [ids[0][number] for number in sorted(ids[0])] == sorted(ids[1].values(), key=lambda order: order.order_id)
    assert oids[0].keys() == oids[1].keys()
    assert ids[1].get(2**70) is None
    for index in oids:
        index[known[1].client_oid] = known[1]
        del index[known[1].client_oid]
    assert len(oids[0]) == len(oids[1])
    for index in (*ids, *oids):
        clear(index) if index in ids else index.clear()
        assert len(index) == 0
        assert index.find(next(iter(known)) if index in ids else "oid-1") is None


def read_row(module: ModuleType, state: State, payload: bytes) -> object:
    """Return the order of a row, written again, or the error that the reader raises."""
    try:
        return msgspec.msgpack.encode(module.OrderReader(state.accounts, state.products).read(payload).row())
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, OverflowError) as error:
        return type(error), str(error)


def harmed(fields: list[Any], odd: list[tuple[int, object]], harm: list[tuple[int, int]], more: int) -> bytes:
    """Encode a row. `odd` replaces fields, `harm` bytes, and `more` bytes are added, or cut off if it is negative."""
    for place, value in odd:
        fields[place] = value
    payload = bytearray(msgspec.msgpack.encode(fields))
    for place, byte in harm:
        payload[place % len(payload)] = byte
    payload = payload[:more] if more < 0 else payload + bytes(more)
    return bytes(payload)


@given(
    st.lists(st.one_of(numbers, st.integers(0, 5)), min_size=30, max_size=30),
    st.text(max_size=40),
    st.lists(st.tuples(st.integers(0, 29), st.sampled_from([None, True, 1.5, "bob", "", b"", [], 2**63])), max_size=2),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2),
    st.integers(-3, 3),
)
def test_both_readers_of_orders_read_the_same(
    fields: list[Any], oid: str, odd: list[tuple[int, object]], harm: list[tuple[int, int]], more: int
) -> None:
    """Rows with fields at their bounds and beyond, of other types, with bytes changed, cut or added."""
    state = market()
    fields[1:4] = ["ann", oid, "P"]
    fields[10] = fields[10] % 2 == 0
    for place in (4, 5, 9, 11, 20):
        fields[place] = 1 + fields[place] % 2
    fields[21] = [0, 1, 2, 3, 9][fields[21] % 5]
    fields[23] %= 3
    fields[29] = None
    payload = harmed(fields, odd, harm, more)
    assert read_row(PLAIN_ORDER_ROWS, state, payload) == read_row(order_rows, state, payload)


@pytest.mark.skipif(statemachine.CORE == "plain", reason="the plain core decodes every row by msgspec")
def test_an_order_row_that_the_engine_wrote_is_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    state = market()
    order = order_index.new_order(7, state.accounts["ann"], state.products["P"])
    order.side, order.order_type, order.time_in_force, order.stp, order.status, order.done_reason = 1, 1, 1, 1, 1, 0
    order.price, order.executed_value, order.fee_credit, order.client_oid = 2**63 - 1, 2**64 - 1, -5, "größer"
    payload = msgspec.msgpack.encode(order.row())
    monkeypatch.setattr(order_rows, "_decode", None)
    assert read_row(order_rows, state, payload) == payload


def put_outcome_rows(module: ModuleType, *payloads: bytes) -> object:
    """The reply caches that a reader fills, by owner, and the error that it raises. Each has an entry before."""
    caches: dict[str, Any] = {}

    def find(owner: str) -> Any:
        if owner not in caches:
            caches[owner] = reply_cache.ReplyCache(4)
            caches[owner].add("first", bytes(8) + outcome(1, 1))
        return caches[owner]

    reader = module.OutcomeReader(find)
    failure: object = None
    try:
        for payload in payloads:
            reader.put(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError, StateError) as error:
        failure = type(error), str(error)
    return {owner: [(entry, cache.find(entry[0])) for entry in cache.newest(9)] for owner, cache in caches.items()}, failure


@given(
    st.text(max_size=40),
    st.text(max_size=300),
    st.one_of(st.binary(min_size=8, max_size=8), st.binary(max_size=20)),
    st.one_of(
        st.binary(max_size=300), st.lists(st.one_of(numbers, st.text(max_size=9), st.dictionaries(st.text(max_size=3), numbers)))
    ),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, True, 1.5, "bob", "", b"", [], 2**63])), max_size=2),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=2),
    st.integers(-3, 3),
)
def test_both_readers_of_outcomes_read_the_same(
    owner: str,
    command_id: str,
    fingerprint: bytes,
    result: object,
    odd: list[tuple[int, object]],
    harm: list[tuple[int, int]],
    more: int,
) -> None:
    """Rows with fields of any length and type, with bytes changed, cut or added."""
    fields: list[object] = [owner, command_id, fingerprint, result]
    for place, value in odd:
        fields[place] = value
    payload = bytearray(msgspec.msgpack.encode(fields))
    for place, byte in harm:
        payload[place % len(payload)] = byte
    payload = payload[:more] if more < 0 else payload + bytes(more)
    rows = [msgspec.msgpack.encode(("ann", f"c{number}", bytes(8), msgspec.Raw(outcome(number, 3)))) for number in (1, 2, 1)]
    for before in ([], rows[:1], rows[:2], rows):
        found = [put_outcome_rows(module, *before, bytes(payload), *rows[:2]) for module in (PLAIN_ORDER_ROWS, order_rows)]
        assert found[0] == found[1]


@pytest.mark.skipif(statemachine.CORE == "plain", reason="the plain core decodes every row by msgspec")
def test_an_outcome_row_that_the_engine_wrote_is_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = msgspec.msgpack.encode(("ann/7", "c", bytes(range(8)), msgspec.Raw(outcome(5, 70))))
    monkeypatch.setattr(order_rows, "_decode_outcome", None)
    first, packed = bytes(8) + outcome(1, 1), bytes(range(8)) + outcome(5, 70)
    assert put_outcome_rows(order_rows, payload) == ({"ann/7": [(("first", first), first), (("c", packed), packed)]}, None)


@given(numbers, st.integers(-1, 12))
def test_both_cores_know_the_keys_of_orders(number: int, cut: int) -> None:
    assume(number < 2**63)
    key = msgspec.msgpack.encode([number])
    for module in (PLAIN_ORDER_ROWS, order_rows):
        assert module.is_order_key(key, number)
        assert not module.is_order_key(key, number ^ 1)
        assert module.is_order_key(key[:cut], number) is (key[:cut] == key)


def outcome(sequence: int, extra: int) -> bytes:
    """Return the fields of every outcome, and some more bytes."""
    return msgspec.msgpack.encode([2, sequence, sequence, bytes(extra)])


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_headers_of_arrays_are_those_of_msgspec(count: int) -> None:
    expected = msgspec.msgpack.encode([None] * count)
    header = expected[: len(expected) - count]
    for made in (PLAIN_WRITER.Writer(), writer.Writer()):
        made.array(count)
        assert made.since(0) == header


def read(module: Any, payload: bytes) -> list[object]:
    """Return everything that a reader finds in an entry."""
    found = module.EntryReader(payload)
    failure: list[object] = [found.payload, found.time, found.count]
    placing, cancelling = Placing(), Cancelling()
    names = [name for name in PlaceOrder.__struct_fields__[2:] if name != "options"]
    for _ in range(found.count):
        found.advance()
        failure += [found.kind, found.account_id, found.command_id, found.fingerprint()]
        written = writer.Writer()
        written.raw(b"head")
        found.write_fingerprint(written)
        assert written.since(0) == b"head" + found.fingerprint()
        if found.kind == module.PLACE:
            found.placing(placing)
            failure += [getattr(placing, name) for name in names]
        elif found.kind == module.CANCEL:
            found.cancelling(cancelling)
            failure += [cancelling.order_id, cancelling.client_oid, cancelling.product_id]
        else:
            failure.append(found.command())
    return failure


@given(numbers, st.lists(commands, max_size=6))
def test_both_readers_read_the_same(time: int, found: list[Any]) -> None:
    payload = encode_batch(Batch(time, found))
    assert read(PLAIN_ENTRY, payload) == read(entry, payload)


@given(st.data())
@settings(max_examples=300)
def test_damaged_entries_are_refused_or_read_alike(data: st.DataObject) -> None:
    """For any bytes, both readers stay within the entry, and raise a DecodeError for bytes that are not a batch."""
    order = PlaceOrder("ann", "c:1", "XBT-ETH", Side.BUY, OrderType.LIMIT, 2**40, AMOUNT_MAX, client_oid="ö" * 20)
    whole = encode_batch(Batch(2**60, [order, Deposit("ann", "d", "USD", 300)]))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    failure = []
    for module in (PLAIN_ENTRY, entry):
        try:
            failure.append(read(module, bytes(damaged)))
        except msgspec.DecodeError:
            failure.append(["refused"])
    assert failure[0] == failure[1]


@pytest.mark.parametrize(
    "payload", [b"", b"\x94", b"\x94\x01\xdd\xff\xff\xff\xff", b"\x94\x01\x91\x90\xc2\x00", b"\x93\x01\x90\xc2", b"\xc1"]
)
def test_both_readers_read_short_entries_alike(payload: bytes) -> None:
    failure = []
    for module in (PLAIN_ENTRY, entry):
        try:
            failure.append(read(module, payload))
        except msgspec.DecodeError:
            failure.append(["refused"])
    assert failure[0] == failure[1]


def test_an_entry_in_another_encoding_is_the_same_entry() -> None:
    """The entry is encoded by hand: default fields are left out, and numbers are longer than needed."""
    short = msgspec.msgpack.encode([5, [[7, "ann", "c", "XBT-ETH", 1, 1, 10, 1]]])
    long = b"\x92\xcf" + (5).to_bytes(8, "big") + b"\x90"
    for payload in (short, long):
        first, second = read(PLAIN_ENTRY, payload), read(entry, payload)
        assert first == second
        assert first[0] != payload


@given(st.binary(min_size=1, max_size=200))
def test_both_cores_make_the_same_fingerprints(encoded: bytes) -> None:
    encoded = b"\x90" + encoded
    assert PLAIN_ENTRY.fingerprint(encoded) == entry.fingerprint(encoded)
    assert PLAIN_ENTRY.fingerprint(b"\xff" * len(encoded)) == entry.fingerprint(b"\xff" * len(encoded))
    assert entry.fingerprint(encoded) != entry.fingerprint(encoded[:-1])


@given(st.text(max_size=110))
def test_both_cores_accept_the_same_names(text: str) -> None:
    for name in ("is_name", "is_command_id"):
        assert getattr(PLAIN_ENTRY, name)(text) == getattr(entry, name)(text)


def test_the_tags_are_those_of_the_commands() -> None:
    assert (
        msgspec.msgpack.decode(msgspec.msgpack.encode(PlaceOrder("a", "b", "c", Side.BUY, OrderType.LIMIT, 1, 1)))[0]
        == entry.PLACE
    )
    assert len(events.OrderState.__struct_fields__) > 20
