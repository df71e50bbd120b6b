"""What a node has counted since its start, as Prometheus wants it: counters end in `_total`, each with a name of its own.

Connections and requests that were turned away are one counter with labels, of which `by` says who it was: so that an alert on strangers is silent in
normal work, where clients are led from followers to the leader all the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

GAUGES = frozenset({"commands_queued"})
"""What can fall: no counters."""

REFUSED = "_refused_"

STRANGERS: Mapping[str, frozenset[str]] = {
    "raft": frozenset({"certificate", "unknown_node", "too_many"}),
    "native": frozenset({"handshake", "silent", "framing", "unauthorized", "revoked", "too_many"}),
}
"""By port, what only somebody does who does not belong: no certificate of the cluster, no valid key, no greeting, no message of the protocol."""

NOT_NOW: frozenset[str] = frozenset({"not_leader", "no_leader", "stopping", "busy", "overloaded", "outcome_unknown", "conflict"})
"""What a sound client is told while the node cannot serve it."""

_WORDS = {
    "commands_queued": "Commands that wait for the log",
    "commands_proposed": "Commands that this node has put into the log as leader",
    "entries_proposed": "Log entries that this node has proposed as leader",
    "entries_applied": "Log entries whose effect is in the state",
    "state_digests_compared": "States that were compared with other nodes'",
    "state_digests_differing": "States that differed from a majority's",
    "state_digests_undecided": "States that differed while no majority could say who is right",
    "snapshots_not_taken": "Snapshots of this node that a member refused",
}


def who(port: str, kind: str) -> str:
    """Who was turned away: "stranger", "state" (a sound client, while this node could not serve it), "member" or "client"."""
    if kind in STRANGERS.get(port, ()):
        return "stranger"
    if kind in NOT_NOW:
        return "state"
    return "member" if port == "raft" else "client"


def families(node: str, counters: Mapping[str, int]) -> Iterable[Metric]:
    """The metrics of a node's counters; `counters` are those of `NodeStatus`."""
    refused = CounterMetricFamily(
        "quorumbook_refused",
        "Connections and requests turned away, by port, kind, and who it was",
        labels=["node", "port", "kind", "by"],
    )
    for name, count in sorted(counters.items()):
        port, marked, kind = name.partition(REFUSED)
        if marked:
            refused.add_metric([node, port, kind, who(port, kind)], count)
            continue
        words = _WORDS.get(name, name.replace("_", " ").capitalize())
        kind_of = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
        family = kind_of(f"quorumbook_{name}", words, labels=["node"])
        family.add_metric([node], count)
        yield family
    yield refused
