"""An audit of a cluster that does not trust its nodes: it applies every committed command again to its own engine.

It proves four claims:

- the nodes' logs agree on every committed entry (`committed_log.py`);
- every command that a client knows the outcome of is in the log exactly once, with that outcome;
- the state that follows from the log keeps its invariants, conservation of money included;
- each node's state hash is the hash that follows from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from node.errors import AuditError
from node.native.protocol import NodeStatus
from node.records.committed_log import CommittedLog, retried
from node.system import files
from snapshots.errors import SnapshotError
from snapshots.levels import states
from snapshots.levels.level import is_level_entry
from snapshots.levels.states import commands_of, level_of
from statemachine.commands import AnyCommand, Batch, Deposit, Transfer, Withdraw
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, Cancelled, Placed, Rejected
from statemachine.tables import BalanceRow, CurrencyRow
from statemachine.types import Reason

EXAMPLES = 3
"""How many differences a check names."""

UNANSWERED = "unanswered"
"""The kind of a command that was sent but never answered. It may be in the log once, or not at all."""


NOT_REMEMBERED = frozenset(
    {
        Reason.COMMAND_ID_REUSED,
        Reason.UNKNOWN_ACCOUNT,
        Reason.INVALID_COMMAND_ID,
        Reason.INVALID_ID,
        Reason.TOO_MANY_TRANSFERS,
    }
)
"""Rejections that are not in the reply cache: the same command may be rejected again under another sequence."""


class Acknowledged(msgspec.Struct, frozen=True):
    """A line of a client's record: a command and its outcome as the client received it. `kind` is the outcome's type in
    lower case. `sequence` is 0 if the answer has none, as over REST.
    """

    account_id: str
    command_id: str
    kind: str
    sequence: int = 0
    order_id: int = 0


class AuditCheck(msgspec.Struct, frozen=True):
    """One line of the report: the claim, whether it holds, and the figures behind it."""

    claim: str
    holds: bool
    detail: str


class AuditReport(msgspec.Struct):
    """The result of an audit. `state_hash` is that of the last committed entry, after `sequence` commands."""

    commit_index: int
    sequence: int
    state_hash: str
    commands: int
    checks: list[AuditCheck]

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)


class _Applied(msgspec.Struct, frozen=True, array_like=True):
    """The facts about a replayed command with which an acknowledgement is compared."""

    sequence: int
    kind: str
    order_id: int
    remembered: bool
    transfer: type[AnyCommand] | None
    """The kind of a transfer; each kind has ids of its own."""


class _Replay:
    """The engine to which the log is applied, and the results of each command."""

    def __init__(self, engine: Engine, hashes_at: Iterable[int]) -> None:
        self.engine = engine
        self.commands = 0
        self.applied: dict[tuple[str, str], list[_Applied]] = {}
        self.hashes: dict[int, list[str]] = {sequence: [] for sequence in hashes_at}
        """By sequence: the hash after the command with that sequence, and after each following entry without commands.
        """
        self._note_hash()

    def apply(self, payload: bytes) -> None:
        """Apply one entry."""
        batch = commands_of(level_of(self.engine).abi, payload) if not is_level_entry(payload) else Batch(0, [])
        self.engine, applied = states.apply(self.engine, payload)
        outcomes = applied.outcomes if applied is not None else []
        for command, outcome in zip(batch.commands, outcomes, strict=True):
            self.commands += 1
            if not outcome.duplicate:
                self.applied.setdefault((command.account_id, command.command_id), []).append(_facts_of(command, outcome))
        self._note_hash()

    def _note_hash(self) -> None:
        if self.engine.sequence in self.hashes:
            self.hashes[self.engine.sequence].append(self.engine.state_hash.hex())


PROGRESS_EVERY = 500
"""Log entries between two calls of a progress."""


def audit_directory(
    directory: Path,
    acks: Path | None = None,
    statuses: Mapping[str, NodeStatus | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Audit the nodes whose directories are in `directory`, as `quorumbook init` lays them out.

    Args:
        acks: JSON lines of `Acknowledged`, as a client recorded them.
        statuses: the nodes' statuses; None for a node that does not answer.
        progress: called with the log entries that were applied, and all of them.

    Raises:
        AuditError: there is nothing to audit, the log does not reach back to its first entry, or files cannot be read.
        ConfigError: a node's configuration is invalid.
    """
    log = CommittedLog(directory, statuses)
    replay = _replay(log, progress)
    checks = [_check_logs(log), _check_state(replay.engine), _check_money(replay.engine)]
    if acks is not None:
        checks.append(_check_acknowledged(replay, read_acknowledged(acks)))
    if statuses is not None:
        checks.append(_check_hashes(replay, statuses))
    engine = replay.engine
    return AuditReport(log.commit_index, engine.sequence, engine.state_hash.hex(), replay.commands, checks)


def audit_running(
    directory: Path,
    acks: Path | None = None,
    statuses: Mapping[str, NodeStatus | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Run `audit_directory` for nodes that may be running."""
    return retried(lambda: audit_directory(directory, acks, statuses, progress))


def read_acknowledged(path: Path) -> Iterator[Acknowledged]:
    """Yield the lines of a client's record. Unknown fields are ignored.

    Raises:
        AuditError: the file cannot be read, or a line is not one.
    """
    try:
        yield from files.decoded_lines(path, msgspec.json.Decoder(Acknowledged), AuditError)
    except OSError as error:
        raise AuditError(f"{path}: cannot be read: {error.strerror}") from error


def _facts_of(command: AnyCommand, outcome: AnyOutcome) -> _Applied:
    """Return the facts about a replayed command with which an acknowledgement is compared."""
    remembered = not (isinstance(outcome, Rejected) and outcome.reason in NOT_REMEMBERED)
    order_id = outcome.order.order_id if isinstance(outcome, Placed) else 0
    if isinstance(outcome, Cancelled) and len(outcome.orders) == 1:
        order_id = outcome.orders[0].order_id
    transfer = type(command) if isinstance(command, Deposit | Withdraw | Transfer) else None
    return _Applied(outcome.sequence, type(outcome).__name__.lower(), order_id, remembered, transfer)


def _check_logs(log: CommittedLog) -> AuditCheck:
    """Check that the logs agree."""
    nodes = ", ".join(each.node_id for each in log.logs)
    return AuditCheck(
        "the logs of all nodes have the same committed entries",
        not log.differences,
        _some(log.differences) or "; ".join([f"{len(log.agreed):,} entries, {nodes}", *log.uncommitted]),
    )


def _replay(log: CommittedLog, progress: Callable[[int, int], None] | None = None) -> _Replay:
    """Apply the committed entries.

    Raises:
        AuditError: an entry is in no log, or is not a batch of commands.
    """
    replay = _Replay(states.empty(log.level_at_start()), [status.sequence for status in log.statuses.values()])
    for index, payload in log.payloads():
        try:
            replay.apply(payload)
        except (msgspec.DecodeError, SnapshotError) as error:
            raise AuditError(f"entry {index} is not a batch of commands: {error}") from error
        if progress is not None and index % PROGRESS_EVERY == 0:
            progress(index, log.commit_index)
    return replay


def _check_state(engine: Engine) -> AuditCheck:
    """Check the invariants of the replayed state."""
    claim = "the state that follows from the log keeps every invariant"
    try:
        engine.check()
    except AssertionError as error:
        return AuditCheck(claim, False, str(error) or "the engine's own check failed")
    return AuditCheck(claim, True, f"{engine.sequence:,} commands, state hash {engine.state_hash.hex()[:16]}")


def _check_money(engine: Engine) -> AuditCheck:
    """Sum all accounts' balances from the tables' rows, without the engine's own totals."""
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
    """Check that every acknowledged command is in the log with the acknowledged outcome."""
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
    claim = "every acknowledged command is there exactly once, with the outcome that the client received"
    return AuditCheck(claim, not wrong, _some(wrong) or detail)


def _fault(line: Acknowledged, applied: list[_Applied]) -> str:
    """Return what is wrong with the commands applied under an acknowledged id; "" if nothing is."""
    for transfer in {one.transfer: None for one in applied}:
        effective = [one for one in applied if one.remembered and one.transfer is transfer]
        if len(effective) > 1:
            return f"applied {len(effective)} times, as sequences {', '.join(str(one.sequence) for one in effective)}"
    if line.kind == UNANSWERED:
        return ""
    if not applied:
        return f"acknowledged as sequence {line.sequence} and not in the log"
    one = next((one for one in applied if line.sequence in (0, one.sequence) and (line.sequence or one.remembered)), None)
    if one is None:
        return f"acknowledged as sequence {line.sequence}, applied as {', '.join(str(one.sequence) for one in applied)}"
    if one.kind != line.kind:
        return f"acknowledged as {line.kind}, applied as {one.kind}"
    if line.order_id and one.order_id and line.order_id != one.order_id:
        return f"acknowledged with order {line.order_id}, applied with {one.order_id}"
    return ""


def _check_hashes(replay: _Replay, statuses: Mapping[str, NodeStatus | None]) -> AuditCheck:
    """Check that each node's hash is that of the replay at its sequence."""
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
    """Return the first few of many faults as text."""
    more = len(faults) - EXAMPLES
    return "; ".join(faults[:EXAMPLES]) + (f"; and {more:,} more" if more > 0 else "")
