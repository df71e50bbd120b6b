"""An audit of a cluster that does not trust its nodes: it reads their logs and applies every command again, to an
engine of its own.

What it proves:

- the nodes' logs agree on every committed entry;
- every command that a client was told about is there exactly once, with the outcome that the client was told;
- the whole state that follows from the log keeps its invariants, money conserved among them;
- each node's state hash is the one that follows from the log.

It needs the whole log: `raft.archive_log = true` keeps the segments that a node no longer needs itself. An entry counts
as committed up to the highest commit index that a node tells, and without nodes up to the last entry that a majority of
the voters have in common.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TypeVar

import msgspec

from cluster.errors import LogDamagedError
from cluster.log import command_of, members_of, read_segments, segment_abis
from cluster.membership import Membership
from cluster.ports import LogEntry
from node.config.file import load
from node.config.settings import NodeConfig
from node.errors import AuditError
from node.native.protocol import NodeStatus
from node.system import files
from snapshots.abi import ABI
from snapshots.errors import SnapshotError
from snapshots.levels import states
from snapshots.levels.level import ACCEPTED, OWN, Level, by_abi, decode_set_level, is_level_entry
from snapshots.levels.states import commands_of, level_of
from statemachine.commands import AnyCommand, Batch, Deposit, Transfer, Withdraw
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, Cancelled, Placed, Rejected
from statemachine.tables import BalanceRow, CurrencyRow
from statemachine.types import Reason

UNANSWERED = "unanswered"
"""The kind of a command that was sent and never answered: it may be there, once, or not at all."""

EXAMPLES = 3
"""How many differences a check names."""

ATTEMPTS = 4
ATTEMPT_PAUSE = 0.5
"""How often the logs of running nodes are read before an error in them is believed, and the seconds between."""

NOT_REMEMBERED = frozenset(
    {
        Reason.COMMAND_ID_REUSED,
        Reason.UNKNOWN_ACCOUNT,
        Reason.INVALID_COMMAND_ID,
        Reason.INVALID_ID,
        Reason.TOO_MANY_TRANSFERS,
    }
)
"""Rejections that the engine keeps no memory of: the same command may be rejected like that again, under another
sequence.
"""

_Found = TypeVar("_Found")


class Acknowledged(msgspec.Struct, frozen=True):
    """A line of a client's record: what was sent, and what it was told. `kind` is the outcome's type in lower case."""

    account_id: str
    command_id: str
    kind: str
    sequence: int = 0
    order_id: int = 0


class AuditCheck(msgspec.Struct, frozen=True):
    """One line of the report: what was claimed, whether it holds, and the figures behind it."""

    claim: str
    holds: bool
    detail: str


class AuditReport(msgspec.Struct):
    """What an audit found. `state_hash` is that of the last committed entry, after `sequence` commands."""

    commit_index: int
    sequence: int
    state_hash: str
    commands: int
    checks: list[AuditCheck]

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)


class _Mark(msgspec.Struct, frozen=True, array_like=True):
    """An entry without its bytes."""

    term: int
    digest: bytes


class _NodeLog:
    """One node's log: where it is, and a mark an index."""

    def __init__(self, node_id: str, directories: list[Path]) -> None:
        self.node_id = node_id
        self.directories = directories
        self.marks: dict[int, _Mark] = {}
        self.memberships: dict[int, Membership] = {}
        for entry in self.entries():
            self.marks[entry.index] = _mark(entry)
            membership = members_of(entry)
            if membership is not None:
                self.memberships[entry.index] = membership

    def entries(self) -> Iterator[LogEntry]:
        """All entries, by index.

        Raises:
            AuditError: the log is damaged or cannot be read.
        """
        try:
            yield from read_segments(*self.directories, abis=ACCEPTED)
        except (LogDamagedError, OSError) as error:
            raise AuditError(f"{self.node_id}: {error}") from error


class _Applied(msgspec.Struct, frozen=True, array_like=True):
    sequence: int
    kind: str
    order_id: int
    remembered: bool
    transfer: type[AnyCommand] | None
    """The kind of a transfer: each has ids of its own."""


class _Replay:
    """The engine that the log is applied to, and what became of each command."""

    def __init__(self, engine: Engine, hashes_at: Iterable[int]) -> None:
        self.engine = engine
        self.commands = 0
        self.applied: dict[tuple[str, str], list[_Applied]] = {}
        self.hashes: dict[int, list[str]] = {sequence: [] for sequence in hashes_at}
        """At a sequence: the hash after its command, and after each entry without commands that follows."""
        self._note_hash()

    def apply(self, payload: bytes) -> None:
        """Apply one entry."""
        batch = commands_of(level_of(self.engine).abi, payload) if not is_level_entry(payload) else Batch(0, [])
        self.engine, applied = states.apply(self.engine, payload)
        outcomes = applied.outcomes if applied is not None else []
        for command, outcome in zip(batch.commands, outcomes, strict=True):
            self.commands += 1
            if not outcome.duplicate:
                self.applied.setdefault((command.account_id, command.command_id), []).append(_applied(command, outcome))
        self._note_hash()

    def _note_hash(self) -> None:
        if self.engine.sequence in self.hashes:
            self.hashes[self.engine.sequence].append(self.engine.state_hash.hex())


def audit_directory(
    directory: Path, acks: Path | None = None, statuses: Mapping[str, NodeStatus | None] | None = None
) -> AuditReport:
    """Audit the nodes whose directories are in `directory`, as `quorumbook init` lays them out.

    Args:
        acks: JSON lines of `Acknowledged`, as a client recorded them.
        statuses: what the nodes say of themselves, None for one that does not answer.

    Raises:
        AuditError: there is nothing to audit, the log does not reach back to its first entry, or files cannot be read.
        ConfigError: a node's configuration is not right.
    """
    logs, told, commit_index = _opened(directory, statuses)
    agreed, agreement = _agree(logs, commit_index, told)
    replay = _replay(logs, agreed, commit_index, [status.sequence for status in told.values()])
    checks = [agreement, _check_state(replay.engine), _check_money(replay.engine)]
    if acks is not None:
        checks.append(_check_acknowledged(replay, read_acknowledged(acks)))
    if statuses is not None:
        checks.append(_check_hashes(replay, statuses))
    engine = replay.engine
    return AuditReport(commit_index, engine.sequence, engine.state_hash.hex(), replay.commands, checks)


def committed_batches(
    directory: Path, statuses: Mapping[str, NodeStatus | None] | None = None, *, first: float = inf
) -> list[Batch]:
    """The committed batches of commands, in order, out of the logs of nodes that may be running; from the beginning
    until they have `first` commands. The other arguments, and the errors, are those of `audit_directory`."""

    def read() -> list[Batch]:
        logs, told, commit_index = _opened(directory, statuses)
        batches: list[Batch] = []
        commands = 0
        level = _level_at_start(_directories(logs))
        for index, payload in _committed(logs, _agree(logs, commit_index, told)[0], commit_index):
            try:
                change = decode_set_level(payload)
                batch = commands_of(level.abi, payload) if change is None else Batch(0, [])
            except msgspec.DecodeError as error:
                raise AuditError(f"entry {index} is not a batch of commands: {error}") from error
            if change is not None:
                level = change.to if change.old.abi == level.abi else level
                continue
            batches.append(batch)
            commands += len(batch.commands)
            if commands >= first:
                break
        return batches

    return _patiently(read)


def empty_engine(directory: Path) -> Engine:
    """An exchange in which nothing has happened yet, of the level at which the logs of the nodes in `directory` begin.
    The errors are those of `audit_directory`.
    """
    configs = [load(path, dates=False) for path in sorted(directory.glob("*/node.toml"))]

    def read() -> Engine:
        try:
            return states.empty(_level_at_start(each for config in configs for each in log_directories(config)))
        except (LogDamagedError, OSError) as error:
            raise AuditError(str(error)) from error

    return _patiently(read)


def _opened(
    directory: Path, statuses: Mapping[str, NodeStatus | None] | None
) -> tuple[list[_NodeLog], dict[str, NodeStatus], int]:
    """The nodes' logs, what the nodes say, and the last index that is surely committed."""
    configs = [load(path, dates=False) for path in sorted(directory.glob("*/node.toml"))]
    if not configs:
        raise AuditError(f"{directory}: no node in it (expected {directory}/n1/node.toml)")
    logs = [log for log in map(_node_log, configs) if log.marks]
    told = {node_id: status for node_id, status in (statuses or {}).items() if status is not None}
    return logs, told, _commit_index(logs, [node.node_id for node in configs[0].nodes], told)


def audit_running(
    directory: Path, acks: Path | None = None, statuses: Mapping[str, NodeStatus | None] | None = None
) -> AuditReport:
    """`audit_directory` for nodes that may be running."""
    return _patiently(lambda: audit_directory(directory, acks, statuses))


def _patiently(read: Callable[[], _Found]) -> _Found:
    """Read logs of nodes that may be running: one that is archiving a log segment makes it unreadable for a moment."""
    for _ in range(ATTEMPTS - 1):
        try:
            return read()
        except AuditError:
            time.sleep(ATTEMPT_PAUSE)
    return read()


def read_acknowledged(path: Path) -> Iterator[Acknowledged]:
    """The lines of a client's record; fields that are not those of `Acknowledged` are passed over.

    Raises:
        AuditError: the file cannot be read, or a line is not one.
    """
    try:
        yield from files.decoded_lines(path, msgspec.json.Decoder(Acknowledged), AuditError)
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror}") from error


def log_directories(config: NodeConfig) -> list[Path]:
    """Where a node's log segments are: those in use and, with `raft.archive_log`, the old ones."""
    return sorted({path.parent for path in config.data_path.glob("*/log-*.seg")})


def _node_log(config: NodeConfig) -> _NodeLog:
    directories = log_directories(config)
    others = {abi for directory in directories for abi in segment_abis(directory).values() if abi not in ACCEPTED}
    if others:
        raise AuditError(
            f"{config.node_id}: the log begins with ABI {', '.join(sorted(others))}, this software has ABI {ABI}: an audit needs the whole "
            "log and does not reach over a migration. Audit with the version that wrote it"
        )
    return _NodeLog(config.node_id, directories)


def _directories(logs: Iterable[_NodeLog]) -> list[Path]:
    return [directory for log in logs for directory in log.directories]


def _level_at_start(directories: Iterable[Path]) -> Level:
    """The level of the first entry of the logs in these directories."""
    abis = {name: abi for directory in directories for name, abi in segment_abis(directory).items()}
    return by_abi(abis[min(abis)]) or OWN if abis else OWN


def _mark(entry: LogEntry) -> _Mark:
    return _Mark(entry.term, hashlib.blake2b(entry.payload, digest_size=16).digest())


def _applied(command: AnyCommand, outcome: AnyOutcome) -> _Applied:
    remembered = not (isinstance(outcome, Rejected) and outcome.reason in NOT_REMEMBERED)
    order_id = outcome.order.order_id if isinstance(outcome, Placed) else 0
    if isinstance(outcome, Cancelled) and len(outcome.orders) == 1:
        order_id = outcome.orders[0].order_id
    transfer = type(command) if isinstance(command, Deposit | Withdraw | Transfer) else None
    return _Applied(outcome.sequence, type(outcome).__name__.lower(), order_id, remembered, transfer)


def _commit_index(logs: list[_NodeLog], configured: Sequence[str], told: Mapping[str, NodeStatus]) -> int:
    """The last index that is surely committed; see the module's text.

    Raises:
        AuditError: no node has a log.
    """
    if not logs:
        raise AuditError("no node here has a log")
    last = max(max(log.marks) for log in logs)
    if told:
        return min(last, max(status.commit_index for status in told.values()))
    everywhere = {index: membership for log in logs for index, membership in log.memberships.items()}
    for index in range(last, 0, -1):
        for log in logs:
            if index in log.marks and _held_by_majority(
                log, logs, index, _voters(everywhere | log.memberships, index, configured)
            ):
                return index
    raise AuditError("no entry is in the logs of a majority of the voters")


def _voters(memberships: Mapping[int, Membership], index: int, configured: Sequence[str]) -> Sequence[str]:
    """Who votes at an index of the log; before the log says it, those whom the configuration lists."""
    newest = max((at for at in memberships if at <= index), default=0)
    return memberships[newest].voters if newest else configured


def _held_by_majority(holder: _NodeLog, logs: list[_NodeLog], index: int, voters: Sequence[str]) -> bool:
    """Whether a majority of the voters have the entry that this log has at `index`."""
    same = [log for log in logs if log.node_id in voters and log.marks.get(index) == holder.marks[index]]
    return len(same) > len(voters) // 2


def _agree(logs: list[_NodeLog], commit_index: int, told: Mapping[str, NodeStatus]) -> tuple[dict[int, _Mark], AuditCheck]:
    """The committed entry of each index, and whether all logs agree on it.

    A node that was cut off may hold entries that were never committed where others have committed ones of a later term.
    That is no disagreement as long as it has not applied them; what it holds from there on does not count.
    """
    agreed: dict[int, _Mark] = {}
    ends = {log.node_id: max(log.marks) for log in logs}
    wrong: list[str] = []
    left_over: list[str] = []
    for index in range(1, commit_index + 1):
        holders = [log for log in logs if index in log.marks and index <= ends[log.node_id]]
        if not holders:
            continue
        agreed[index] = max((log.marks[index] for log in holders), key=lambda mark: mark.term)
        for log in holders:
            if log.marks[index] == agreed[index]:
                continue
            ends[log.node_id] = index - 1
            status = told.get(log.node_id)
            if log.marks[index].term == agreed[index].term or (status is not None and status.applied_index >= index):
                wrong.append(f"{log.node_id} has another entry at {index}")
            else:
                left_over.append(f"{log.node_id} holds uncommitted entries from {index} on")
    return agreed, AuditCheck(
        "the logs of all nodes have the same committed entries",
        not wrong,
        _some(wrong) or "; ".join([f"{len(agreed):,} entries, {', '.join(log.node_id for log in logs)}", *left_over]),
    )


def _replay(logs: list[_NodeLog], agreed: dict[int, _Mark], commit_index: int, hashes_at: Iterable[int]) -> _Replay:
    """Apply the committed entries. Raises as `_committed`."""
    replay = _Replay(states.empty(_level_at_start(_directories(logs))), hashes_at)
    for index, payload in _committed(logs, agreed, commit_index):
        try:
            replay.apply(payload)
        except (msgspec.DecodeError, SnapshotError) as error:
            raise AuditError(f"entry {index} is not a batch of commands: {error}") from error
    return replay


def _committed(logs: list[_NodeLog], agreed: dict[int, _Mark], commit_index: int) -> Iterator[tuple[int, bytes]]:
    """The committed entries that have commands or change the level, each from whichever log has it.

    Raises:
        AuditError: an entry is in no log.
    """
    expected = 1
    for entry in heapq.merge(*(log.entries() for log in logs), key=lambda entry: entry.index):
        if entry.index == expected <= commit_index and _mark(entry) == agreed.get(expected):
            expected += 1
            payload = command_of(entry)
            if payload is not None:
                yield entry.index, payload
    if expected <= commit_index:
        raise AuditError(
            f"entry {expected} of {commit_index} is in no node's log: an audit needs all of them (raft.archive_log = true keeps them)"
        )


def _check_state(engine: Engine) -> AuditCheck:
    claim = "the state that follows from the log keeps every invariant"
    try:
        engine.check()
    except AssertionError as error:
        return AuditCheck(claim, False, str(error) or "the engine's own check failed")
    return AuditCheck(claim, True, f"{engine.sequence:,} commands, state hash {engine.state_hash.hex()[:16]}")


def _check_money(engine: Engine) -> AuditCheck:
    """Sum what all accounts have from the tables' rows, not by the engine's own bookkeeping."""
    sums: dict[str, int] = {}
    currencies: list[CurrencyRow] = []
    wrong: list[str] = []
    for name, rows in engine.tables():
        for _, row in rows:
            if name == "balance":
                balance = msgspec.msgpack.decode(row, type=BalanceRow)
                sums[balance.currency] = sums.get(balance.currency, 0) + balance.available + balance.hold
                if balance.available < 0 or balance.hold < 0:
                    wrong.append(f"{balance.account_id}: {balance.available} {balance.currency}, {balance.hold} on hold")
            elif name == "currency":
                currencies.append(msgspec.msgpack.decode(row, type=CurrencyRow))
    for currency in currencies:
        have, should = sums.get(currency.currency, 0) + currency.fees, currency.deposited - currency.withdrawn
        if have != should:
            wrong.append(f"{currency.currency}: accounts and fees have {have}, deposits less withdrawals are {should}")
    names = ", ".join(currency.currency for currency in currencies if currency.deposited) or "no money yet"
    return AuditCheck("money is conserved", not wrong, _some(wrong) or f"{names}: to the last unit")


def _check_acknowledged(replay: _Replay, lines: Iterable[Acknowledged]) -> AuditCheck:
    wrong: list[str] = []
    checked: set[tuple[str, str]] = set()
    unanswered = 0
    for line in lines:
        key = (line.account_id, line.command_id)
        applied = replay.applied.get(key, [])
        fault = _fault(line, applied)
        if fault:
            wrong.append(f"{line.account_id} {line.command_id}: {fault}")
        if line.kind == UNANSWERED:
            unanswered += 1
        else:
            checked.add(key)
    detail = f"{len(checked):,} acknowledged commands" + (f", {unanswered:,} never answered" if unanswered else "")
    claim = "every acknowledged command is there exactly once, with the outcome that was told"
    return AuditCheck(claim, not wrong, _some(wrong) or detail)


def _fault(line: Acknowledged, applied: list[_Applied]) -> str:
    """What is wrong with the commands applied under an acknowledged id; "" when nothing is."""
    for transfer in {one.transfer: None for one in applied}:
        effective = [one for one in applied if one.remembered and one.transfer is transfer]
        if len(effective) > 1:
            return f"applied {len(effective)} times, as sequences {', '.join(str(one.sequence) for one in effective)}"
    if line.kind == UNANSWERED:
        return ""
    if not applied:
        return f"acknowledged as sequence {line.sequence} and not in the log"
    one = next((one for one in applied if one.sequence == line.sequence), None)
    if one is None:
        return f"acknowledged as sequence {line.sequence}, applied as {', '.join(str(one.sequence) for one in applied)}"
    if one.kind != line.kind:
        return f"acknowledged as {line.kind}, applied as {one.kind}"
    if line.order_id and one.order_id and line.order_id != one.order_id:
        return f"acknowledged with order {line.order_id}, applied with {one.order_id}"
    return ""


def _check_hashes(replay: _Replay, statuses: Mapping[str, NodeStatus | None]) -> AuditCheck:
    wrong: list[str] = []
    right: list[str] = []
    for node_id, status in statuses.items():
        if status is None:
            wrong.append(f"{node_id} does not answer")
            continue
        expected = replay.hashes.get(status.sequence)
        if not expected:
            wrong.append(f"{node_id} is at sequence {status.sequence}, where no committed entry ends")
        elif status.state_hash not in expected:
            wrong.append(
                f"{node_id} has {status.state_hash} at sequence {status.sequence}, the log gives {' or '.join(expected)}"
            )
        else:
            right.append(f"{node_id} at {status.sequence:,}")
    return AuditCheck("each node's state hash is the one that follows from the log", not wrong, _some(wrong) or ", ".join(right))


def _some(faults: list[str]) -> str:
    """The first few of many."""
    more = len(faults) - EXAMPLES
    return "; ".join(faults[:EXAMPLES]) + (f"; and {more:,} more" if more > 0 else "")
