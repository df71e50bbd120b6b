"""Statuses of nodes, for tests of the diagnosis."""

from __future__ import annotations

from typing import Any

import msgspec

from node.deployment.statuses import Statuses
from node.native.protocol import MemberStatus, NodeStatus
from node.system.durations import DurationCounts, Durations


def counted(*seconds: float) -> DurationCounts:
    """Return a histogram with these observations."""
    durations = Durations()
    for each in seconds:
        durations.observe(each)
    return durations.freeze()


def member(node_id: str, **changed: Any) -> MemberStatus:
    """Return a voter that is connected."""
    return msgspec.structs.replace(MemberStatus(node_id, True, 40, native="127.0.0.1:1"), **changed)


def status(node_id: str, role: str = "follower", **changed: Any) -> NodeStatus:
    """Return the status of a healthy node of three; n1 leads."""
    made = NodeStatus(
        node_id,
        "trial",
        role,
        "n1",
        3,
        100,
        100,
        100,
        1,
        90,
        50,
        "aa",
        True,
        True,
        True,
        60.0,
        "0.3.0",
        "abi",
        [member("n1"), member("n2", clock_skew=0.01), member("n3", clock_skew=-0.02)],
        mode="Ready",
        engine_start="one",
        counters={"disk_free_bytes": 50, "disk_size_bytes": 100, "snapshot_timestamp_seconds": 1_000_000},
        certificate_expires=1_000_000 + 100 * 86_400,
        durations={name: counted(*[0.002] * 100) for name in ("fsync", "commit", "apply", "request")},
    )
    return msgspec.structs.replace(made, **changed)


def three(**changed: NodeStatus | None) -> Statuses:
    """Return three healthy nodes, except for the given ones."""
    return {"n1": status("n1", "leader"), "n2": status("n2"), "n3": status("n3"), **changed}
