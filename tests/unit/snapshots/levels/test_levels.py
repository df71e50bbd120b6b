"""The frozen core of 0.2.0 behind the present interface, and the entry that raises its state to this version's level."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from cluster.log import DurableLog, command_of
from cluster.storage import RealDisk
from snapshots.abi import SCHEMA
from snapshots.abi.releases import Releases
from snapshots.errors import LevelError
from snapshots.levels import freezing, states
from snapshots.levels.level import CORES, OWN, SUPPORTED, V0_2_0, Level, SetLevel, abi_behind, by_version, encode_level_entry
from snapshots.levels.narrowing import NotAtLevelError
from snapshots.levels.raising import raised, widened
from snapshots.levels.v0_2_0 import NARROWING, FormerEngine
from snapshots.migration.chain import Chains
from snapshots.migration.run import StateMigration
from snapshots.store import SnapshotStore
from statemachine.commands import Batch, CancelOrder, Deposit, OpenAccount, PlaceOrder, PutCurrency, Withdraw, encode_batch
from statemachine.engine import Engine
from statemachine.events import Done, Placed, Rejected, Transferred
from statemachine.limits import OPERATOR
from statemachine.order_lists import Wanted
from statemachine.types import OrderType, Side
from tests.unit.snapshots.levels.markets import Market

GOLDEN = Path(__file__).parents[3] / "golden" / f"0.2.0-{V0_2_0.abi}"


@pytest.fixture
def former(tmp_path: Path) -> Engine:
    """Return the state that version 0.2.0 left. Its own core has applied its log."""
    shutil.copytree(GOLDEN / "snapshots", tmp_path / "snapshots")
    shutil.copytree(GOLDEN / "log", tmp_path / "log")
    store = SnapshotStore(tmp_path / "snapshots", accepts=[level.abi for level in SUPPORTED])
    manifest = store.newest()
    assert manifest is not None
    engine = states.restored(manifest.abi, store.load(manifest), verified=True)
    log = DurableLog(RealDisk(tmp_path / "log"), node_id="n1", abi=V0_2_0.abi)
    for entry in log.load():
        command = command_of(entry)
        if entry.index > manifest.index and command is not None:
            engine, applied = states.apply(engine, command)
            assert applied is not None
            assert len(applied.command_ends) == len(applied.outcomes) + 1
    return engine


def test_every_frozen_core_is_unchanged() -> None:
    found = {path.name: freezing.digest(path) for path in freezing.RELEASED.glob("*.zip")}
    assert found == {freezing.archive_path(version).name: digest for version, digest in CORES.items()}


def test_the_same_sources_give_the_same_archive(tmp_path: Path) -> None:
    source = tmp_path / "statemachine"
    source.mkdir()
    (source / "one.py").write_text("from statemachine.two import x\nimport statemachine.two\n# statemachine\n")
    first, second = (freezing.freeze(source, "9.9", tmp_path / f"{name}.zip") for name in "ab")
    assert first == second
    assert "released.core_9_9.two" in freezing.frozen_source((source / "one.py").read_text(), "9.9")


def test_the_former_engine_has_a_read_for_everything_that_the_present_one_has() -> None:
    def public(kind: type) -> set[str]:
        return {
            name
            for name, value in vars(kind).items()
            if not name.startswith("_") and (callable(value) or isinstance(value, property | classmethod))
        }

    assert public(Engine) - public(FormerEngine) == {"patch", "orders"}


@pytest.mark.parametrize("abi", [level.abi for level in SUPPORTED if level is not OWN])
def test_the_schema_is_append_only_since_every_supported_level(abi: str) -> None:
    """The present structs read what the former version wrote, and the former structs read the new bytes if these use
    nothing new.
    """
    before = Releases().schema(abi)
    for name, struct in before.structs.items():
        if name == "Batch":
            continue  # a log entry is read by the core of its own level
        now = SCHEMA.structs[name]
        assert now.tag == struct.tag, name
        assert [field.name for field in now.fields[: len(struct.fields)]] == [field.name for field in struct.fields], name
        assert all(field.default is not msgspec.UNSET for field in now.fields[len(struct.fields) :]), name
    for name, members in before.enums.items():
        assert members.items() <= SCHEMA.enums[name].items(), name


def test_reads_are_those_of_the_state_after_it_was_raised(former: Engine) -> None:
    present = raised(former, V0_2_0, OWN)
    present.check()
    former.check()
    assert (former.sequence, former.time) == (present.sequence, present.time)
    assert former.sequences() == present.sequences()
    assert former.currencies() == present.currencies()
    assert former.api_keys() == present.api_keys()
    for account_id in ("ann", "bob", "eve"):
        assert former.account_exists(account_id)
        assert former.balances(account_id) == present.balances(account_id)
        for wanted in (
            Wanted(done=True),
            Wanted(open=False, done=True),
            Wanted(product_id="BTC-USD"),
            Wanted(holds="USD"),
            Wanted(statuses=2),
        ):
            mine, theirs = former.order_list(account_id, wanted, 5), present.order_list(account_id, wanted, 5)
            assert [order.order_id for order in mine] == [order.order_id for order in theirs]
            assert former.encoded_orders(account_id, wanted, 5) == msgspec.msgpack.encode(mine)
        assert former.orders_kept(account_id) == present.orders_kept(account_id)
    for product in present.products():
        name = product.product_id
        for side in Side:
            assert former.book_orders(name, side) == present.book_orders(name, side)
            assert former.levels(name, side, 5) == present.levels(name, side, 5)
            first = former.book_page(name, side, (0, 0, 0), 3)
            assert first == present.book_page(name, side, (0, 0, 0), 3)
            if first:
                price, _, order_id, opened = first[-1]
                assert former.book_page(name, side, (price, opened, order_id), 9) == present.book_page(
                    name, side, (price, opened, order_id), 9
                )


def test_widening_gives_the_rows_of_the_migration(former: Engine) -> None:
    rows = {name: list(found) for name, found in former.tables()}
    steps = Chains().find(V0_2_0.abi, OWN.abi)
    assert widened(rows) == StateMigration(steps).run(rows, Releases().schema(V0_2_0.abi))


def test_a_rejected_withdrawal_gets_its_first_answer_at_the_next_level() -> None:
    """Otherwise it would be executed if the account has the money by then. The simulation found this with seed 700468."""
    engine: Engine = FormerEngine()
    withdraw = Withdraw("ann", "w", "USD", 100)
    engine.apply(Batch(1, [PutCurrency(OPERATOR, "c", "USD", 2), OpenAccount(OPERATOR, "a", "ann")]))
    (first,) = engine.apply(Batch(2, [withdraw])).outcomes
    assert isinstance(first, Rejected)
    present = raised(engine, V0_2_0, OWN)
    deposited, again = present.apply(Batch(3, [Deposit("ann", "d", "USD", 1_000), withdraw])).outcomes
    assert isinstance(deposited, Transferred)
    assert again == msgspec.structs.replace(first, duplicate=True)
    present.check()


def test_raising_twice_gives_the_same_and_other_states_give_another_hash(former: Engine) -> None:
    one, other = (raised(former, V0_2_0, OWN) for _ in range(2))
    assert (one.state_hash, one.full_hash()) == (other.state_hash, other.full_hash())
    former.apply(Batch(10**12, [OpenAccount(OPERATOR, "new", "new")]))
    assert raised(former, V0_2_0, OWN).state_hash != one.state_hash


def test_the_entry_changes_the_level_and_what_follows_is_of_the_new_one(former: Engine) -> None:
    change = encode_level_entry(SetLevel(V0_2_0, OWN))
    assert abi_behind(change) == OWN.abi
    engine, applied = states.apply(former, change)
    assert applied is None
    assert states.level_of(engine) == OWN
    again, _ = states.apply(engine, change)
    assert again is engine, "the second time it has no effect"
    engine, done = states.apply(engine, encode_batch(Batch(10**15, [PutCurrency(OPERATOR, "x", "XYZ", 3)])))
    assert done is not None
    assert isinstance(done.outcomes[0], Done)
    engine.check()


def test_a_level_that_is_not_known_stops_the_node(former: Engine) -> None:
    later = Level("9.0.0", "f" * 40, 99)
    with pytest.raises(LevelError, match=r"9\.0\.0.*Install version 9\.0\.0"):
        states.apply(former, encode_level_entry(SetLevel(V0_2_0, later)))
    elsewhere = SetLevel(OWN, later)
    assert states.apply(former, encode_level_entry(elsewhere)) == (former, None), "an entry of another level has no effect"


def test_no_version_takes_the_entry_for_commands() -> None:
    change = encode_level_entry(SetLevel(V0_2_0, OWN))
    with pytest.raises(msgspec.DecodeError):
        states.empty(V0_2_0).apply_entry(change)
    with pytest.raises(msgspec.DecodeError):
        states.empty(OWN).apply_entry(change)
    assert abi_behind(b"\x90") is None
    assert abi_behind(b"\xc1garbage") is None


class TestNarrowing:
    ORDER = PlaceOrder("ann", "c:1", "BTC-USD", Side.BUY, OrderType.LIMIT, 100, 5)

    def test_a_command_that_needs_nothing_new_is_the_former_one(self) -> None:
        states.check_commands(V0_2_0.abi, [self.ORDER, CancelOrder("ann", "x", 5)])
        batch = states.commands_of(V0_2_0.abi, states.encoded(V0_2_0.abi, 77, [self.ORDER]))
        assert (batch.time, batch.commands) == (77, [self.ORDER])
        assert NARROWING.command(self.ORDER).price == 100

    def test_a_new_field_a_new_value_and_a_new_command_are_refused_by_name(self) -> None:
        for kind in {type(self.ORDER)}:
            added = msgspec.structs.fields(kind)[len(NARROWING._added.get(kind, ())) :]
            assert added
        new = [command for command in (self._with_new_field(), self._with_new_value()) if command is not None]
        for command in new:
            with pytest.raises(NotAtLevelError, match=r"commands\[1\].*level 0\.2\.0"):
                states.check_commands(V0_2_0.abi, [self.ORDER, command])
            states.check_commands(OWN.abi, [command])

    def _with_new_field(self) -> PlaceOrder | None:
        known = {field.name for field in Releases().schema(V0_2_0.abi).structs["PlaceOrder"].fields}
        for field in msgspec.structs.fields(PlaceOrder):
            if field.name not in known and isinstance(field.default, int):
                return msgspec.structs.replace(self.ORDER, **{field.name: 1})
        return None

    def _with_new_value(self) -> PlaceOrder | None:
        known = Releases().schema(V0_2_0.abi).enums["OrderType"]
        new = [member for member in OrderType if member.name not in known]
        return msgspec.structs.replace(self.ORDER, order_type=new[0]) if new else None


def test_a_level_is_found_by_version_and_by_abi() -> None:
    assert by_version("0.2.0") == by_version(V0_2_0.abi) == by_version(V0_2_0.abi[:12]) == V0_2_0
    assert by_version("0.1.0") is None
    with pytest.raises(LevelError):
        states.restored("f" * 40, {})


def test_outcomes_of_the_former_core_are_read_by_the_present_structs(former: Engine) -> None:
    applied = former.apply(Batch(10**15, [PlaceOrder("ann", "c:z", "BTC-USD", Side.BUY, OrderType.LIMIT, 1_000, 5)]))
    assert isinstance(applied.outcomes[0], Placed)


def test_changes_of_a_former_state_can_be_read_without_a_freeze() -> None:
    engine, flow = states.empty(V0_2_0), Market(3)
    engine.apply(flow.foundations())
    for batch in flow.batches(30):
        engine.apply(batch)
    looked_at = [engine.changes_since_freeze() for _ in range(2)]
    first, second = ([(chunk.table, chunk.rows) for chunk in frozen] for frozen in looked_at)
    assert first == second == [(chunk.table, chunk.rows) for chunk in engine.freeze()]
