"""A dataset: TSV files with which a cluster that has never run begins.

The tables are `Currency`, `Product`, `Account`, `ApiKey` and `Balance`, with the columns below; each balance becomes a
deposit. The first leader turns the rows into commands and proposes them in order, before it accepts any other command.
So all nodes agree. If the leader fails in the middle, the next one continues after the last entry in the log: while the
log has nothing but the dataset, the number of applied commands is the place.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from cluster.raft import Done, ProposeResult
from node.errors import ClusterKeyError, DatasetError, UnfitSecretError
from node.keys.encryption import ClusterKeys
from snapshots.errors import TsvError
from snapshots.tsv import ParsedRow, TsvSchema, parse, tsv_files
from statemachine.commands import AnyCommand, Batch, Deposit, OpenAccount, PutApiKey, PutCurrency, PutProduct, encode_batch
from statemachine.engine import Engine
from statemachine.events import Rejected
from statemachine.limits import OPERATOR
from statemachine.tables import KEYS, REFERENCES
from statemachine.types import ProductStatus

log = logging.getLogger(__name__)

CHUNK_COMMANDS = 500
"""Commands of a dataset in one log entry. With the longest names and secrets they stay under its limit."""


class CurrencySeed(msgspec.Struct, frozen=True):
    """See `commands.PutCurrency`."""

    currency: str
    scale: int


class ProductSeed(msgspec.Struct, frozen=True):
    """See `commands.PutProduct`."""

    product_id: str
    base: str
    quote: str
    tick: int
    lot: int
    min_size: int
    max_size: int
    maker_fee_ppm: int = 0
    taker_fee_ppm: int = 0
    status: ProductStatus = ProductStatus.ONLINE


class AccountSeed(msgspec.Struct, frozen=True):
    """See `commands.OpenAccount`."""

    account_id: str


class ApiKeySeed(msgspec.Struct, frozen=True):
    """See `commands.PutApiKey`."""

    key_id: str
    owner_id: str
    secret: str
    passphrase: str
    permissions: int
    addresses: str = ""


class BalanceSeed(msgspec.Struct, frozen=True):
    """See `commands.Deposit`."""

    account_id: str
    currency: str
    available: int


SEEDS: dict[str, type[msgspec.Struct]] = {
    "currency": CurrencySeed,
    "product": ProductSeed,
    "account": AccountSeed,
    "api_key": ApiKeySeed,
    "balance": BalanceSeed,
}
SCHEMA = TsvSchema(SEEDS, KEYS, [reference for reference in REFERENCES if reference.table in SEEDS])


class Dataset(msgspec.Struct, frozen=True):
    """A checked dataset. The id of each command follows from the contents of the whole dataset and the command's place
    in it.
    """

    name: str
    commands: list[AnyCommand]


def load(directory: Path, cluster_keys: ClusterKeys) -> Dataset:
    """Read and check a dataset: its files, the references between rows, and that the exchange accepts every row. API
    keys are encrypted.

    Raises:
        DatasetError: something is invalid; the text names file, line, column and field.
    """
    try:
        parsed = parse(tsv_files(directory), SCHEMA)
    except (TsvError, OSError) as error:
        raise DatasetError(f"dataset {directory}:\n{error}") from error
    rows = [row for name in SEEDS for row in parsed.get(name, [])]
    digest = hashlib.blake2b(msgspec.msgpack.encode([row.row for row in rows]), digest_size=6).hexdigest()
    commands = [_command(row.row, f"dataset:{digest}:{number}") for number, row in enumerate(rows)]
    _try(directory, rows, commands)
    try:
        commands = [cluster_keys.encrypt(command) if isinstance(command, PutApiKey) else command for command in commands]
    except (ClusterKeyError, UnfitSecretError) as error:
        raise DatasetError(f"dataset {directory}: {error}") from error
    return Dataset(directory.name, commands)


def _try(directory: Path, rows: Sequence[ParsedRow], commands: list[AnyCommand]) -> None:
    """Apply the commands to an engine that is then dropped."""
    for row, outcome in zip(rows, Engine().apply(Batch(1, commands)).outcomes, strict=True):
        if isinstance(outcome, Rejected):
            words = outcome.reason.name.lower().replace("_", " ")
            fault = row.line.fault(outcome.field, f"{words}: {outcome.detail} (in smallest units)")
            raise DatasetError(f"dataset {directory}:\n{fault}")


def _command(seed: msgspec.Struct, command_id: str) -> AnyCommand:
    """Return the command that creates an object of a dataset."""
    fields = msgspec.structs.asdict(seed)
    match seed:
        case CurrencySeed():
            return PutCurrency(OPERATOR, command_id, **fields)
        case ProductSeed():
            return PutProduct(OPERATOR, command_id, **fields)
        case AccountSeed(account_id):
            return OpenAccount(OPERATOR, command_id, account_id)
        case ApiKeySeed():
            return PutApiKey(OPERATOR, command_id, **fields)
        case BalanceSeed(account_id, currency, available):
            return Deposit(account_id, command_id, currency, available)
    raise TypeError(f"no command for {seed!r}")


class Proposer(Protocol):
    """The part of `cluster.raft.Raft` that is used here."""

    def propose(self, payload: bytes, done: Done) -> None: ...


class Seeding:
    """Proposes a dataset to a cluster that has never run.

    Args:
        engine: this node's engine as it is now.
        encode: makes the log entry of commands stamped with a time.
    """

    def __init__(
        self,
        dataset: Dataset,
        engine: Callable[[], Engine],
        raft: Proposer,
        *,
        time_ns: Callable[[], int] = time.time_ns,
        encode: Callable[[int, Sequence[AnyCommand]], bytes] = lambda now, commands: encode_batch(Batch(now, [*commands])),
    ) -> None:
        self._encode = encode
        self._dataset = dataset
        self._engine = engine
        self._raft = raft
        self._time_ns = time_ns
        self._under_way = False

    @property
    def finished(self) -> bool:
        """Whether the whole dataset has been applied, or the cluster had other commands first and none of it will be."""
        sequence, commands = self._engine().sequence, self._dataset.commands
        if sequence >= len(commands):
            return True
        return sequence > 0 and not self._applied(commands[sequence - 1])

    def _applied(self, command: AnyCommand) -> bool:
        return self._engine().has_outcome(command.account_id, command.command_id)

    def go_on(self) -> None:
        """Propose the next chunk. This happens only on a leader that has applied everything before its own term, so
        that no part of the dataset is proposed twice.
        """
        if self._under_way or self.finished:
            return
        self._under_way = True
        sequence = self._engine().sequence
        chunk = self._dataset.commands[sequence : sequence + CHUNK_COMMANDS]
        log.info("dataset %s: commands %d to %d of %d", self._dataset.name, sequence + 1, sequence + len(chunk), self._total)
        self._raft.propose(self._encode(self._time_ns(), chunk), self._done)

    @property
    def _total(self) -> int:
        return len(self._dataset.commands)

    def _done(self, result: ProposeResult) -> None:
        """Log the end of a step, or its failure."""
        self._under_way = False
        if result.error is not None:
            log.warning("dataset %s: %s; the next leader continues", self._dataset.name, result.error.value)
        elif self.finished:
            log.info("dataset %s: all %d commands are applied", self._dataset.name, self._total)
