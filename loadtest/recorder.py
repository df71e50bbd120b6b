"""A client's record of its commands and their outcomes, as JSON lines, for a later audit.

A line is an answered command. At the end there is a line of kind "unanswered" for each command without an answer: it
may have been applied, at most once. Times are monotonic seconds of the recording process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TextIO

import msgspec

from loadtest.errors import WrongAnswerError
from loadtest.history import History
from loadtest.linearizability import Read, Write
from node.native.protocol import AnyQuery
from statemachine.commands import AnyCommand
from statemachine.events import AnyOutcome, Placed

UNANSWERED = "unanswered"


class Acknowledgement(msgspec.Struct, frozen=True):
    """A line of the file. `kind` is the outcome's class in lower case, or "unanswered"; `order_id` is 0 unless it
    placed an order.
    """

    account_id: str
    command_id: str
    kind: str
    sequence: int
    order_id: int
    duplicate: bool
    sent: float
    acked: float


class Gap(msgspec.Struct, frozen=True):
    """An interval without an acknowledgement, in monotonic seconds."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.end - self.begin


class Recorder:
    """Collects the acknowledgements of all clients of one process. It writes them to `path` unless that is None, and
    with the whole commands and outcomes to `history`.

    It also checks that each command id has one sequence, however often it is answered.
    """

    def __init__(self, path: Path | None = None, history: History | None = None) -> None:
        self.reads = 0
        self._history = history
        self._file: TextIO | None = path.open("w", encoding="ascii") if path is not None else None
        self._pending: dict[tuple[str, str], tuple[float, AnyCommand]] = {}
        self._sequences: dict[tuple[str, str], int] = {}
        self._ack_times: list[float] = []
        self._latencies: list[float] = []
        self._encode = msgspec.json.Encoder().encode

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def acknowledged(self) -> int:
        """The number of answers, repeated ones included."""
        return len(self._ack_times)

    @property
    def distinct(self) -> int:
        """The number of acknowledged commands, each counted once."""
        return len(self._sequences)

    @property
    def unanswered(self) -> int:
        """The number of commands that are not answered yet."""
        return len(self._pending)

    def sent(self, commands: Sequence[AnyCommand], at: float) -> None:
        """Record that `commands` were first sent at `at`."""
        for command in commands:
            key = (command.account_id, command.command_id)
            if key not in self._sequences:
                self._pending.setdefault(key, (at, command))

    def answered(self, commands: Sequence[AnyCommand], outcomes: Sequence[AnyOutcome], sent: float, acked: float) -> None:
        """Note the outcomes of `commands`. The calls must be in the order of `acked`.

        Raises:
            WrongAnswerError: the numbers of commands and outcomes differ, or a command id has another sequence than before.
        """
        if len(commands) != len(outcomes):
            raise WrongAnswerError(f"{len(outcomes)} outcomes for {len(commands)} commands")
        for command, outcome in zip(commands, outcomes, strict=True):
            key = (command.account_id, command.command_id)
            first = self._sequences.setdefault(key, outcome.sequence)
            if first != outcome.sequence:
                raise WrongAnswerError(f"{key[0]} {key[1]}: sequence {outcome.sequence}, and {first} before")
            self._pending.pop(key, None)
            self._ack_times.append(acked)
            self._latencies.append(acked - sent)
            self._write(_line(command, outcome, sent, acked))
            if self._history is not None:
                self._history.add(Write(command, sent, acked, outcome))

    def read(self, query: AnyQuery, body: bytes | None, sent: float, answered: float) -> None:
        """Note that a linearizable read was answered with `body`, or None for "does not exist"."""
        self.reads += 1
        if self._history is not None:
            self._history.add(Read(query, sent, answered, body))

    def _write(self, line: Acknowledgement) -> None:
        if self._file is not None:
            self._file.write(self._encode(line).decode() + "\n")

    def flush(self) -> None:
        """Flush everything to the operating system, so that another process can read it."""
        if self._file is not None:
            self._file.flush()
        if self._history is not None:
            self._history.flush()

    def close(self) -> None:
        """Write the unanswered commands, and close the files."""
        if self._file is None:
            return
        for sent, command in self._pending.values():
            self._write(Acknowledgement(command.account_id, command.command_id, UNANSWERED, 0, 0, False, sent, 0.0))
            if self._history is not None:
                self._history.add(Write(command, sent))
        self._file.close()
        self._file = None
        if self._history is not None:
            self._history.close()

    def gap(self, begin: float, end: float) -> Gap:
        """Return the longest interval between consecutive acknowledgements that overlaps [begin, end].

        An outage is measured from the last answer before it to the first one after it, also outside the window. If
        there is no answer before or after the window, the window's end takes its place.
        """
        times = self._ack_times
        first = max(0, bisect_left(times, begin) - 1)
        window = times[first : bisect_left(times, end) + 1]
        if not window or window[0] > begin:
            window = [begin, *window]
        if window[-1] < end:
            window.append(end)
        start, stop = max(pairwise(window), key=lambda pair: pair[1] - pair[0], default=(begin, end))
        return Gap(start, stop)

    def latencies(self, last: int = 0) -> list[float]:
        """Return the seconds from sending to the answer, in the order of the answers: all, or the `last` ones unless
        that is 0.
        """
        return self._latencies[-last:] if last else list(self._latencies)

    def since(self, moment: float) -> int:
        """Return how many answers arrived at or after `moment`."""
        return len(self._ack_times) - bisect_left(self._ack_times, moment)


def _line(command: AnyCommand, outcome: AnyOutcome, sent: float, acked: float) -> Acknowledgement:
    """Return the line about an acknowledged command."""
    order_id = outcome.order.order_id if isinstance(outcome, Placed) else 0
    kind = type(outcome).__name__.lower()
    return Acknowledgement(
        command.account_id, command.command_id, kind, outcome.sequence, order_id, outcome.duplicate, sent, acked
    )


def percentile(values: Sequence[float], parts: float) -> float:
    """Return the value that `parts` per cent of `values` do not exceed (nearest rank), or 0 if there are none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * parts // 100))
    return ordered[int(rank) - 1]
