"""Checks the health of a cluster over the network, for monitoring systems, against two thresholds each.

`observe` asks every node twice, a short time apart, so that a check of durations covers the present and not the whole
time since the start.

`stop_verdict` decides whether a node may stop now: before maintenance, a rolling restart, or in a container's preStop
hook. It may if the other serving voters are still a majority. A voter counts if it is connected to the leader and has
applied what the leader has committed. A voter that is still catching up does not count, because the cluster would have
to wait for it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from cluster.membership import Role
from node.deployment.statuses import Statuses, ask_all, leader_of, newest_members
from node.diagnosis.findings import Finding, Severity
from node.keys.credentials import Credentials
from node.native.protocol import NodeStatus
from node.system.durations import COMMIT, FSYNC
from node.tls.certificates import days_left

HTTP_SECONDS = 2.0
STATUS_BYTES_MAX = 1024 * 1024
"""Limit of a node's GET /status answer; in a cluster of five nodes it has a few KiB."""


class Observation(msgspec.Struct):
    """What all nodes answered, first and a moment later. `histories`: what GET /status of each node says of its market
    database, if it keeps one.
    """

    before: Statuses
    after: Statuses
    histories: dict[str, dict[str, int]] = {}
    now: float = 0.0


class Thresholds(msgspec.Struct, frozen=True):
    """The thresholds of a check. `falling`: small values are bad."""

    warning: float
    critical: float
    falling: bool = False

    def level(self, value: float) -> Severity:
        """Return the level of a value."""

        def beyond(limit: float) -> bool:
            return value < limit if self.falling else value > limit

        return Severity.CRITICAL if beyond(self.critical) else Severity.WARNING if beyond(self.warning) else Severity.OK


LIMITS: Mapping[str, tuple[Thresholds, str]] = {
    "nodes": (Thresholds(0, 1), "nodes that do not answer"),
    "lag": (Thresholds(1_000, 100_000), "log entries that a node lacks"),
    "fsync": (Thresholds(0.02, 0.2), "seconds, the 99th percentile of fsync"),
    "commit": (Thresholds(0.1, 1.0), "seconds, the 99th percentile from proposing an entry to a majority having it"),
    "disk": (Thresholds(15, 5, falling=True), "percent of the disk that is free"),
    "certificates": (Thresholds(30, 7, falling=True), "days until a certificate expires"),
    "clock": (Thresholds(0.5, 3.0), "seconds between two nodes' clocks"),
    "history": (Thresholds(10_000, 1_000_000), "commands that a market database lacks"),
    "snapshot": (Thresholds(2 * 86_400, 7 * 86_400), "seconds since the newest snapshot, where there were commands since"),
}
"""Default thresholds, and the meaning of their numbers."""


async def observe(addresses: Mapping[str, str], tls: ssl.SSLContext, credentials: Credentials, seconds: float) -> Observation:
    """Ask all nodes twice, with a pause in between."""
    before = await ask_all(addresses, tls, credentials)
    await asyncio.sleep(seconds)
    after = await ask_all(addresses, tls, credentials)
    urls = {
        member.node_id: member.http for status in after.values() if status is not None for member in status.members if member.http
    }
    answers = await asyncio.gather(*(asyncio.to_thread(_history, url, tls) for url in urls.values()))
    histories = {node_id: found for node_id, found in zip(urls, answers, strict=True) if found is not None}
    return Observation(before, after, histories, time.time())


def _history(url: str, tls: ssl.SSLContext) -> dict[str, int] | None:
    """Return what GET /status of a node says of its market database; None if it keeps none or does not answer."""
    try:
        context = tls if url.startswith("https:") else None
        with urllib.request.urlopen(f"{url}/status", timeout=HTTP_SECONDS, context=context) as answer:
            body = msgspec.json.decode(answer.read(STATUS_BYTES_MAX))
    except (OSError, urllib.error.URLError, msgspec.DecodeError, ValueError):
        return None
    history = body.get("history") if isinstance(body, dict) else None
    return {str(name): int(value) for name, value in history.items()} if isinstance(history, dict) else None


def checks() -> Mapping[str, Callable[[Observation, Thresholds], list[Finding]]]:
    """Return all checks by name, in the order of the output."""
    return {
        "leader": lambda seen, _limits: [_leader(seen)],
        "nodes": lambda seen, limits: [_nodes(seen, limits)],
        "states": lambda seen, _limits: [_states(seen)],
        "lag": _lag,
        "fsync": lambda seen, limits: _durations(seen, limits, FSYNC),
        "commit": lambda seen, limits: _durations(seen, limits, COMMIT),
        "disk": _disk,
        "certificates": _certificates,
        "clock": _clock,
        "history": _histories,
        "snapshot": _snapshots,
    }


def examine(seen: Observation, names: list[str], limits: Mapping[str, Thresholds]) -> list[Finding]:
    """Run the checks with these names."""
    made = checks()
    none = Thresholds(float("inf"), float("inf"))
    return [finding for name in names for finding in made[name](seen, limits.get(name, none))]


def _alive(seen: Observation) -> dict[str, NodeStatus]:
    """Return the status of each node that answered."""
    return {node_id: status for node_id, status in seen.after.items() if status is not None}


def _leader(seen: Observation) -> Finding:
    """Return that a node leads, or a critical finding if none serves."""
    leader = leader_of(seen.after)
    if not leader:
        answering = len(_alive(seen))
        text = f"no leader serves; {answering} of {len(seen.after)} nodes answer"
        return Finding(Severity.CRITICAL, "", "leader", text, "see docs/runbooks/QuorumbookNoLeader.md")
    status = seen.after[leader]
    assert status is not None
    return Finding(Severity.OK, leader, "leader", f"{leader} leads in term {status.term}", figures={"term": status.term})


def _nodes(seen: Observation, limits: Thresholds) -> Finding:
    """Return how many nodes do not answer, with the level that this number has."""
    silent = [node_id for node_id, status in seen.after.items() if status is None]
    level = limits.level(len(silent))
    text = f"{', '.join(silent)} does not answer" if silent else f"all {len(seen.after)} nodes answer"
    advice = "see docs/runbooks/QuorumbookNodeDown.md" if silent else ""
    return Finding(level, "", "nodes", text, advice, {"silent": len(silent), "nodes": len(seen.after)})


def _states(seen: Observation) -> Finding:
    """Nodes with the same sequence must have the same hash."""
    if any(not status.state_hash for status in _alive(seen).values()):
        return Finding(
            Severity.UNKNOWN, "", "states", "the key may not see the state hashes", "use a key with the permission cluster"
        )
    by_sequence: dict[int, dict[str, list[str]]] = {}
    for node_id, status in _alive(seen).items():
        by_sequence.setdefault(status.sequence, {}).setdefault(status.state_hash, []).append(node_id)
    for sequence, hashes in by_sequence.items():
        if len(hashes) > 1:
            groups = " and ".join("+".join(nodes) for nodes in hashes.values())
            text = f"after command {sequence:,} the states of {groups} differ"
            return Finding(Severity.CRITICAL, "", "states", text, "see docs/runbooks/QuorumbookStatesDiffer.md")
    compared = max((sum(map(len, hashes.values())) for hashes in by_sequence.values()), default=0)
    return Finding(Severity.OK, "", "states", f"equal on {compared} nodes that are at the same command")


def _lag(seen: Observation, limits: Thresholds) -> list[Finding]:
    """Return for each node how far it is behind the leader. A node that is not ready gives at least a warning."""
    leader = seen.after.get(leader_of(seen.after))
    if leader is None:
        return [Finding(Severity.UNKNOWN, "", "lag", "not known while no leader serves")]
    found = []
    for node_id, status in _alive(seen).items():
        lag = max(0, leader.commit_index - status.applied_index)
        level = max(limits.level(lag), Severity.OK if status.ready else Severity.WARNING)
        text = f"{lag:,} log entries behind{'' if status.ready else ', not ready'}"
        advice = "see docs/runbooks/QuorumbookNodeBehind.md" if level else ""
        found.append(Finding(level, node_id, "lag", text, advice, {"entries": lag}))
    return found


def _durations(seen: Observation, limits: Thresholds, name: str) -> list[Finding]:
    """Return for each node the 99th percentile of a duration since the first observation, or else since its start."""
    found = []
    for node_id, status in _alive(seen).items():
        counts, earlier = status.durations.get(name), seen.before.get(node_id)
        if counts is None:
            continue
        recent = counts.since(earlier.durations.get(name) if earlier is not None else None)
        value, when = recent.quantile(0.99), "now"
        if value is None:
            value, when = counts.quantile(0.99), "since its start"
        if value is None:
            found.append(Finding(Severity.OK, node_id, name, "none since its start"))
            continue
        level = limits.level(value)
        advice = f"see docs/runbooks/QuorumbookSlow{name.capitalize()}.md" if level else ""
        found.append(Finding(level, node_id, name, f"p99 {1000 * value:g} ms ({when})", advice, {"p99_seconds": value}))
    return found


def _disk(seen: Observation, limits: Thresholds) -> list[Finding]:
    """Return for each node the free share of its disk."""
    found = []
    for node_id, status in _alive(seen).items():
        free, size = status.counters.get("disk_free_bytes"), status.counters.get("disk_size_bytes")
        if free is None or not size:
            found.append(Finding(Severity.UNKNOWN, node_id, "disk", "the node does not report it"))
            continue
        share = 100 * free / size
        level = limits.level(share)
        advice = "see docs/runbooks/QuorumbookDiskFull.md" if level else ""
        figures = {"free_bytes": free, "free_percent": round(share, 1)}
        found.append(Finding(level, node_id, "disk", f"{share:.0f} % free ({free / 2**30:,.1f} GiB)", advice, figures))
    return found


def _certificates(seen: Observation, limits: Thresholds) -> list[Finding]:
    """Return for each node the days until its certificate ends."""
    found = []
    for node_id, status in _alive(seen).items():
        left = days_left(status.certificate_expires, seen.now)
        level = limits.level(left)
        advice = "quorumbook pki renew" if level else ""
        found.append(Finding(level, node_id, "certificates", f"{left:,.0f} days left", advice, {"days_left": round(left, 1)}))
    return found


def _clock(seen: Observation, limits: Thresholds) -> list[Finding]:
    """Return for each other node how far its clock is from the leader's."""
    leader = seen.after.get(leader_of(seen.after))
    if leader is None:
        return [Finding(Severity.UNKNOWN, "", "clock", "not known while no leader serves")]
    found = []
    for member in leader.others:
        if member.clock_skew is not None:
            level = limits.level(abs(member.clock_skew))
            text = f"{member.clock_skew:+.3f} s from the leader's"
            advice = "see docs/runbooks/QuorumbookClockSkew.md" if level else ""
            found.append(Finding(level, member.node_id, "clock", text, advice, {"skew_seconds": member.clock_skew}))
    return found


def _histories(seen: Observation, limits: Thresholds) -> list[Finding]:
    """Return for each market database how many commands it is behind. One with gaps gives at least a warning."""
    found = []
    for node_id, history in seen.histories.items():
        if not history:
            text = "the market database cannot be read"
            found.append(Finding(Severity.WARNING, node_id, "history", text, "see docs/runbooks/QuorumbookHistoryBehind.md"))
            continue
        behind, gaps = history.get("behind", 0), history.get("gaps", 0)
        level = max(limits.level(behind), Severity.WARNING if gaps else Severity.OK)
        advice = "see docs/runbooks/QuorumbookHistoryBehind.md" if level else ""
        text = f"{behind:,} commands behind, {gaps} gaps"
        found.append(Finding(level, node_id, "history", text, advice, {"behind_commands": behind, "gaps": gaps}))
    return found or [Finding(Severity.OK, "", "history", "no node keeps a market database")]


def _snapshots(seen: Observation, limits: Thresholds) -> list[Finding]:
    """Return for each node the age of its newest snapshot. No age is too old if nothing was applied since."""
    found = []
    for node_id, status in _alive(seen).items():
        taken = status.counters.get("snapshot_timestamp_seconds", 0)
        if not taken:
            found.append(Finding(Severity.OK, node_id, "snapshot", "none yet"))
            continue
        age = max(0.0, seen.now - taken)
        idle = status.snapshot_index >= status.applied_index
        level = Severity.OK if idle else limits.level(age)
        text = f"{age / 3600:,.1f} hours old{', and no commands since' if idle else ''}"
        advice = f"quorumbook snapshot take {node_id}; its log says why there was none" if level else ""
        found.append(Finding(level, node_id, "snapshot", text, advice, {"age_seconds": round(age)}))
    return found


POLL_S = 0.25


class StopVerdict(msgspec.Struct, frozen=True):
    """Whether a node may stop. `remaining`: serving voters without it; `needed`: the size of a majority.
    `stands_still`: no majority serves even now, so a stop makes nothing worse.
    """

    may_stop: bool
    text: str
    remaining: int = 0
    needed: int = 0
    stands_still: bool = False


def stop_verdict(statuses: Statuses, node_id: str) -> StopVerdict:
    """Return the verdict that follows from all nodes' statuses."""
    members = {member.node_id: member for member in newest_members(statuses)}
    if not members:
        return StopVerdict(False, "no node answers, so it is not known whether the others serve", stands_still=True)
    if node_id not in members:
        return StopVerdict(True, f"{node_id} is not a member of the cluster")
    voters = [member.node_id for member in members.values() if member.role == Role.VOTER.value]
    needed = len(voters) // 2 + 1
    leader = statuses.get(leader_of(statuses))
    if node_id not in voters:
        return StopVerdict(True, f"{node_id} has no vote: the cluster does not need it", len(voters), needed)
    if leader is None:
        return StopVerdict(False, "no leader serves: find out why before you stop another node", 0, needed, stands_still=True)
    if leader.change_under_way:
        return StopVerdict(False, "a membership change is in progress: wait until it is complete", 0, needed)
    connected = {member.node_id for member in leader.members if member.connected}
    serving = [
        each
        for each in voters
        if each != node_id and each in connected and (status := statuses.get(each)) is not None and status.ready and status.voter
    ]
    lacking = [each for each in voters if each not in serving and each != node_id]
    numbers = f"without {node_id}, {len(serving)} of {len(voters)} voters serve, and {needed} are needed"
    if len(serving) >= needed:
        spare = len(serving) - needed
        return StopVerdict(True, f"{numbers}" + ("" if spare else ": the next failure stops the exchange"), len(serving), needed)
    why = f"; {', '.join(lacking)} does not serve" if lacking else ""
    stands_still = len(serving) + 1 < needed  # a leader that has just lost its majority reports for a moment that it serves
    return StopVerdict(False, f"{numbers}: the exchange would stand still{why}", len(serving), needed, stands_still)


async def wait_until_may_stop(
    ask: Callable[[], Awaitable[Statuses]], node_id: str, seconds: float
) -> tuple[StopVerdict, Statuses]:
    """Ask repeatedly until the node may stop, for `seconds` at most. Returns the last verdict and the nodes' statuses."""
    end = time.monotonic() + seconds
    while True:
        statuses = await ask()
        found = stop_verdict(statuses, node_id)
        if found.may_stop or time.monotonic() >= end:
            return found, statuses
        await asyncio.sleep(POLL_S)
