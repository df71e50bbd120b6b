"""States of three earlier versions are migrated to this one: automatically, by a rule, and by names. They continue to
trade as if this version had made them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from snapshots.abi.schema import Schema
from snapshots.errors import MigrationError, UnknownAbiError
from snapshots.levels.level import BROUGHT_TO
from snapshots.levels.states import empty, restored
from snapshots.migration.chain import Chains
from snapshots.migration.checks import MIGRATED_HASH, check_engine
from snapshots.migration.codec import Codec, Values
from snapshots.migration.plan import Drop, Facts, Tables, facts_of
from snapshots.migration.run import LogMigration, Rows, StateMigration
from statemachine.commands import Batch, PlaceOrder
from statemachine.engine import Engine
from statemachine.events import Placed
from statemachine.types import OrderType, SelfTradePrevention, Side, StopType, TimeInForce
from tests.unit.snapshots.states import applied_before, encoded, foundations, trading
from tests.unit.snapshots.versions import (
    BACKWARD,
    FORWARD,
    FOUR,
    ONE,
    THREE,
    THREE_TO_FOUR,
    TWO,
    TWO_TO_THREE,
    chains,
    with_changes,
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Make a state of 0.2.0, to which older data is migrated."""
    return applied_before(foundations(), trading(1, 150))


@pytest.fixture
def forward(tmp_path: Path) -> Chains:
    return chains(tmp_path / "released")


def rows_of(engine: Engine) -> Rows:
    return {name: list(rows) for name, rows in engine.tables()}


def in_version(rows: Rows, version: Schema, directory: Path) -> Rows:
    """Return a state of this version in the form of an earlier one."""
    steps = chains(directory / "released", BACKWARD).find(FOUR.abi, version.abi)
    return StateMigration(steps).run(rows, FOUR)


def with_row(rows: Rows, schema: Schema, table: str, position: int, **changes: Any) -> Rows:
    """Return the same rows except for one, which is changed or (with another key) added."""
    codec = Codec(schema)
    changed = codec.write_row(table, {**codec.read_row(table, rows[table][position]), **changes})
    kept = [row for row in rows[table] if row[0] != changed[0]]
    return {**rows, table: sorted([*kept, changed])}


def migrated(rows: Rows, source: Schema, known: Chains) -> tuple[Engine, StateMigration]:
    migration = StateMigration(known.find(source.abi, FOUR.abi))
    return restored(FOUR.abi, migration.run(rows, FOUR)), migration


def comparable(engine: Engine) -> dict[str, list[Values]]:
    """Return the whole state without the parts that a migration resets: the running hash and the fingerprints."""
    codec = Codec(FOUR)
    tables = {name: [codec.read_row(name, row) for row in rows] for name, rows in engine.tables()}
    for table, field in (("counter", "state_hash"), ("outcome", "fingerprint")):
        for row in tables[table]:
            row[field] = b""
    return tables


@pytest.mark.parametrize("version", [ONE, TWO, THREE], ids=["1", "2", "3"])
def test_a_state_of_each_version_trades_on_as_if_it_had_always_been_here(
    engine: Engine, version: Schema, forward: Chains, tmp_path: Path
) -> None:
    moved, _ = migrated(in_version(rows_of(engine), version, tmp_path), version, forward)
    here = restored(FOUR.abi, rows_of(engine))
    assert comparable(moved) == comparable(here)
    for batch in [*trading(2, 150, 150), *trading(1, 150)]:
        assert moved.apply(batch) == here.apply(batch), "earlier commands are duplicates, the others have equal outcomes"
    moved.check()
    assert comparable(moved) == comparable(here)


def test_every_row_and_command_is_the_same_after_a_way_through_plain_values(engine: Engine) -> None:
    codec = Codec(FOUR)
    for table, rows in engine.tables():
        for row in rows:
            assert codec.write_row(table, codec.read_row(table, row)) == row
    for batch in [*foundations(), *trading(1, 30)]:
        assert codec.write_entry(codec.read_entry(encoded(batch))) == encoded(batch)


def test_the_report_accounts_for_every_row(engine: Engine, forward: Chains, tmp_path: Path) -> None:
    rows = in_version(rows_of(engine), THREE, tmp_path)
    rows = with_row(rows, THREE, "api_key", 0, key_id="old", permissions=0)
    rows = with_row(rows, THREE, "done_order", 0, done_reason="LAPSED")
    moved, migration = migrated(rows, THREE, forward)
    assert moved.api_key("old") is None
    assert moved.api_key("key-ann") is not None
    (step,) = migration.report.steps
    counts = {count.table: count for count in step.tables}
    assert (counts["api_key"].rows_in, counts["api_key"].rows_out, counts["api_key"].reasons) == (4, 3, {"revoked": 1})
    assert counts["member"].new_table == "account"
    assert all(count.rows_in == count.rows_out for name, count in counts.items() if name != "api_key")
    assert len(migration.report.checks) == 6
    assert step.how == "module"


def test_orders_that_came_to_the_book_late_stay_behind_and_those_that_wait_are_in_no_queue(engine: Engine) -> None:
    stop, price = StopType.LOSS, 100 * 100
    orders = [PlaceOrder("ann", f"s{number}", "BTC-USD", Side.SELL, OrderType.LIMIT, 110 * 100, 1) for number in range(3)]
    late, first, waiting = (msgspec.structs.replace(orders[0], stop=stop, stop_price=price), orders[1], orders[2])
    waiting = msgspec.structs.replace(waiting, stop=stop, stop_price=100, time_in_force=TimeInForce.GTT, cancel_after=10**9)
    trade = [
        PlaceOrder("eve", f"t{side.name}", "BTC-USD", side, OrderType.LIMIT, price, 1_000, stp=SelfTradePrevention.CO)
        for side in Side
    ]
    placed = engine.apply(Batch(9_000, [late, first, waiting, *trade])).outcomes
    late_id, first_id, _, *_ = [outcome.order.order_id for outcome in placed if isinstance(outcome, Placed)]
    codec, rows = Codec(FOUR), rows_of(engine)
    facts = facts_of({name: [codec.read_row(name, row) for row in found] for name, found in rows.items()})
    assert facts.queues["BTC-USD", "SELL", 110 * 100][-2:] == [first_id, late_id]
    moved = check_engine(rows, facts, FOUR.abi)
    assert comparable(moved) == comparable(engine)
    assert moved.next_expiry == 9_000 + 10**9


def test_versions_without_code_between_them_follow_by_themselves(forward: Chains) -> None:
    assert [step.how for step in forward.find(ONE.abi, FOUR.abi)] == ["automatic", "module", "module"]
    assert forward.find(FOUR.abi, FOUR.abi) == []


def test_the_log_follows_command_by_command(forward: Chains, tmp_path: Path) -> None:
    """Half of the commands are in the snapshot and half after it. The state is the same as with all of them in the
    snapshot, and as without a migration.
    """
    flows = [*foundations(), *trading(3, 120)]
    back = LogMigration(chains(tmp_path / "released", BACKWARD).find(FOUR.abi, ONE.abi), FOUR)
    ahead = LogMigration(forward.find(ONE.abi, FOUR.abi), FOUR)
    old_log = [back.convert(encoded(batch)) for batch in flows]
    log = [ahead.convert(payload) for payload in old_log]
    assert log == [encoded(batch, migrated=True) for batch in flows]
    assert ahead.commands == sum(len(batch.commands) for batch in flows)
    engines = []
    for cut in (0, 50, len(flows)):
        start = in_version(rows_of(applied_before(flows[:cut], migrated=True)), ONE, tmp_path)
        moved, _ = migrated(start, ONE, forward) if cut else (empty(BROUGHT_TO), None)
        for entry in log[cut:]:
            moved.apply_entry(entry)
        assert moved.state_hash == MIGRATED_HASH
        engines.append(moved)
    plain = applied_before(flows, migrated=True)
    assert len({each.full_hash() for each in engines}) == 1
    assert all(comparable(each) == comparable(plain) for each in engines)
    for each in engines:
        each.apply(Batch(9_999, []))
    ends = {each.state_hash for each in engines}
    assert len(ends) == 1
    assert ends != {MIGRATED_HASH}, "from the first batch of this version on, the hash tells states apart"


def test_states_that_differ_after_a_migration_show_it_at_the_first_batch(engine: Engine, forward: Chains, tmp_path: Path) -> None:
    rows = in_version(rows_of(engine), ONE, tmp_path)
    one, _ = migrated(rows, ONE, forward)
    other, _ = migrated(with_row(rows, ONE, "api_key", 0, secret="b3RoZXI="), ONE, forward)
    assert one.state_hash == other.state_hash == MIGRATED_HASH
    one.apply(Batch(9_999, []))
    other.apply(Batch(9_999, []))
    assert one.state_hash != other.state_hash


# ---------------------------------------------------------------------- what is refused


def _raises(_row: Values) -> Values:
    raise ZeroDivisionError("a rule that does not hold")


def _poorer(row: Values) -> Values:
    return {**row, "available": row["available"] - 1}


def _other_price(row: Values) -> Values:
    return {**row, "price": row["price"] + 100} if row["side"] == "BUY" else row


def _other_id(row: Values) -> Values:
    return {**row, "order_id": 1_000 - row["order_id"]}


def _drop(reason: str) -> Callable[[Values], Drop]:
    return lambda _row: Drop(reason)


def _without_a_row(_before: Tables, tables: Tables) -> dict[str, str]:
    tables["api_key"].pop()
    return {}


def _richer(tables: Tables) -> Facts:
    facts = facts_of(tables)
    return Facts({**facts.money, "USD": 0}, facts.queues)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a function that raises": (
        {"rows": {"api_key": _raises}},
        r"rows are converted: table api_key, row .*ZeroDivisionError: a rule",
    ),
    "a field left out": (
        {"structs": {"BalanceRow": lambda row: {"account_id": "x"}}},
        "table balance, row .*is part of the key and missing",
    ),
    "a field of another type": ({"rows": {"api_key": lambda row: {**row, "secret": 5}}}, "secret: expected str, not 5"),
    "an unknown field": ({"rows": {"api_key": lambda row: {**row, "colour": 5}}}, "colour: is not a field of ApiKeyRow"),
    "money that vanishes": ({"rows": {"balance": _poorer}}, "money is conserved: currency BTC: accounts and fees had 30000000"),
    "balances dropped": ({"rows": {"balance": _drop("poor")}}, "money is conserved"),
    "orders at other prices": ({"rows": {"order": _other_price}}, "every open order is at its place in its queue: order"),
    "orders in another order": ({"rows": {"order": _other_id}}, "every open order is at its place in its queue: order"),
    "orders dropped": ({"rows": {"order": _drop("old")}}, "the engine takes the state"),
    "accounts dropped": ({"rows": {"member": _drop("idle")}}, "references are whole: table api_key, row .*there is no account"),
    "a crossed book": (
        {
            "rows": {"order": lambda row: {**row, "price": 20_000} if row["side"] == "BUY" else row},
            "facts_before": lambda t: Facts({}, {}),
            "facts_after": lambda t: Facts({}, {}),
        },
        "the engine takes the state",
    ),
    "two rows of one key": ({"rows": {"api_key": lambda row: {**row, "key_id": "k"}}}, "keys are unique: table api_key"),
    "a table without a word": (
        {"renamed_tables": {}},
        r"every removed value has a reason: these would be lost.*: member \(the table",
    ),
    "a value without a word": ({"enums": {}}, "DoneReason no longer has LAPSED"),
    "rows gone without a word": (
        {"whole": _without_a_row},
        "rows are accounted for: table api_key: `whole` changed 3 rows to 2",
    ),
    "facts that differ": (
        {"facts_after": _richer},
        "money is conserved: currency USD: accounts and fees had 30000000, and have 0",
    ),
    "facts that cannot be read": (
        {"facts_before": lambda tables: facts_of(Tables())},
        "facts_before or facts_after must say where",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_migration_is_refused_with_the_failed_check(name: str, engine: Engine, tmp_path: Path) -> None:
    changes, message = BAD[name]
    rows = in_version(rows_of(engine), THREE, tmp_path)
    rows = with_row(rows, THREE, "done_order", 0, done_reason="LAPSED")
    known = chains(tmp_path / "released", with_changes(THREE_TO_FOUR, **{"rows": {}, **changes}))
    with pytest.raises(MigrationError, match=message):
        migrated(rows, THREE, known)


def test_a_command_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    known = chains(tmp_path / "released", with_changes(TWO_TO_THREE, structs={"PutProduct": _raises}))
    log = LogMigration(known.find(TWO.abi, FOUR.abi), FOUR)
    back = LogMigration(chains(tmp_path / "released", BACKWARD).find(FOUR.abi, TWO.abi), FOUR)
    with pytest.raises(MigrationError, match=r"commands are converted: log entry 1 .*ZeroDivisionError.*stopped gracefully"):
        log.convert(back.convert(encoded(foundations()[0])))


def test_without_a_chain_of_migrations_the_error_names_the_missing_one(tmp_path: Path) -> None:
    with pytest.raises(
        MigrationError, match=r"no migration leads from .*version 0\.0\.2.*without a default.*quorumbook migrate new"
    ):
        chains(tmp_path / "released", {}).find(TWO.abi, FOUR.abi)
    with pytest.raises(MigrationError, match=r"no way leads from .* back to"):
        chains(tmp_path / "released", FORWARD).find(FOUR.abi, ONE.abi)
    with pytest.raises(MigrationError, match="in a circle"):
        chains(tmp_path / "released", {**BACKWARD, TWO.abi: TWO_TO_THREE}).find(THREE.abi, ONE.abi)


def test_an_unknown_abi_is_reported(forward: Chains) -> None:
    with pytest.raises(UnknownAbiError, match=r"ABI ffff.* is not known .*later version.*version 0\.0\.1"):
        forward.find("f" * 40, FOUR.abi)


def test_a_damaged_row_is_named(engine: Engine, forward: Chains, tmp_path: Path) -> None:
    rows = in_version(rows_of(engine), TWO, tmp_path)
    key, value = rows["product"][0]
    rows["product"][0] = (key, value[:-1])
    with pytest.raises(MigrationError, match=r"rows are of their schema: table product, key"):
        migrated(rows, TWO, forward)
