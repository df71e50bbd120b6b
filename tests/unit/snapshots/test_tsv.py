"""Tables as text: what is written, and the errors for invalid text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect

from snapshots.errors import TsvError
from snapshots.tsv import TableLines, TsvSchema, parse, read_tables, tsv_files, write_tables
from snapshots.tsv_values import PLAIN_NUMBERS, UNITS, ValueFault, from_cell
from statemachine.commands import Batch, Deposit, OpenAccount, PlaceOrder, PutApiKey, PutCurrency, PutProduct
from statemachine.engine import Engine
from statemachine.limits import OPERATOR
from statemachine.tables import TABLES
from statemachine.types import OrderType, Side

NOON = 1_772_366_400_250_000_000
"""2026-03-01T12:00:00.25Z."""


def engine() -> Engine:
    """Make an exchange with one product, one account, one open order of 0.5 BTC at 100 USD, and an order that was
    rejected.
    """
    made = Engine()
    made.apply(
        Batch(
            NOON,
            [
                PutCurrency(OPERATOR, "1", "USD", 6),
                PutCurrency(OPERATOR, "2", "BTC", 8),
                PutProduct(OPERATOR, "3", "BTC-USD", "BTC", "USD", 10_000, 10_000, 10_000, 10**12, 0, 1_000),
                OpenAccount(OPERATOR, "4", "alice"),
                PutApiKey(OPERATOR, "5", "alice-1", "alice", "c2VjcmV0", "a\tb\\", 3),
                Deposit("alice", "6", "USD", 1_000_500_000),
                PlaceOrder("alice", "7", "BTC-USD", Side.BUY, OrderType.LIMIT, 100_000_000, 50_000_000),
                PlaceOrder("alice", "8", "BTC-USD", Side.BUY, OrderType.LIMIT, 1, 50_000_000),
            ],
        )
    )
    return made


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Return the tables of `engine` as text."""
    write_tables(tmp_path / "tsv", dict(engine().tables()))
    return tmp_path / "tsv"


def row(directory: Path, table: str) -> dict[str, str]:
    """Return the first row of a table by column."""
    _, header, first, *_ = (directory / f"{table}.tsv").read_text().splitlines()
    return dict(zip(header.split("\t"), first.split("\t"), strict=True))


CONTROLS = [
    *("Timer", "Firm", "FirmMember", "Switch", "ProductLimits", "Interruption", "Risk", "Calendar", "Follows", "Group", "Phase"),
    *("Correction", "FeeTiers", "FeeOverride", "FeeVolume", "User", "Access", "Proposal"),
]


def test_a_person_can_read_the_files(exported: Path) -> None:
    assert sorted(path.stem for path in tsv_files(exported)) == sorted(
        [
            "Counter",
            "Currency",
            "Product",
            "Account",
            "ApiKey",
            "Balance",
            "Order",
            "DoneOrder",
            "Outcome",
            "MassCancel",
            "Stream",
            *CONTROLS,
        ]
    )
    order = row(exported, "Order")
    assert order["price"] == "100"
    assert order["size"] == "0.5"
    assert order["hold"] == "50.05"
    assert order["side"] == "buy"
    assert order["created_at"] == "2026-03-01T12:00:00.25Z"
    assert order["done_at"] == "0"
    assert row(exported, "Product")["tick"] == "0.01"
    assert row(exported, "Product")["lot"] == "0.0001"
    assert "alice\tUSD\t950.45\t50.05" in (exported / "Balance.tsv").read_text().splitlines()
    assert row(exported, "ApiKey")["permissions"] == "view+trade"
    assert row(exported, "ApiKey")["passphrase"] == r"a\tb\\"
    assert row(exported, "Account") == {"account_id": "alice", "opened_at": "2026-03-01T12:00:00.25Z"}


def test_outcomes_are_json_with_the_same_conventions(exported: Path) -> None:
    placed = (exported / "Outcome.tsv").read_text()
    assert '"kind":"Placed","sequence":7,"time":"2026-03-01T12:00:00.25Z"' in placed
    assert '"price":"100","size":"0.5"' in placed


def test_a_cell_with_too_many_brackets_is_named() -> None:
    with pytest.raises(ValueFault, match="expected JSON"):
        from_cell("[" * 100_000, "dict")


def test_only_the_owner_may_read_the_file(exported: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in exported.iterdir()} == {0o600}


def test_columns_may_be_swapped_left_out_and_put_into_one_file(exported: Path, tmp_path: Path) -> None:
    whole = tmp_path / "one"
    whole.mkdir()
    texts = {path.stem: path.read_text() for path in tsv_files(exported)}
    texts["Account"] = "# table = Account\r\n# who there is\r\n\r\nopened_at\taccount_id\r\n2026-03-01T12:00:00.250Z\talice\r\n"
    texts["DoneOrder"] = "# table = DoneOrder\n"
    (whole / "all.tsv").write_text("\ufeff" + "\n".join(texts[name] for name in reversed(texts)), encoding="utf-8")
    with pytest.raises(TsvError, match="there is no DoneOrder"):
        read_tables(whole)
    (whole / "DoneOrder.tsv").write_bytes((exported / "DoneOrder.tsv").read_bytes())
    assert Engine.restore(read_tables(whole)).full_hash() == engine().full_hash()


WRONG = [
    (
        "Product",
        "0.01",
        "0.0000001",
        r"Product.tsv, line 3, column 4, field tick: expected at most 6 digits after the decimal point",
    ),
    (
        "Product",
        "\tBTC\t",
        "\tETH\t",
        r"line 3, column 4, field lot|column 2, field base: expected a row of Currency|'ETH', which",
    ),
    ("Product", "online", "Online", r"line 3, column 10, field status: expected one of online, cancel_only, .*, not 'Online'"),
    ("Product", "\ttick\t", "\ttock\t", r"line 2, column 4, field tock: unknown column; expected some of product_id, .*"),
    ("Product", "\ttick\t", "\tlot\t", r"line 2, field lot: this column comes twice"),
    ("Product", "# table = Product", "# table = Produce", r"line 2: no table 'Produce'; expected one of Counter, .*"),
    ("Account", "\t2026-03-01", "\t2026-13-01", r"line 3, column 2, field opened_at: expected a time that exists"),
    (
        "Account",
        "\t2026-03-01",
        "\tyesterday",
        r"field opened_at: expected a time such as 2026-03-01T12:00:00.25Z, not 'yesterday",
    ),
    ("Account", "alice", "bob", r"field account_id: expected a row of Account; there is no 'alice'"),
    ("Account", "alice\t", "alice\t\t", r"line 3: expected 2 cells with tabs between them, as the header has, not 3"),
    ("Currency", "\t6\t", "\t6.5\t", r"line \d, column 2, field scale: expected a whole number, not '6.5'"),
    ("Currency", "\t6\t", "\t99999999999999999999\t", r"field scale: expected a whole number from -9223372036854775808 to"),
    ("Balance", "950.45", "-950.45", r"field available: expected a number that is not negative"),
    ("Balance", "\tUSD\t", "\tEUR\t", r"field available: its digits are those of currency 'EUR', which is in no table Currency"),
    (
        "ApiKey",
        "view+trade",
        "view+fly",
        r"field permissions: expected none, or some of view, trade, transfer, admin, deposit, switch, limit, .*, cluster joined by",
    ),
    ("ApiKey", r"a\tb\\", r"a\qb", r"field passphrase: expected \\t, .* where there is a backslash, not '\\\\q'"),
    ("ApiKey", r"a\tb\\", "\\N", r"field passphrase: expected text, not 'null'"),
    ("Counter", "\t2026", "\tx2026", r"Counter.tsv, line 3, column 3, field time: expected a time"),
    ("Outcome", '"price":"100"', '"price":100', r"field outcome.order.price: expected a decimal as text, not '100'"),
    ("Outcome", '"kind":"Placed"', '"kind":"Lost"', r'field outcome: expected an object with "kind" one of Rejected, '),
    ("Outcome", '"duplicate":false,', "", r"field outcome: expected an object with sequence, time, duplicate"),
    ("Outcome", '{"kind"', '{"kind', r"field outcome: expected JSON, not "),
]


@pytest.mark.parametrize(("table", "right", "wrong", "message"), WRONG)
def test_each_fault_is_reported_with_its_place(exported: Path, table: str, right: str, wrong: str, message: str) -> None:
    path = exported / f"{table}.tsv"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(TsvError, match=message):
        read_tables(exported)


def test_all_faults_are_reported_at_once(exported: Path) -> None:
    (exported / "Account.tsv").write_text("account_id\topened_at\nalice\t0\nalice\t1\nbob\tnever\n")
    (exported / "Order.tsv").write_bytes(b"# table = Order\n\xff\n")
    with pytest.raises(TsvError) as caught:
        read_tables(exported)
    places = {(Path(fault.file).name, fault.line, fault.column) for fault in caught.value.faults}
    assert {("Order.tsv", 2, 0), ("Account.tsv", 3, 0), ("Account.tsv", 4, 2)} <= places
    assert "the key 'alice' comes twice; first in" in str(caught.value)


def test_no_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TsvError, match=r"expected a directory with files such as Product\.tsv"):
        tsv_files(tmp_path)


class Odd(msgspec.Struct, frozen=True, array_like=True):
    """A row of a table that another version might have."""

    name: str
    note: str | None = None
    tags: list[str] = []
    flag: bool = False


def test_tables_of_another_schema_are_written_likewise(tmp_path: Path) -> None:
    schema = TsvSchema({"odd_thing": Odd}, {"odd_thing": ("name",)})
    things = [Odd("", None), Odd("#1", r"\N", ["a\tb"], True), Odd("x\n\r\t\\y", "")]
    rows = sorted((msgspec.msgpack.encode([thing.name]), msgspec.msgpack.encode(thing)) for thing in things)
    write_tables(tmp_path, {"odd_thing": rows}, schema)
    assert read_tables(tmp_path, schema) == {"odd_thing": rows}
    lines = list(TableLines({}, schema).of("odd_thing", rows))
    assert lines[0] == "\\e\t\\N\t[]\tfalse"
    assert parse(tsv_files(tmp_path), schema)["odd_thing"][0].line.number == 3


def _whole_numbers(kind: object, name: str, seen: set[type]) -> Iterator[str]:
    """Return the names of all whole numbers in a type, with those of structs inside."""
    match kind:
        case inspect.IntType():
            yield name
        case inspect.StructType(cls=cls) if cls not in seen:
            seen.add(cls)
            for field in kind.fields:
                yield from _whole_numbers(field.type, field.name, seen)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item) | inspect.SetType(item_type=item):
            yield from _whole_numbers(item, name, seen)
        case inspect.DictType(value_type=value):
            yield from _whole_numbers(value, name, seen)
        case inspect.UnionType(types=kinds):
            for each in kinds:
                yield from _whole_numbers(each, name, seen)


def test_every_whole_number_of_the_tables_is_declared_as_an_amount_a_time_or_a_plain_number() -> None:
    """A column without such a declaration would be exported in smallest units beside decimals, as `stop_price` once
    was.
    """
    seen: set[type] = set()
    names = {name for row in TABLES.values() for name in _whole_numbers(inspect.type_info(row), "", seen)}
    assert len(names) > 20
    assert names <= set(UNITS) | PLAIN_NUMBERS
    assert not set(UNITS) & PLAIN_NUMBERS
