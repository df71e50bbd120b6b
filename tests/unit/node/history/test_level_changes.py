"""The history continues over a change of the level and its return: no row is missing, and the sums hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import MissingEntriesError
from cluster.log import DurableLog
from cluster.messages import COMMAND
from cluster.ports import Schemas
from cluster.storage import RealDisk
from node.history.projection import Row
from node.migration import cutover
from node.migration.contents import LOG
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, OWN, V0_2_0, CheckLevel, Level, LevelEntry, SetLevel, abi_behind, encode_level_entry
from statemachine.commands import Batch
from tests.unit.node.history.logs import NodeLog
from tests.unit.snapshots.levels.markets import Market

BATCHES = 60


class LevelLog(NodeLog):
    """The log of a node that begins at level 0.2.0, and the market that trades there."""

    def __init__(self, directory: Path, seed: int) -> None:
        super().__init__(directory)
        self.engine = states.empty(V0_2_0)
        self._market = Market(seed)
        self._batch(self._market.foundations())

    def open(self) -> None:
        """See `NodeLog`."""
        disk = RealDisk(self.config.data_path / LOG, fsync=False, archive_to=self.config.data_path / cutover.ARCHIVE)
        self.log = DurableLog(disk, node_id="n1", schemas=Schemas(lambda: V0_2_0.abi, ACCEPTED, abi_behind), segment_bytes=2_000)
        self.log.load()

    @property
    def level(self) -> Level:
        """Return the level in force."""
        return states.level_of(self.engine)

    def trade(self) -> None:
        """Append batches of the level in force."""
        for batch in self._market.batches(BATCHES):
            self._batch(batch)
        self._market._number += 1_000  # no id is used again, which would close the way back

    def _batch(self, batch: Batch) -> None:
        self._add_payload(states.encoded(self.level.abi, batch.time, batch.commands))

    def change(self, to: Level) -> None:
        """Append the entries that change the level."""
        entries: list[LevelEntry] = [SetLevel(self.level, to)]
        if to is V0_2_0:
            entries.insert(0, CheckLevel(self.level, to))
        for entry in entries:
            self._add_payload(encode_level_entry(entry))
        assert self.level == to

    def _add_payload(self, payload: bytes) -> None:
        self.engine, _ = states.apply(self.engine, payload)
        self._append(bytes([COMMAND]) + payload)


def check_sums(node: LevelLog, stored: dict[str, list[Row]]) -> None:
    """Check that the rows add up to the state at the end of the log."""
    assert stored["progress"][0]["sequence"] == node.engine.sequence
    assert stored["progress"][0]["log_index"] == node.applied
    assert not stored["gaps"]
    balances: dict[tuple[str, str], int] = {}
    for entry in stored["ledger"]:
        key = entry["account_id"], entry["currency"]
        balances[key] = balances.get(key, 0) + entry["amount"]
        assert entry["balance"] == balances[key]
    accounts = {account_id for account_id, _ in balances}
    for account_id in accounts:
        for row in node.engine.balances(account_id):
            assert balances.get((account_id, row.currency), 0) == row.available + row.hold
    assert len(stored["trades"]) == sum(product.last_trade_id for product in node.engine.products()) > 20


def restarted(node: LevelLog) -> None:
    """Run a history process that reads what there is, writes its state, and ends."""
    keeper = node.keeper()
    node.drain(keeper)
    keeper.write_state()
    node.drain(keeper)
    keeper.close()


@pytest.mark.parametrize("seed", range(2))
def test_a_history_follows_the_level_up_and_down_and_up_again(tmp_path: Path, seed: int) -> None:
    """One history is opened at the end only, and one is restarted around each change. Both have the same rows."""

    def run(name: str, step: Callable[[LevelLog], None]) -> dict[str, list[Row]]:
        node = LevelLog(tmp_path / name, seed)
        for level in (OWN, V0_2_0, OWN, V0_2_0):
            node.trade()
            step(node)
            node.change(level)
            step(node)
        node.trade()
        restarted(node)
        stored = node.stored()
        check_sums(node, stored)
        return {table: rows for table, rows in stored.items() if table != "progress"}

    assert run("whole", lambda _node: None) == run("restarted", restarted)


def test_a_log_that_begins_after_a_change_of_the_level_is_fetched_from_its_beginning(tmp_path: Path) -> None:
    """This node has the log at the later level only. The first entry is applied at the level at which the log begins."""
    node = LevelLog(tmp_path / "cluster", 0)
    node.trade()
    node.change(OWN)
    node.log.roll()
    elsewhere = tmp_path / "elsewhere"
    (node.config.data_path / LOG).rename(elsewhere)
    shutil.copytree(elsewhere, node.config.data_path / LOG)
    first, *further = sorted((node.config.data_path / LOG).glob("*.seg"), reverse=True)
    for path in further:
        path.unlink()
    keeper = node.keeper()
    with pytest.raises(MissingEntriesError):
        keeper.advance(node.applied)
    elsewhere.rename(keeper.fetched)
    (keeper.fetched / first.name).unlink()
    node.drain(keeper)
    keeper.close()
    check_sums(node, node.stored())
