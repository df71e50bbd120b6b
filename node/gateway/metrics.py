"""The metrics at /metrics: requests, latencies and connections of this gateway process, and its node's status and
counters.

Several gateway processes may share a port. Each one answers with its own metrics, which the label `worker`
distinguishes. Names of counters end in `_total`. One counter with labels counts refused connections and requests. Its
label `by` is the kind of peer, so that an alert on unauthenticated peers ("stranger") ignores clients that followers
redirect to the leader in normal operation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from node.engine.modes import Mode
from node.native.protocol import NodeStatus
from node.system import durations
from node.system.counts import Family
from node.system.durations import DurationCounts

NODE_GAUGES: tuple[tuple[str, str, str], ...] = (
    ("term", "quorumbook_raft_term", "Raft's current term"),
    ("commit_index", "quorumbook_raft_commit_index", "Last log entry that a majority has, as far as the node knows"),
    ("applied_index", "quorumbook_raft_applied_index", "Last log entry whose effect is in the state"),
    ("last_log_index", "quorumbook_raft_last_log_index", "Last entry of the node's log"),
    ("first_log_index", "quorumbook_raft_first_log_index", "First entry of the node's log"),
    ("snapshot_index", "quorumbook_snapshot_index", "Last log entry that the newest snapshot stands for"),
    ("sequence", "quorumbook_command_sequence", "Number of the latest command in the state"),
    ("members_index", "quorumbook_members_index", "Log entry that says who the members are"),
    ("voter", "quorumbook_voter", "1 while the node has a vote"),
    ("ready", "quorumbook_ready", "1 while the node has applied what a known leader has committed"),
    ("quorum", "quorumbook_quorum", "1 while the node is in touch with a majority"),
    ("uptime", "quorumbook_engine_uptime_seconds", "Seconds since the engine started"),
)
"""Fields of `NodeStatus`, the names of their metrics, and the help texts."""

MEMBER_GAUGES: Mapping[str, str] = {
    "connected": "1 while the node has a connection to the member",
    "voter": "1 for a member with a vote",
    "match_index": "Last log entry that the leader knows the member to have",
    "snapshot_sent_bytes": "Bytes of a snapshot that were sent to the member; 0 where none is under way",
    "snapshot_size_bytes": "Bytes of the snapshot that is being sent to the member; 0 where none is under way",
    "clock_skew_seconds": "Seconds by which the member's clock is ahead of the node's",
}

HISTORY_GAUGES: Mapping[str, tuple[str, str]] = {
    "log_index": ("log_index", "Last log entry in the node's market database"),
    "sequence": ("command_sequence", "Number of the latest command in the node's market database"),
    "gaps": ("gaps", "Stretches of the log that the node's market database lacks"),
    "behind": ("behind_commands", "Commands that the node has applied and its market database lacks"),
    "lag_seconds": ("lag_seconds", "Age of the latest command in the node's market database; 0 where it has all"),
    "confirmed": ("confirmed", "1 where the node's market database is known to be of this log"),
}

DURATIONS: Mapping[str, tuple[str, str]] = {
    durations.FSYNC: ("quorumbook_fsync_duration_seconds", "Duration of one fdatasync of the Raft log"),
    durations.COMMIT: ("quorumbook_commit_duration_seconds", "From proposing a log entry until a majority has it, on the leader"),
    durations.APPLY: ("quorumbook_apply_duration_seconds", "Duration of applying one log entry"),
    durations.REQUEST: (
        "quorumbook_request_duration_seconds",
        "From the arrival of commands at the leader's engine to the answer",
    ),
}
"""Histograms of the engine."""

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 8.0)
ROLES = ("leader", "follower", "candidate")


class AnswerCounts:
    """A route's answers: the number of each status, and the latencies: the number in each bucket, of which the last is
    unbounded, and the sum in seconds.
    """

    __slots__ = ("counts", "statuses", "total")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, status: int, seconds: float) -> None:
        """Count one answer and its latency in seconds. Every request calls this, so it only adds to plain counters,
        which `Metrics.collect` converts.
        """
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Metrics(Collector):
    """The metrics of one process, in a separate registry, so that two gateways in one test do not share counts."""

    def __init__(self, node_id: str, worker: int) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"node": node_id, "worker": str(worker)}
        own, names = self.registry, ["node", "worker"]
        self._answers: dict[tuple[str, str], AnswerCounts] = {}
        own.register(self)
        self._refusals = Counter(
            "quorumbook_http_refused",
            "Connections and requests that were refused before they reached a handler, by kind",
            [*names, "kind"],
            registry=own,
        )
        self._sockets = Gauge("quorumbook_websockets", "Open WebSocket connections", names, registry=own)
        self._slow = Counter(
            "quorumbook_websocket_cut_off", "WebSocket connections ended by us, by reason", [*names, "reason"], registry=own
        )
        self._sent = Counter("quorumbook_websocket_messages", "Messages put into WebSocket queues", names, registry=own)
        self._engine_up = Gauge("quorumbook_engine_up", "1 while the engine of the node answers", ["node"], registry=own)
        self._status = {field: Gauge(name, text, ["node"], registry=own) for field, name, text in NODE_GAUGES}
        self._peers = Gauge("quorumbook_peers_connected", "Other members that the node is connected with", ["node"], registry=own)
        self._role = Gauge("quorumbook_node_role", "1 for the role that the node has", ["node", "role"], registry=own)
        self._mode = Gauge("quorumbook_node_mode", "1 for the mode that the node is in", ["node", "mode"], registry=own)
        self._node_status: NodeStatus | None = None
        self._counters: dict[str, int] = {}
        self._processes: Mapping[str, Sequence[Family] | None] = {}
        self._durations: dict[str, DurationCounts] = {}
        self._build = Gauge(
            "quorumbook_build_info", "1, with the node's software and ABI", ["node", "software", "abi"], registry=own
        )
        self._expires = Gauge(
            "quorumbook_certificate_expires_timestamp_seconds",
            "When the node's certificate in use expires",
            ["node"],
            registry=own,
        )
        self._member = {
            name: Gauge(f"quorumbook_member_{name}", text, ["node", "member"], registry=own)
            for name, text in MEMBER_GAUGES.items()
        }
        self._history = {
            field: Gauge(f"quorumbook_history_{name}", text, ["node"], registry=own)
            for field, (name, text) in HISTORY_GAUGES.items()
        }
        self.sockets = self._sockets.labels(**self._labels)
        self.sent = self._sent.labels(**self._labels)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request and its latency in seconds."""
        self.answers(method, route).add(status, seconds)

    def answers(self, method: str, route: str) -> AnswerCounts:
        """Return the counts of a route."""
        counts = self._answers.get((method, route))
        if counts is None:
            counts = self._answers[method, route] = AnswerCounts()
        return counts

    def collect(self) -> Iterable[Metric]:
        """Return the counts of `request` and of the node, for the registry."""
        names = list(self._labels)
        own = list(self._labels.values())
        requests = CounterMetricFamily(
            "quorumbook_http_requests", "Requests, by route and status", labels=[*names, "method", "route", "status"]
        )
        for (method, route), answers in self._answers.items():
            for status, count in answers.statuses.items():
                requests.add_metric([*own, method, route, str(status)], count)
        latency = HistogramMetricFamily(
            "quorumbook_http_request_duration_seconds", "Time to answer a request", labels=[*names, "method", "route"]
        )
        for (method, route), answers in self._answers.items():
            latency.add_metric([*own, method, route], _buckets(BUCKETS, answers.counts), answers.total)
        own_engine = families(self._labels["node"], self._counters)
        return [requests, latency, *self._engine_durations(), *own_engine, *self._other_processes()]

    def _other_processes(self) -> Iterable[Metric]:
        """Return the metrics of the node's other processes."""
        node = self._labels["node"]
        up = GaugeMetricFamily(
            "quorumbook_process_up", "1 while a process of the node that is configured works", labels=["node", "process"]
        )
        for process, figures in self._processes.items():
            up.add_metric([node, process], figures is not None)
            for each in figures or ():
                kind = CounterMetricFamily if each.counter else GaugeMetricFamily
                family = kind(f"quorumbook_{each.name}", each.text, labels=["node", *([each.label] if each.label else [])])
                for value, count in sorted(each.values.items()):
                    family.add_metric([node, *([value] if each.label else [])], count)
                yield family
        yield up

    def _engine_durations(self) -> Iterable[Metric]:
        """Return the engine's histograms."""
        for kind, counts in self._durations.items():
            if kind in DURATIONS:
                name, text = DURATIONS[kind]
                family = HistogramMetricFamily(name, text, labels=["node"])
                family.add_metric([self._labels["node"]], _buckets(durations.BOUNDS_S, counts.counts), counts.total_s)
                yield family

    def refused(self, kind: str) -> None:
        """Count a connection or request that reached no handler."""
        self._refusals.labels(**self._labels, kind=kind).inc()

    def cut_off(self, reason: str) -> None:
        """Count a WebSocket connection that the server ended."""
        self._slow.labels(**self._labels, reason=reason).inc()

    def engine(self, status: NodeStatus | None) -> None:
        """Store the node's status, or None while the engine does not answer. The gauges are set when Prometheus reads
        them, because the status changes more often.
        """
        self._node_status = status
        if status is not None:
            self._counters, self._durations = status.counters, status.durations

    def _show_status(self) -> None:
        """Set the gauges that come from the engine's status."""
        node, status = self._labels["node"], self._node_status
        self._engine_up.labels(node=node).set(0 if status is None else 1)
        for role in ROLES:
            self._role.labels(node=node, role=role).set(status is not None and status.role == role)
        for mode in Mode:
            self._mode.labels(node=node, mode=mode.value).set(status is not None and status.mode == mode)
        if status is None:
            return
        for field, gauge in self._status.items():
            gauge.labels(node=node).set(float(getattr(status, field)))
        if status.certificate_expires:
            self._expires.labels(node=node).set(status.certificate_expires)
        self._members(status)
        self._build.clear()
        self._build.labels(node=node, software=status.software, abi=status.abi).set(1)
        self._peers.labels(node=node).set(sum(member.connected for member in status.others))

    def _members(self, status: NodeStatus) -> None:
        """Set the gauges of each member. The gauges of a removed member disappear."""
        node = self._labels["node"]
        for gauge in self._member.values():
            gauge.clear()
        for member in status.members:
            values = {
                "connected": float(member.connected),
                "voter": float(member.role == "voter"),
                "match_index": float(member.match_index),
                "snapshot_sent_bytes": float(member.snapshot_sent),
                "snapshot_size_bytes": float(member.snapshot_size),
            }
            if member.clock_skew is not None:
                values["clock_skew_seconds"] = member.clock_skew
            for name, value in values.items():
                self._member[name].labels(node=node, member=member.node_id).set(value)

    def history(self, values: Mapping[str, int]) -> None:
        """Store the progress of the node's history, or an empty mapping while it cannot be read."""
        for field, gauge in self._history.items():
            gauge.clear()
            if field in values:
                gauge.labels(node=self._labels["node"]).set(values[field])

    def processes(self, found: Mapping[str, Sequence[Family] | None]) -> None:
        """Store the metrics of the node's other processes, by process, or None for a process that does not answer."""
        self._processes = found

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        self._show_status()
        return generate_latest(self.registry)


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return cumulative counts by upper bound, as Prometheus expects them."""
    return list(zip([*(str(bound) for bound in bounds), "+Inf"], accumulate(counts), strict=True))


GAUGES = frozenset(
    {"commands_queued", "disk_free_bytes", "disk_size_bytes", "snapshot_timestamp_seconds", "snapshot_pause_last_ms"}
)
"""Fields of `NodeStatus` that can decrease, so they are gauges."""

REFUSED = "_refused_"

UNAUTHENTICATED: Mapping[str, frozenset[str]] = {
    "raft": frozenset({"certificate", "unknown_node", "too_many"}),
    "native": frozenset({"handshake", "silent", "framing", "unauthorized", "unproven", "revoked", "too_many"}),
}
"""By port, the kinds of refusal that only an unauthenticated peer causes: a missing certificate of the cluster, an
invalid key, a missing greeting, or bytes that are not a message of the protocol. A follower counts a key that it does
not accept as unproven, and the leader judges it.
"""

NOT_NOW: frozenset[str] = frozenset({"not_leader", "no_leader", "stopping", "busy", "overloaded", "outcome_unknown", "conflict"})
"""Kinds of refusal that a legitimate client gets while the node cannot serve it."""

_WORDS = {
    "commands_queued": "Commands that wait for the log",
    "snapshot_pause_last_ms": "How long the latest snapshot kept the engine from its work",
    "disk_free_bytes": "Bytes that are free on the disk of the data directory",
    "disk_size_bytes": "Size of the disk of the data directory",
    "snapshot_timestamp_seconds": "When the newest snapshot was taken, in seconds since the epoch; 0 where there is none",
    "commands_proposed": "Commands that this node has put into the log as leader",
    "entries_proposed": "Log entries that this node has proposed as leader",
    "entries_applied": "Log entries whose effect is in the state",
    "state_digests_compared": "States that were compared with other nodes'",
    "state_digests_differing": "States that differed from a majority's",
    "state_digests_undecided": "States that differed while no majority could say who is right",
    "snapshots_not_taken": "Snapshots of this node that a member refused",
}


def who(port: str, kind: str) -> str:
    """Return the kind of refused peer: "stranger" (not authenticated), "state" (a legitimate client that this node
    could not serve at the time), "member" or "client".
    """
    if kind in UNAUTHENTICATED.get(port, ()):
        return "stranger"
    if kind in NOT_NOW:
        return "state"
    return "member" if port == "raft" else "client"


def families(node: str, counters: Mapping[str, int]) -> Iterable[Metric]:
    """Return the metrics of a node's counters. `counters` are those of `NodeStatus`."""
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
        in_ms = name.endswith("_ms")
        family = kind_of(f"quorumbook_{name.removesuffix('_ms')}{'_seconds' if in_ms else ''}", words, labels=["node"])
        family.add_metric([node], count / 1000 if in_ms else count)
        yield family
    yield refused
