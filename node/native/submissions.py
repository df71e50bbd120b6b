"""Commands on their way over one native connection, from the client's end: they are joined to frames, and each caller
gets its own outcomes.

Each order over HTTP passes through these classes, so they are compiled with types (`node.compiled`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from node.errors import ConnectionLost, RequestFailed
from node.native.arrivals import Arrivals
from node.native.narrowing import narrowed
from node.native.protocol import FailCode, Results, Submit, frame
from statemachine.commands import AnyCommand
from statemachine.events import AnyOutcome

JOINED_MAX = 500
"""Commands of several submissions in one frame. A command takes at most about 600 bytes, so such a frame stays below
300 kB: far below `FRAME_MAX`, and short enough that the node's loop decodes it in about a millisecond."""

WRITTEN_AT = 32
"""Submissions that are written in the middle of a turn, over a Unix socket. While a gateway goes on to parse requests,
the engines work on the first ones. Otherwise many clients that wait for their answers end up in step: the gateway waits
for the engines, and the engines wait for the gateway (docs/performance.md).
"""

_OF_ONE = frozenset(
    {
        FailCode.BAD_REQUEST,
        FailCode.UNAUTHORIZED,
        FailCode.FORBIDDEN,
        FailCode.NOT_FOUND,
        FailCode.CONFLICT,
        FailCode.RATE_LIMITED,
        FailCode.OVERLOADED,
    }
)
"""Refusals of a frame that a single command in it may have caused. No command of the frame was applied."""


class OutcomesTaker(Protocol):
    """The receiver of outcomes: a future, or an object with the same methods."""

    def done(self) -> bool:
        """Return whether the outcomes have arrived or are no longer wanted."""

    def set_result(self, outcomes: list[AnyOutcome], /) -> None:
        """Set the outcomes."""

    def set_exception(self, error: Exception, /) -> None:
        """Set the error instead of outcomes."""


class Submission:
    """Commands that one caller submitted, and the receiver of their outcomes."""

    __slots__ = ("account_id", "commands", "outcomes")

    def __init__(self, commands: Sequence[AnyCommand], outcomes: OutcomesTaker) -> None:
        self.account_id = commands[0].account_id if commands else ""
        self.commands = commands
        self.outcomes = outcomes


class Submissions:
    """The submissions of one connection: those that wait to be written, and those that wait for the node.

    Args:
        wire: writes the frames.
        request_ids: gives each frame its id.
        lost: called with a reason if the connection must end.

    Attributes:
        former: whether the node's version is an earlier one (`narrowing`).
        written_at: the number of waiting submissions that are written in the middle of a turn; 0 for none.
    """

    __slots__ = ("_ended", "_lost", "_queued", "_reason", "_request_ids", "_scheduled", "_sent", "_wire", "former", "written_at")

    def __init__(self, wire: Arrivals, request_ids: Iterator[int], lost: Callable[[str], None]) -> None:
        self.former = False
        self.written_at = 0
        self._wire = wire
        self._request_ids = request_ids
        self._lost = lost
        self._queued: list[Submission] = []
        self._scheduled = False
        self._sent: dict[int, list[Submission]] = {}
        self._ended = False
        self._reason = ""

    def add(self, commands: Sequence[AnyCommand], outcomes: OutcomesTaker) -> None:
        """Send commands, together with all others of this turn of the loop. `outcomes` gets the result or the error of
        `NativeConnection.submit`, once.
        """
        if self._ended:
            outcomes.set_exception(ConnectionLost(self._reason))
            return
        queued = self._queued
        queued.append(Submission(commands, outcomes))
        if len(queued) == self.written_at:
            self.flush()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write waiting submissions, in frames of whole submissions. While the transport accepts no more, they wait for
        `resume_writing`.
        """
        if not self._wire.writable.is_set():
            return
        self._scheduled = False
        queued, self._queued = self._queued, []
        frames: list[bytes] = []
        joined: list[Submission] = []
        size, account_id = 0, ""
        for submission in queued:
            if submission.outcomes.done():
                continue
            count = len(submission.commands)
            if joined and (size + count > JOINED_MAX or submission.account_id != account_id):
                self._encode(joined, frames)
                joined, size = [], 0
            joined.append(submission)
            account_id = submission.account_id
            size += count
        if joined:
            self._encode(joined, frames)
        self._write(frames)

    def _write(self, frames: list[bytes]) -> None:
        if frames and self._wire.transport is not None:
            self._wire.transport.write(b"".join(frames))

    def _encode(self, joined: list[Submission], frames: list[bytes]) -> None:
        """Encode these submissions as one frame. There is no frame if the connection is closed. If they do not fit into
        one frame, each submission has its own.
        """
        if self._ended or self._wire.transport is None:
            self._lose(joined)
            return
        request_id = next(self._request_ids)
        if len(joined) == 1:
            submit = Submit(request_id, list(joined[0].commands))
        else:
            submit = Submit(request_id, [each for submission in joined for each in submission.commands])
        try:
            data = frame(narrowed(submit) if self.former else submit)
        except (RequestFailed, ValueError, OverflowError, TypeError) as error:
            if len(joined) > 1:
                for submission in joined:
                    self._encode([submission], frames)
            else:
                joined[0].outcomes.set_exception(error)
            return
        self._sent[request_id] = joined
        frames.append(data)

    def waits(self, request_id: int) -> bool:
        """Return whether a frame waits for the node."""
        return request_id in self._sent

    @property
    def waiting(self) -> int:
        """The number of submissions that wait for the node."""
        return sum(map(len, self._sent.values()))

    def applied(self, results: Results) -> None:
        """Give each submission of a frame its own outcomes."""
        joined, outcomes = self._sent.pop(results.request_id, None), results.outcomes
        if joined is None:
            return
        if len(joined) == 1:
            only = joined[0]
            if len(only.commands) == len(outcomes):
                if not only.outcomes.done():
                    only.outcomes.set_result(outcomes)
                return
        count = 0
        for submission in joined:
            count += len(submission.commands)
        if count != len(outcomes):
            self._sent[results.request_id] = joined
            self._lost("the node answered with another number of outcomes")
            return
        start = 0
        for submission in joined:
            end = start + len(submission.commands)
            if not submission.outcomes.done():
                submission.outcomes.set_result(outcomes[start:end])
            start = end

    def refused(self, request_id: int, error: RequestFailed) -> bool:
        """Handle the refusal of a frame. Returns False if the id is that of no frame.

        A fault of one submission must not affect the others. No command was applied, so each submission is sent
        separately.
        """
        joined = self._sent.pop(request_id, None)
        if joined is None:
            return False
        if len(joined) == 1 or error.code not in _OF_ONE:
            _fail(joined, lambda: RequestFailed(error.code, error.message, error.leader))
            return True
        alone: list[bytes] = []
        for submission in joined:
            if not submission.outcomes.done():
                self._encode([submission], alone)
        self._write(alone)
        return True

    def end(self, reason: str) -> None:
        """Fail all submissions, and those that still come: the connection has ended for a reason."""
        self._ended, self._reason = True, reason
        sent, self._sent = self._sent, {}
        queued, self._queued = self._queued, []
        for joined in (queued, *sent.values()):
            self._lose(joined)

    def _lose(self, joined: list[Submission]) -> None:
        _fail(joined, lambda: ConnectionLost(self._reason))


def _fail(joined: Sequence[Submission], error: Callable[[], Exception]) -> None:
    """Set a separate error for each caller that still waits."""
    for submission in joined:
        if not submission.outcomes.done():
            submission.outcomes.set_exception(error())


class Deadlines:
    """Ends outcomes whose time is over, with TimeoutError.

    `asyncio.timeout` costs a timer and a context for each command. All commands have the same timeout, so their
    deadlines are in order, and one timer serves all.
    """

    __slots__ = ("_timer", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, OutcomesTaker]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, outcomes: OutcomesTaker, end: float) -> None:
        """End the outcomes at `end` (loop time), which must not be earlier than previous deadlines. Completed ones are
        dropped.
        """
        waiting = self._waiting
        while waiting and waiting[0][1].done():
            waiting.popleft()
        waiting.append((end, outcomes))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(end, self._look)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """End what waited until its deadline, and set the timer for the next one."""
        self._timer = None
        loop, waiting = asyncio.get_running_loop(), self._waiting
        now = loop.time()
        while waiting and (waiting[0][1].done() or waiting[0][0] <= now):
            _, outcomes = waiting.popleft()
            if not outcomes.done():
                outcomes.set_exception(TimeoutError())
        if waiting:
            self._timer = loop.call_at(waiting[0][0], self._look)
