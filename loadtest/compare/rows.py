"""The rows of the comparison: the measure, the other side, the goal, and whether it is reached."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Goal(msgspec.Struct, frozen=True):
    """A row before its measurement.

    `at_least`: whether a large ratio of ours to the other side's is good; otherwise a small one is. `bound` is the goal
    of the ratio, or of our own figure if there is no other side (`beside` is "").
    """

    key: str
    what: str
    beside: str
    unit: str
    bound: float
    at_least: bool


GOALS: tuple[Goal, ...] = (
    Goal(
        "http_rate", "three nodes, HTTP, one order a request, 64 connections", "etcd, HTTP put, 64 connections", "1/s", 2.0, True
    ),
    Goal("http_p50", "the same, one at a time, p50", "etcd, one at a time, p50", "ms", 1.2, False),
    Goal("native_rate", "three nodes, native, many in flight", "etcd, HTTP put, 64 connections", "1/s", 10.0, True),
    Goal("http_cpu", "CPU of all nodes an order, HTTP, 64 connections", "etcd, CPU of all members a put", "us", 1.0, False),
    Goal("native_cpu", "CPU of all nodes a command, native", "etcd, CPU of all members a put", "us", 0.1, False),
    Goal("core", "the engine in one process, everything on", "matching-engine 0.1.1, its own flow", "1/s", 2.5, True),
    Goal("flash", "the engine on the public workload", "a plain price-time book of 50 lines", "1/s", 1.0, True),
    Goal("replay", "restart: 1,000,000 commands from the log, CPU", "", "s", 5.0, False),
    Goal("load", "restart: 1,000,000 resting orders from a snapshot, CPU", "", "s", 3.0, False),
    Goal("memory", "memory of a resting order", "", "bytes", 500.0, False),
    Goal("idle", "an idle node, gateway included", "", "% of a core", 1.0, False),
    Goal("book_growth", "CPU a command with 1,000,000 resting orders", "with 1,000", "us", 1.2, False),
    Goal("product_growth", "CPU a command with 1,000 products", "with 1", "us", 1.2, False),
    Goal("five_nodes", "CPU of all nodes a command, five nodes, native", "three nodes", "us", 2.0, False),
    Goal("half_peak_p99", "HTTP at half of the peak, from the intended time: p99", "", "ms", 100.0, False),
    Goal("overload", "goodput at three times the peak", "the peak", "1/s", 0.8, True),
)
"""All goals, in the order of the table."""


class Row(msgspec.Struct, frozen=True):
    """A measured row: the medians of both sides, and each round's figures. `theirs` is 0 if there is no other side."""

    goal: Goal
    ours: float
    theirs: float
    rounds: list[tuple[float, float]]
    note: str = ""

    @property
    def ratio(self) -> float:
        """The median over the rounds of ours divided by theirs, or our figure if there is no other side."""
        if not self.goal.beside:
            return self.ours
        return statistics.median(ours / theirs for ours, theirs in self.rounds)

    @property
    def reached(self) -> bool:
        """Whether the goal is reached."""
        return self.ratio >= self.goal.bound if self.goal.at_least else self.ratio <= self.goal.bound

    @property
    def verdict(self) -> str:
        """ "reached", or how far away the goal is as a factor."""
        if self.reached:
            return "reached"
        factor = self.goal.bound / self.ratio if self.goal.at_least else self.ratio / self.goal.bound
        return f"{factor:.2f}x away"


def goal_of(key: str) -> Goal:
    """Return the goal with this key."""
    return next(goal for goal in GOALS if goal.key == key)


def row(key: str, rounds: Sequence[tuple[float, float]], note: str = "") -> Row:
    """Return the row with this key from each round's figures (ours, theirs)."""
    goal = goal_of(key)
    ours = statistics.median(pair[0] for pair in rounds)
    theirs = statistics.median(pair[1] for pair in rounds) if goal.beside else 0.0
    return Row(goal, ours, theirs, list(rounds), note)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of the comparison."""
    lines = ["| measure | beside | Quorumbook | the other | ratio | goal | |", "|---|---|---:|---:|---:|---:|---|"]
    for each in rows:
        goal = each.goal
        theirs = f"{figure(each.theirs)} {goal.unit}" if goal.beside else ""
        sign = ">=" if goal.at_least else "<="
        ratio = figure(each.ratio) if goal.beside else ""
        note = f"{each.verdict}; {each.note}" if each.note else each.verdict
        lines.append(
            f"| {goal.what} | {goal.beside} | {figure(each.ours)} {goal.unit} | {theirs} | {ratio} | {sign} {goal.bound:g} | {note} |"
        )
    return "\n".join(lines)


def as_json(rows: Sequence[Row], context: dict[str, str]) -> bytes:
    """Return the rows as JSON, with the date, the commit and the machine."""
    found = [
        {
            "key": each.goal.key,
            "what": each.goal.what,
            "beside": each.goal.beside,
            "unit": each.goal.unit,
            "ours": each.ours,
            "theirs": each.theirs,
            "ratio": each.ratio,
            "goal": each.goal.bound,
            "at_least": each.goal.at_least,
            "reached": each.reached,
            "rounds": each.rounds,
            "note": each.note,
        }
        for each in rows
    ]
    return msgspec.json.format(msgspec.json.encode({**context, "rows": found}), indent=1)


def figure(value: float) -> str:
    """Return a number as text, with three significant digits or as a whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
