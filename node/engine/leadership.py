"""How client requests depend on leadership: a transfer of leadership, the time without a leader, and reads that only a
leader answers.

- `LeadershipTransfer` (Ongaro's thesis, 3.10): Raft transfers leadership to a follower whose log is complete. Under
  load the followers always lack the newest entry. The leader therefore proposes nothing during a transfer: commands
  wait, and afterwards are rejected with the address of the new leader.
- `PendingQueue`: requests that arrive shortly after the leader was lost wait for the next leader. The wait is short,
  because without a majority a client must get an error instead of waiting.
- `Barriers`: a read that joins before a barrier begins reflects everything acknowledged before the read was requested.
  A barrier is a log entry, which all nodes sync, so reads share barriers: all reads that arrive during one barrier wait
  for the next. Each turn of the loop answers only a few reads, however many wait.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from cluster.batcher import Refusal
from cluster.membership import Change, ChangeDone
from cluster.raft import Done, ProposeResult
from cluster.status import RaftStatus

CAUGHT_UP_SECONDS = 1.0
"""Seconds for a follower to receive the whole log."""

ELECTED_SECONDS = 1.0
"""Seconds for the follower to be elected."""

POLL_S = 0.005
"""Seconds between two checks whether a transfer can continue."""

After = Callable[[float, Callable[[], None]], object]
"""Runs a function after so many seconds (`loop.call_later`)."""


def ahead_of_tick(
    call_soon: Callable[[Callable[[], None]], object], wake: Callable[[], None]
) -> Callable[[Callable[[], None]], None]:
    """Return a function that runs another one in the next turn of the loop, and Raft's tick directly after it.

    A proposal wakes Raft, too. If that were the first call of `wake`, the tick would run one turn later, after the
    messages that arrived in between.

    Args:
        call_soon: `loop.call_soon`.
        wake: calls `Raft.wake`.
    """

    def later(function: Callable[[], None]) -> None:
        call_soon(function)
        wake()

    return later


class Leader(Protocol):
    """The part of `cluster.raft.Raft` that an operation of the leader uses."""

    @property
    def is_leader(self) -> bool: ...
    def propose(self, payload: bytes, done: Done) -> None: ...
    def status(self) -> RaftStatus: ...


class Leadership(Leader, Protocol):
    """The part of `cluster.raft.Raft` that the service uses: who leads, and all operations of a leader."""

    on_role_change: list[Callable[[str, str], None]]

    @property
    def leader_id(self) -> str: ...
    @property
    def election_in_progress(self) -> bool: ...
    def barrier(self, done: Done) -> None: ...
    def request_snapshot(self) -> None: ...
    def transfer_leadership(self, successor: str = "") -> bool: ...
    def change_members(self, change: Change, done: ChangeDone) -> None: ...


class ProposalQueue(Protocol):
    """The part of `cluster.batcher.Batcher` that is used by an operation during which no command may be proposed."""

    @property
    def in_flight(self) -> int: ...
    def hold(self) -> Callable[[], None]: ...
    def fail_queued(self, refusal: Refusal) -> None: ...


class LeadershipTransfer:
    """Transfers leadership, at most one transfer at a time.

    Args:
        hold: called when proposing must stop; it returns the function that allows it again.
        ended: called when a transfer has ended, whichever node leads then.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        raft: Leadership,
        *,
        hold: Callable[[], Callable[[], None]],
        ended: Callable[[], None],
        after: After,
        clock: Callable[[], float],
    ) -> None:
        self._raft = raft
        self._hold = hold
        self._release: Callable[[], None] = lambda: None
        self._ended = ended
        self._after = after
        self._clock = clock
        self._until = 0.0
        self._asked = False
        self._successor = ""
        self._waiting: list[Callable[[bool], None]] = []
        self.under_way = False

    def begin(self, done: Callable[[bool], None], successor: str = "") -> None:
        """Transfer leadership to `successor`, or without one to the most up-to-date follower. `done` gets whether
        another node was asked to lead; the call may happen at once.

        A second request during a transfer joins it, whichever node it names.
        """
        if self.under_way and self._asked:
            done(True)
            return
        self._waiting.append(done)
        if not self.under_way:
            self.under_way, self._asked, self._successor = True, False, successor
            self._until = self._clock() + CAUGHT_UP_SECONDS
            self._release = self._hold()
            self._step()

    def _step(self) -> None:
        """Ask for the transfer, and wait for its end or the time limit."""
        if self._raft.is_leader and not self._asked and self._raft.transfer_leadership(self._successor):
            self._asked = True
            self._until = self._clock() + ELECTED_SECONDS
            self._tell(True)
        if self._raft.is_leader and self._clock() < self._until:
            self._after(POLL_S, self._step)
            return
        self.under_way = False
        self._release()
        self._ended()
        self._tell(False)

    def _tell(self, asked: bool) -> None:
        """Answer the requests that wait: whether the transfer was asked for."""
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(asked)


WAIT_SECONDS = 0.3
"""Seconds; longer than most elections. A request that has waited so long gets an error, and its client tries another
node.
"""


class PendingQueue:
    """Holds requests until `release`, or `WAIT_SECONDS` after the first of them at the latest.

    Args:
        after: `loop.call_later`.
        units_max: the most commands and reads that may wait. One share may use as many as are still free, so at most
            half of them.
    """

    def __init__(self, after: After, units_max: int) -> None:
        self._after = after
        self._units_max = units_max
        self._units = 0
        self._shares: Counter[str] = Counter()
        self._waiting: list[Callable[[], None]] = []
        self._released = 0

    def admit(self, units: int, again: Callable[[], None], share: str = "") -> bool:
        """Queue `again`, to be called when the request may go on. Returns False if this share has no room."""
        if self._shares[share] + units > self._units_max - self._units:
            return False
        self._shares[share] += units
        if not self._waiting:
            number = self._released
            self._after(WAIT_SECONDS, lambda: self._time_is_over(number))
        self._units += units
        self._waiting.append(again)
        return True

    def _time_is_over(self, number: int) -> None:
        """Release the queue, if it is still the one whose time is over."""
        if number == self._released:
            self.release()

    def release(self) -> None:
        """Resume all waiting requests in order of arrival."""
        self._released += 1
        self._units = 0
        self._shares.clear()
        waiting, self._waiting = self._waiting, []
        for again in waiting:
            again()


BARRIER_INTERVAL_S = 0.005
"""Seconds between barriers. Reads therefore write at most 200 entries a second, however many clients read. The first
read after a pause does not wait.
"""

READS_WAITING_MAX = 10_000
"""Reads that may wait."""

ANSWERS_PER_TURN = 1
"""Reads answered in one turn of the loop: a list of a thousand orders takes two to four milliseconds."""

Answered = Callable[[bool], None]
"""Answers a read. The argument is True if its barrier was applied, and False if leadership was lost."""


class Barriers:
    """Runs barriers, at most one at a time.

    Args:
        later: `loop.call_soon`.
        after: `loop.call_later`.
        clock: monotonic seconds.
        held: whether proposing is stopped now; `go_on` is called when it may resume.
    """

    def __init__(
        self,
        log: Leadership,
        *,
        later: Callable[[Callable[[], None]], object],
        after: After,
        clock: Callable[[], float],
        held: Callable[[], bool],
    ) -> None:
        self._log = log
        self._later = later
        self._after = after
        self._clock = clock
        self._held = held
        self._waiting: list[Answered] = []
        self._passed: deque[tuple[Answered, bool]] = deque()
        self._under_way = False
        self._begun = float("-inf")
        self._scheduled = False

    def join(self, answered: Answered) -> bool:
        """Call `answered` after the next barrier. Returns False, without queueing the read, if too many reads wait."""
        if len(self._waiting) + len(self._passed) >= READS_WAITING_MAX:
            return False
        self._waiting.append(answered)
        self.go_on()
        return True

    def go_on(self) -> None:
        """Begin a barrier if reads wait and a barrier is allowed now."""
        if self._under_way or self._held() or not self._waiting:
            return
        self._under_way = True
        seconds = self._begun + BARRIER_INTERVAL_S - self._clock()
        if seconds > 0:
            self._after(seconds, self._due)
        else:
            self._begin()

    def _due(self) -> None:
        """Propose the next barrier, unless proposing is stopped."""
        if self._held():
            self._under_way = False
        else:
            self._begin()

    def _begin(self) -> None:
        """Propose a barrier for all reads that wait."""
        self._begun = self._clock()
        joined, self._waiting = self._waiting, []

        def done(result: ProposeResult) -> None:
            self._under_way = False
            passed = result.error is None
            if not passed:
                self._begun = float("-inf")
            self._passed.extend((answered, passed) for answered in joined)
            if not self._scheduled:
                self._answer()
            self.go_on()

        self._log.barrier(done)

    def _answer(self) -> None:
        """Answer some reads, so that other work is not delayed."""
        self._scheduled = False
        for _ in range(min(ANSWERS_PER_TURN, len(self._passed))):
            answered, passed = self._passed.popleft()
            answered(passed)
        if self._passed and not self._scheduled:
            self._scheduled = True
            self._later(self._answer)
