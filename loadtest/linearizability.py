"""Checks that a history of clients is linearizable: a single exchange that executes one operation after another could
have given the same answers.

Linearizability (Herlihy and Wing, *Linearizability: A Correctness Condition for Concurrent Objects*, 1990): there is
one order of all operations in which each gives its recorded result, and an operation that ended before another began
comes first. Finding such an order is NP-complete in general. Here the order is known: each outcome has its sequence,
and the log has the commands in that order. With this order as a witness it is enough to apply the log once and to
compare. The cost is that of the replay, plus sorting, plus for each read the few states between its two ends.

The history is what clients recorded, each request with the times at which it was sent and answered, all by one clock.
The log is the committed batches in order, read from the nodes. These are checked:

- commands: each that was answered with an outcome is in the log, and an engine that replays the log decides the same at
  the same sequence; none has an effect twice; the log has no command that nobody sent, and none whose client got the
  answer that nothing was done; an id is answered the same way each time;
- time: a command that was sent after an answer arrived comes after the answered command;
- reads: each shows the state after some batch, not older than anything that was answered before it was sent (reads
  included), not newer than anything that was sent after it was answered.

Commands with the same contents, id included, are one operation, from the first time they were sent. The reply cache is
bounded, so a history must not repeat an id after more than `limits.OUTCOMES_PER_ACCOUNT` others of its account.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import accumulate
from math import inf

import msgspec

from node.engine.feed import Audience, Feed
from node.engine.queries import BadQueryError, NotFoundError, Views
from node.native.protocol import AnyQuery, AuctionQuery, StatusQuery, TradesQuery
from node.records.audit import NOT_REMEMBERED
from statemachine.commands import AnyCommand, Batch, PutApiKey
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, Rejected

_encode = msgspec.msgpack.Encoder().encode


class Write(msgspec.Struct, frozen=True, tag=True):
    """A command that was sent at `asked`, by one attempt.

    With `outcome`: the command was answered with it at `answered`. With `answered` alone: the answer was that nothing
    was done. With neither: the result is unknown.
    """

    command: AnyCommand
    asked: float
    answered: float | None = None
    outcome: AnyOutcome | None = None


class Read(msgspec.Struct, frozen=True, tag=True):
    """A query that was answered with `body`: the msgpack that `node.native.protocol` describes, None for "does not
    exist".

    A read that is not `linearizable` shows its node's state, which may be old; `sequence` must say of which sequence
    that was. Reads without an answer need not be recorded.
    """

    query: AnyQuery
    asked: float
    answered: float
    body: bytes | None
    linearizable: bool = True
    sequence: int = -1


Operation = Write | Read


class AnomalyKind(Enum):
    """The kinds of anomalies of a history, the worst first."""

    LOST = "lost"
    """A command was answered with an outcome, and is not in the log."""
    APPLIED_TWICE = "applied twice"
    """A command had an effect at two positions in the log."""
    WRONG_OUTCOME = "wrong outcome"
    """The replay of the log gives another outcome or another sequence."""
    CHANGED_ANSWER = "changed answer"
    """The same command was answered with different outcomes."""
    REFUSED_BUT_APPLIED = "refused, but applied"
    """Every attempt was answered that nothing was done, and the command is in the log."""
    NOT_SENT = "not sent"
    """A command is in the log that no client sent."""
    OUT_OF_ORDER = "out of order"
    """A command is in the log before another one that was answered before it was sent."""
    WRONG_READ = "wrong read"
    """A read does not match any state of its time."""


class Anomaly(msgspec.Struct, frozen=True):
    """One contradiction; the text names the operation, the times and what was expected."""

    kind: AnomalyKind
    text: str


class HistoryVerdict(msgspec.Struct):
    """The result of a check. `answered`: answers with an outcome. `unanswered`: commands without any answer."""

    answered: int = 0
    unanswered: int = 0
    reads: int = 0
    anomalies: list[Anomaly] = msgspec.field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the history is linearizable."""
        return not self.anomalies

    def add(self, kind: AnomalyKind, text: str) -> None:
        """Record a contradiction."""
        self.anomalies.append(Anomaly(kind, text))


def judge(
    history: Iterable[Operation], log: Sequence[Batch], *, complete: bool = True, engine: Engine | None = None
) -> HistoryVerdict:
    """Compare the history of clients with the committed log.

    Args:
        history: in any order.
        log: every committed batch, from the first one on.
        complete: the history has every command of the log. Without that, commands that are not in it are not an
            anomaly.
        engine: an empty one that replays the log, of the level that the log has; one of this version unless given.

    Raises:
        ValueError: the answer of a read is not a function of the state (status, trades), or an old read has no
        sequence.
    """
    verdict = HistoryVerdict()
    writes = _Writes(verdict)
    reads: list[Read] = []
    for operation in history:
        if isinstance(operation, Read):
            reads.append(_checked(operation))
        else:
            writes.add(operation)
    writes.place(log, complete=complete)
    verdict.reads = len(reads)
    sweep = _ReadSweep(verdict, writes, reads)
    engine = engine if engine is not None else Engine()
    sweep.at(engine)
    for batch in log:
        writes.compare(batch, engine.apply(batch).outcomes)
        sweep.at(engine)
    sweep.end()
    writes.end()
    return verdict


def _checked(read: Read) -> Read:
    """Return a read that can be judged. Raises ValueError."""
    if isinstance(read.query, StatusQuery | TradesQuery | AuctionQuery):
        raise ValueError(f"the answer to a {type(read.query).__name__} does not follow from the replicated state")
    if not read.linearizable and read.sequence < 0:
        raise ValueError("a read that may be old must say of which sequence it is")
    return read


class _Sent:
    """One command, with all attempts to send it. `asked` is the first time at which it may have had an effect."""

    __slots__ = ("answers", "applied", "asked", "command", "effects", "first", "refused")

    def __init__(self, command: AnyCommand) -> None:
        self.command = command
        self.asked = inf
        self.refused = False
        self.answers: dict[bytes, tuple[int, AnyOutcome]] = {}
        self.first = 0
        self.applied: dict[int, bytes] = {}
        self.effects: list[int] = []

    def __str__(self) -> str:
        return f"{type(self.command).__name__} {self.command.command_id} of {self.command.account_id}"


class _Writes:
    """The commands of a history, their places in the log, and the order that their times require."""

    def __init__(self, verdict: HistoryVerdict) -> None:
        self._verdict = verdict
        self._sent: dict[bytes, _Sent] = {}
        self._answered: list[tuple[float, int]] = []
        self._answer_times: list[float] = []
        self._highest_answered: list[int] = []
        self._asked_times: list[float] = []
        self._asked_least: list[int] = []

    def add(self, write: Write) -> None:
        """Add a command that a client sent."""
        key = _as_sent(write.command)
        sent = self._sent.get(key)
        if sent is None:
            sent = self._sent[key] = _Sent(write.command)
        if write.answered is not None and write.outcome is None:
            sent.refused = True
            return
        sent.asked = min(sent.asked, write.asked)
        if write.answered is not None and write.outcome is not None:
            self._verdict.answered += 1
            self._answered.append((write.answered, write.outcome.sequence))
            sent.answers[_plain(write.outcome)] = (write.outcome.sequence, write.outcome)

    def place(self, log: Iterable[Batch], *, complete: bool) -> None:
        """Find each command's first position in the log, which is the order of the exchange, and compare that order
        with the times.
        """
        sequence = 0
        for batch in log:
            for command in batch.commands:
                sequence += 1
                sent = self._sent.get(_as_sent(command))
                if sent is None:
                    if complete:
                        text = f"{type(command).__name__} {command.command_id} of {command.account_id} is at {sequence}"
                        self._verdict.add(AnomalyKind.NOT_SENT, text)
                elif not sent.first:
                    sent.first = sequence
        self._index()
        for sent in self._sent.values():
            if sent.first and self.oldest(sent.asked) >= sent.first and sent.asked != inf:
                text = (
                    f"{sent} was sent at {sent.asked:.6f} and is at {sent.first}; {self.oldest(sent.asked)} was answered before"
                )
                self._verdict.add(AnomalyKind.OUT_OF_ORDER, text)

    def _index(self) -> None:
        """Prepare the look-up of sequences by time."""
        self._answered.sort()
        self._answer_times = [at for at, _ in self._answered]
        self._highest_answered = list(accumulate((sequence for _, sequence in self._answered), max))
        sends = sorted((sent.asked, sent.first) for sent in self._sent.values() if sent.first)
        self._asked_times = [at for at, _ in sends]
        self._asked_least = list(accumulate((first for _, first in reversed(sends)), min))[::-1]

    def oldest(self, asked_s: float) -> int:
        """Return the least sequence that an operation sent at `asked_s` comes after or shows: the largest one answered
        before.
        """
        at = bisect_left(self._answer_times, asked_s)
        return self._highest_answered[at - 1] if at else 0

    def newest(self, answered: float) -> float:
        """Return the largest sequence that an answer at `answered` can show: it excludes commands that were sent later."""
        at = bisect_right(self._asked_times, answered)
        return self._asked_least[at] - 1 if at < len(self._asked_least) else inf

    def compare(self, batch: Batch, outcomes: Sequence[AnyOutcome]) -> None:
        """Record the engine's outcomes of a batch."""
        for command, outcome in zip(batch.commands, outcomes, strict=True):
            sent = self._sent.get(_as_sent(command))
            if sent is None or outcome.duplicate:
                continue
            sent.applied[outcome.sequence] = _plain(outcome)
            if not isinstance(outcome, Rejected):
                sent.effects.append(outcome.sequence)

    def end(self) -> None:
        """Check each command."""
        for sent in self._sent.values():
            self._verdict.unanswered += not sent.answers and sent.asked != inf
            if len(sent.effects) > 1:
                self._verdict.add(AnomalyKind.APPLIED_TWICE, f"{sent} has an effect at {', '.join(map(str, sent.effects))}")
            if sent.first and sent.asked == inf:
                text = f"{sent} is at {sent.first}, and the answer to every attempt was that nothing was done"
                self._verdict.add(AnomalyKind.REFUSED_BUT_APPLIED, text)
            self._judge_answers(sent)

    def _judge_answers(self, sent: _Sent) -> None:
        """Compare the answers to one command with each other and with the log."""
        remembered = [answer for answer, (_, outcome) in sent.answers.items() if _is_remembered(outcome)]
        if len(remembered) > 1:
            text = f"{sent} was answered as {' and as '.join(str(sent.answers[answer][1]) for answer in remembered)}"
            self._verdict.add(AnomalyKind.CHANGED_ANSWER, text)
        for answer, (sequence, outcome) in sent.answers.items():
            if not sent.first:
                self._verdict.add(AnomalyKind.LOST, f"{sent} was answered {outcome} and is not in the log")
            elif sent.applied.get(sequence) != answer:
                places = ", ".join(map(str, sent.applied)) or "nowhere"
                text = f"{sent} was answered {outcome}; the log has it at {places}" + (
                    ", with another outcome" if sequence in sent.applied else ""
                )
                self._verdict.add(AnomalyKind.WRONG_OUTCOME, text)


def _as_sent(command: AnyCommand) -> bytes:
    """Return the identity of a command: its contents without a key's secret and passphrase, which nodes encrypt before
    they propose them.
    """
    if isinstance(command, PutApiKey):
        command = msgspec.structs.replace(command, secret="", passphrase="", sealed_by=0)
    return _encode(command)


def _plain(outcome: AnyOutcome) -> bytes:
    """Return the bytes of an outcome without `duplicate`."""
    return _encode(msgspec.structs.replace(outcome, duplicate=False))


def _is_remembered(outcome: AnyOutcome) -> bool:
    return not (isinstance(outcome, Rejected) and outcome.reason in NOT_REMEMBERED)


class _Open:
    """A read whose state is searched for, between the sequences `oldest` and `newest`."""

    __slots__ = ("newest", "oldest", "read")

    def __init__(self, read: Read, oldest: int, newest: float) -> None:
        self.read = read
        self.oldest = oldest
        self.newest = newest


class _ReadSweep:
    """Finds for each read the first state that it can have seen.

    Taking the first one is right, because it leaves the most states for later reads. A read waits until every read that
    was answered before it was sent has found its state.
    """

    def __init__(self, verdict: HistoryVerdict, writes: _Writes, reads: Iterable[Read]) -> None:
        self._verdict = verdict
        self._waiting = sorted((_open(read, writes) for read in reads), key=lambda one: -one.oldest)
        self._looking: list[_Open] = []

    def at(self, engine: Engine) -> None:
        """Offer the state after a batch, or the first one."""
        while self._waiting and self._waiting[-1].oldest <= engine.sequence:
            insort(self._looking, self._waiting.pop(), key=lambda one: one.read.answered)
        if not self._looking:
            return
        left: list[_Open] = []
        bodies: dict[AnyQuery, bytes | None] = {}
        blocked = inf
        for one in self._looking:
            read = one.read
            if engine.sequence > one.newest:
                self._fail(one)
            elif (read.linearizable and read.asked > blocked) or body_of(engine, read.query, bodies) != read.body:
                left.append(one)
                if read.linearizable:
                    blocked = min(blocked, read.answered)
        self._looking = left

    def end(self) -> None:
        """Finish after the last state."""
        for one in (*self._looking, *self._waiting):
            self._fail(one)

    def _fail(self, one: _Open) -> None:
        """Record that a read shows no possible state."""
        read = one.read
        end = "the end" if one.newest == inf else str(one.newest)
        text = (
            f"{read.query}, sent at {read.asked:.6f} and answered at {read.answered:.6f}, shows no state from sequence {one.oldest} "
            f"to {end}" + (" that is not older than what earlier reads showed" if read.linearizable else "")
        )
        self._verdict.add(AnomalyKind.WRONG_READ, text)


def _open(read: Read, writes: _Writes) -> _Open:
    newest = writes.newest(read.answered)
    if read.linearizable:
        return _Open(read, writes.oldest(read.asked), newest)
    return _Open(read, read.sequence, min(newest, read.sequence))


def body_of(engine: Engine, query: AnyQuery, known: dict[AnyQuery, bytes | None]) -> bytes | None:
    """Return a node's answer to a query in the engine's state; None for "does not exist". `known` has the answers of
    this state so far.

    Raises:
        ValueError: the query is not well formed, so no node has answered it.
    """
    if query not in known:
        try:
            known[query] = Views(Feed(1)).answer(engine, query, Audience.FULL)
        except NotFoundError:
            known[query] = None
        except BadQueryError as error:
            raise ValueError(f"{query}: {error}") from error
    return known[query]
