"""What Prometheus reads at /metrics: requests, latencies and connections of this gateway process, and its node's status.

Several gateway processes may share a port; each answers for itself, told apart by the label `worker`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from node.engine.modes import Mode
from node.gateway import node_counters
from node.native.protocol import NodeStatus

BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 8.0)
ROLES = ("leader", "follower", "candidate")


class _Latencies:
    """Seconds of a route's answers: how many in each bucket, the last one without a bound, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


class Metrics(Collector):
    """The process's own registry, so that two gateways in one test do not share counts."""

    def __init__(self, node_id: str, worker: int) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"node": node_id, "worker": str(worker)}
        own, names = self.registry, ["node", "worker"]
        self._requests: dict[tuple[str, str, int], int] = {}
        self._latencies: dict[tuple[str, str], _Latencies] = {}
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
        self._status = Gauge("quorumbook_node", "The node's status, by what", ["node", "what"], registry=own)
        self._role = Gauge("quorumbook_node_role", "1 for the role that the node has", ["node", "role"], registry=own)
        self._mode = Gauge("quorumbook_node_mode", "1 for the mode that the node is in", ["node", "mode"], registry=own)
        self._counters: dict[str, int] = {}
        self._build = Gauge(
            "quorumbook_build_info", "1, with the node's software and ABI", ["node", "software", "abi"], registry=own
        )
        self._expires = Gauge(
            "quorumbook_certificate_expires_timestamp_seconds", "When the node's certificate in use ends", ["node"], registry=own
        )
        self._member = Gauge(
            "quorumbook_member", "A member of the cluster as the node sees it, by what", ["node", "member", "what"], registry=own
        )
        self._history = Gauge("quorumbook_history", "Where the history of the node is, by what", ["node", "what"], registry=own)
        self.sockets = self._sockets.labels(**self._labels)
        self.sent = self._sent.labels(**self._labels)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. Cheap, because it is on every request's path: the registry collects what is counted here."""
        key = (method, route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        latencies = self._latencies.get(key[:2])
        if latencies is None:
            latencies = self._latencies[key[:2]] = _Latencies()
        latencies.counts[bisect_left(BUCKETS, seconds)] += 1
        latencies.total += seconds

    def collect(self) -> Iterable[Metric]:
        """What `request` and the node have counted, for the registry."""
        names = list(self._labels)
        own = list(self._labels.values())
        requests = CounterMetricFamily(
            "quorumbook_http_requests", "Requests, by route and status", labels=[*names, "method", "route", "status"]
        )
        for (method, route, status), count in self._requests.items():
            requests.add_metric([*own, method, route, str(status)], count)
        latency = HistogramMetricFamily("quorumbook_http_seconds", "Time to answer", labels=[*names, "method", "route"])
        for (method, route), latencies in self._latencies.items():
            sums = list(accumulate(latencies.counts))
            bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
            latency.add_metric([*own, method, route], list(zip(bounds, sums, strict=True)), latencies.total)
        return [requests, latency, *node_counters.families(self._labels["node"], self._counters)]

    def refused(self, kind: str) -> None:
        """Count a connection or request that reached no handler."""
        self._refusals.labels(**self._labels, kind=kind).inc()

    def cut_off(self, reason: str) -> None:
        """Count a WebSocket connection that we ended."""
        self._slow.labels(**self._labels, reason=reason).inc()

    def engine(self, status: NodeStatus | None) -> None:
        """Take over the node's status; None while the engine does not answer."""
        node = self._labels["node"]
        self._engine_up.labels(node=node).set(0 if status is None else 1)
        for role in ROLES:
            self._role.labels(node=node, role=role).set(status is not None and status.role == role)
        for mode in Mode:
            self._mode.labels(node=node, mode=mode.value).set(status is not None and status.mode == mode)
        if status is None:
            return
        numbers = (
            "term",
            "commit_index",
            "applied_index",
            "last_log_index",
            "first_log_index",
            "snapshot_index",
            "sequence",
            "members_index",
        )
        for name in (*numbers, "voter", "ready", "quorum", "uptime"):
            self._status.labels(node=node, what=name).set(float(getattr(status, name)))
        if status.certificate_expires:
            self._expires.labels(node=node).set(status.certificate_expires)
        self._members(status)
        self._counters = status.counters
        self._build.clear()
        self._build.labels(node=node, software=status.software, abi=status.abi).set(1)
        self._status.labels(node=node, what="peers_connected").set(sum(member.connected for member in status.others))

    def _members(self, status: NodeStatus) -> None:
        """What the node knows of each member; a gauge of one that has gone disappears."""
        node = self._labels["node"]
        self._member.clear()
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
            for what, value in values.items():
                self._member.labels(node=node, member=member.node_id, what=what).set(value)

    def history(self, values: Mapping[str, int]) -> None:
        """Take over where the node's history is; empty while it cannot be read."""
        self._history.clear()
        for what, value in values.items():
            self._history.labels(node=self._labels["node"], what=what).set(value)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
