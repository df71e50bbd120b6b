"""Datasets: what is read, what is refused, and that each command of a dataset is applied once, whichever node leads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.raft import Done, ProposeError, ProposeResult
from node.errors import DatasetError
from node.keys.encryption import ClusterKeys, write_keys
from node.records import datasets
from node.records.datasets import Dataset, Seeding
from statemachine.commands import Batch, OpenAccount, decode_batch
from statemachine.engine import Engine
from statemachine.limits import OPERATOR

Load = Callable[[Path], Dataset]
EXAMPLE = Path(__file__).parents[4] / "datasets" / "example"


KEYS = {1: bytes(64)}


@pytest.fixture(scope="module")
def cluster_keys(tmp_path_factory: pytest.TempPathFactory) -> ClusterKeys:
    path = tmp_path_factory.mktemp("keys") / "cluster.key"
    write_keys(path, KEYS)
    return ClusterKeys(path)


@pytest.fixture
def load(cluster_keys: ClusterKeys) -> Load:
    """Return a function that reads a dataset on a node that has a cluster key."""
    return lambda directory: datasets.load(directory, cluster_keys)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Copy the example that is part of the software."""
    for path in EXAMPLE.glob("*.tsv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_the_example_opens_an_exchange(load: Load) -> None:
    engine = Engine()
    engine.apply(Batch(1, load(EXAMPLE).commands))
    engine.check()
    assert [product.product_id for product in engine.products()] == ["BTC-USD", "ETH-BTC", "ETH-USD"]
    assert engine.balances("alice")[0].available == 100_000 * 10**6


def test_keys_are_encrypted(load: Load, cluster_keys: ClusterKeys) -> None:
    plain = (EXAMPLE / "ApiKey.tsv").read_text().splitlines()[-1].split("\t")
    engine = Engine()
    engine.apply(Batch(1, load(EXAMPLE).commands))
    row = engine.api_key(plain[0])
    assert row is not None
    assert (row.sealed_by, row.secret == plain[2]) == (1, False)
    assert cluster_keys.open(row).secret == plain[2]


def test_without_a_cluster_key_no_key_is_put(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no cluster key at"):
        datasets.load(EXAMPLE, ClusterKeys(tmp_path / "cluster.key"))


def test_the_same_rows_give_the_same_ids(load: Load, example: Path) -> None:
    first = load(example)
    text = (example / "Account.tsv").read_text()
    (example / "Account.tsv").write_text(text + "# a remark\n")
    assert load(example).commands == first.commands
    (example / "Account.tsv").write_text(text + "carol\n")
    assert load(example).commands[0].command_id != first.commands[0].command_id


@pytest.mark.parametrize(
    ("table", "right", "wrong", "message"),
    [
        ("Balance", "bob\tETH", "eve\tETH", r"Balance\.tsv, line 6, column 1, field account_id: expected a row of Account; there is no 'eve'"),
        ("Product", "BTC-USD\tBTC\tUSD\t0.01", "BTC-USD\tBTC\tUSD\t0.010001", r"Product\.tsv, line 4, column 4, field tick: invalid product: "),
        ("Account", "account_id", "account_id\topened_at", r"line 2, column 2, field opened_at: unknown column; expected some of account_id"),
        ("ApiKey", "ZXhhbXBsZS1zZWNyZXQtb2YtYWxpY2U=", "?", r"ApiKey\.tsv, line 4, column 3, field secret: invalid id: "),
    ],
)  # fmt: skip
def test_a_fault_is_reported_with_its_place(load: Load, example: Path, table: str, right: str, wrong: str, message: str) -> None:
    path = example / f"{table}.tsv"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(DatasetError, match=message):
        load(example)


def test_an_absent_directory_is_reported(load: Load, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected a directory with files such as Product\.tsv"):
        load(tmp_path / "none")


class Log:
    """A log that applies what is proposed, or loses it, as the test says."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.waiting: list[tuple[bytes, Done]] = []

    def propose(self, payload: bytes, done: Done) -> None:
        """See `cluster.raft.Raft`."""
        self.waiting.append((payload, done))

    def settle(self, *, applied: bool, error: ProposeError | None = None) -> None:
        """Decide the oldest proposal."""
        payload, done = self.waiting.pop(0)
        if applied:
            self.engine.apply(decode_batch(payload))
        done(ProposeResult(error=error))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CHUNK_COMMANDS", 4)


def seeding(log: Log, dataset: Dataset) -> Seeding:
    """Return a node's seeding, with what its engine knows."""
    return Seeding(dataset, lambda: log.engine, log, time_ns=lambda: 7)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("applied", [True, False])
def test_a_leader_that_dies_in_the_middle_is_followed(load: Load, applied: bool) -> None:
    dataset = load(EXAMPLE)
    log = Log(Engine())
    first = seeding(log, dataset)
    first.go_on()
    first.go_on()
    assert len(log.waiting) == 1, "one batch at a time"
    log.settle(applied=True)
    first.go_on()
    log.settle(applied=applied, error=ProposeError.OUTCOME_UNKNOWN)
    second = seeding(log, dataset)
    before = second.finished
    for _ in range(10):
        second.go_on()
        if log.waiting:
            log.settle(applied=True)
    assert (before, second.finished, first.finished) == (False, True, True)
    assert log.engine.sequence == len(dataset.commands)
    whole = Engine()
    whole.apply(Batch(7, dataset.commands))
    assert log.engine.products() == whole.products()
    assert log.engine.balances("bob") == whole.balances("bob")


@pytest.mark.parametrize("commands", [1, 40])
def test_a_cluster_with_other_data_is_not_seeded(load: Load, commands: int) -> None:
    log = Log(Engine())
    others = [OpenAccount(OPERATOR, f"c{number}", f"account-{number}") for number in range(commands)]
    log.engine.apply(Batch(1, list(others)))
    late = seeding(log, load(EXAMPLE))
    assert late.finished
    late.go_on()
    assert not log.waiting
