"""The phases of a failover and their durations, from the surviving nodes' logs and the clients' records.

    kill ── detect ──▶ a node campaigns ── elect ──▶ it leads ── commit ──▶ it serves ── answer ──▶ the first client has an answer

*Detect* is the end of the processes, the broken connection, the random pause, and the pre-vote. *Commit* is the entry with
which a leader begins its term. *Answer* is the time until the clients reach it. All times are of one machine's clock. The
lines of the nodes' logs have milliseconds.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import msgspec

from loadtest.recorder import Acknowledgement, percentile
from node.records.audit import UNANSWERED

LATE_SECONDS = 0.05
"""A leader may send its first answers a moment before it logs that it serves."""

PHASES = ("detect", "elect", "commit", "answer")

_LINE = re.compile(
    r"^(?P<stamp>\S+Z) (?P<node>\S+) engine INFO (?:\S+ \S+ is (?P<role>candidate|leader);|cluster\.raft serves as the leader)"
)


class Turn(msgspec.Struct, frozen=True):
    """A line of a node's log: at `at` (seconds since the Unix epoch) it became `what`: "candidate", "leader" or
    "serving".
    """

    at: float
    node_id: str
    what: str


def turns(text: str) -> list[Turn]:
    """Return the turns in a node's log."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is not None:
            at = datetime.datetime.fromisoformat(match["stamp"]).timestamp()
            found.append(Turn(at, match["node"], match["role"] or "serving"))
    return found


def phases(killed: float, seen: Iterable[Turn], answered: float) -> dict[str, float]:
    """Return the seconds of each phase of a failover between two moments since the Unix epoch; empty if a line is
    missing. With more than one election the last leader counts, and everything before is in the first phase.
    """
    moments = [killed]
    later = sorted((turn for turn in seen if turn.at <= answered + LATE_SECONDS), key=lambda turn: turn.at)
    serving = [turn for turn in later if turn.what == "serving"]
    if not serving:
        return {}
    for what in ("candidate", "leader", "serving"):
        own = [turn.at for turn in later if turn.what == what and turn.node_id == serving[-1].node_id]
        if not own:
            return {}
        moments.append(min(own[-1], answered))
    moments.append(answered)
    return {name: max(0.0, end - begin) for name, (begin, end) in zip(PHASES, pairwise(moments), strict=True)}


def waits(records: Path, windows: Iterable[tuple[float, float, float]]) -> list[float]:
    """Return for each window the longest time that any one client waited between two answers, if the wait ends in the
    window or later.

    A window has its begin, its end, and the time at which all clients pause next, in monotonic seconds of the recording
    process. The pause does not count.

    Raises:
        OSError, msgspec.DecodeError: the records cannot be read.
    """
    decode = msgspec.json.Decoder(Acknowledgement).decode
    answers: dict[str, list[float]] = {}
    for line in records.read_bytes().splitlines():
        answer = decode(line)
        if answer.kind != UNANSWERED:
            answers.setdefault(answer.account_id, []).append(answer.acked)
    gaps = [(begin, end) for times in answers.values() for begin, end in pairwise(times) if end - begin > 0.01]
    return [
        max((min(end, pause) - max(begin, since) for begin, end in gaps if begin <= until and end >= since), default=0.0)
        for since, until, pause in windows
    ]


def figures(values: list[float]) -> str:
    """Return p50, p99 and the maximum of `seconds` in milliseconds, as cells of a table."""
    return " | ".join(
        f"{value * 1e3:,.0f} ms" for value in (percentile(values, 50), percentile(values, 99), max(values, default=0.0))
    )
