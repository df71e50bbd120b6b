"""Traces of orders for OpenTelemetry: from the gateway to the state, sampled, off by default.

| span | process | begins when, ends when |
|---|---|---|
| `order` | gateway | the gateway sends the command, the outcome arrives |
| `engine` | the leader's engine | the command arrives, its answer leaves |
| `commit` | the leader's engine | the command arrives, its log entry begins to be applied: the queue and consensus |
| `apply` | the leader's engine | the entry is applied, and the answer leaves |

No message gets another field: a trace's id is a digest of the command's account and id, which every process has. So all
processes use the same trace, and make the same decision whether it is sampled. A command that is sent again
after a failover shows both leaders in one trace.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from node.config.settings import NodeConfig
from node.errors import SetupError
from statemachine.commands import AnyCommand

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

CLOSE_S = 2.0
"""Seconds for sending the last spans when the process stops."""

NEEDS = "tracing.endpoint is set, and OpenTelemetry is not installed: pip install 'quorumbook[tracing]'"


class TraceIds(msgspec.Struct, frozen=True):
    """The ids of a command's trace, and of its first span."""

    trace: int
    order: int


class Tracer:
    """Makes the spans of one process.

    Args:
        process: "gateway" or "engine".
        exporter: the destination of the spans, for tests. By default a thread sends them to `tracing.endpoint`.

    Raises:
        SetupError: OpenTelemetry is not installed.
    """

    def __init__(self, config: NodeConfig, process: str, exporter: SpanExporter | None = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.context import Context
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        except ImportError as error:
            raise SetupError(NEEDS) from error
        self._api: Any = trace
        self._nothing = Context()
        self._ids = _ids()
        resource = {
            "service.name": f"quorumbook-{process}",
            "service.instance.id": config.node_id,
            "quorumbook.cluster": config.cluster_id,
        }
        self._provider = TracerProvider(resource=Resource.create(resource), id_generator=self._ids, shutdown_on_exit=False)
        if exporter is not None:
            self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        else:
            self._provider.add_span_processor(BatchSpanProcessor(_exporter(config.tracing.endpoint)))
        self._tracer = self._provider.get_tracer("quorumbook")
        self._bound = int(config.tracing.ratio * 2**64)

    def sampled(self, command: AnyCommand) -> TraceIds | None:
        """Return the ids of a command's trace; None if it is not sampled."""
        digest = hashlib.blake2b(f"{command.account_id}\0{command.command_id}".encode(), digest_size=24).digest()
        if int.from_bytes(digest[:8], "big") >= self._bound:
            return None
        return TraceIds(int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:], "big") or 1)

    def gateway(self, commands: Sequence[AnyCommand], begun_ns: int, ended_ns: int) -> None:
        """Record the span `order` of each command that is sampled."""
        for command in commands:
            ids = self.sampled(command)
            if ids is not None:
                self._ids.next = ids
                span = self._tracer.start_span("order", context=self._nothing, start_time=begun_ns, attributes=_facts(command))
                self._ids.next = None
                span.end(ended_ns)

    def engine(self, commands: Sequence[AnyCommand], begun_ns: int, applied_ns: int, ended_ns: int, refusal: str) -> None:
        """Record the spans `engine`, `commit` and `apply` of each command that is sampled. `refusal`: why it was not
        carried out, or "" if it was.
        """
        for command in commands:
            ids = self.sampled(command)
            if ids is None:
                continue
            flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
            order = self._api.NonRecordingSpan(self._api.SpanContext(ids.trace, ids.order, is_remote=True, trace_flags=flags))
            facts = {**_facts(command), **({"refusal": refusal} if refusal else {})}
            span = self._tracer.start_span("engine", self._api.set_span_in_context(order), start_time=begun_ns, attributes=facts)
            within = self._api.set_span_in_context(span)
            if not refusal:
                middle = min(max(begun_ns, applied_ns), ended_ns)
                self._tracer.start_span("commit", within, start_time=begun_ns).end(middle)
                self._tracer.start_span("apply", within, start_time=middle).end(ended_ns)
            span.end(ended_ns)

    def close(self) -> None:
        """Send the remaining spans, for `CLOSE_S` at most. The library would try for many seconds to reach a collector
        that is down, and the process has to stop.
        """
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def tracer_of(config: NodeConfig, process: str) -> Tracer | None:
    """Return the tracer of a process; None if traces are off. Raises SetupError."""
    return Tracer(config, process) if config.tracing.endpoint and config.tracing.ratio else None


def _facts(command: AnyCommand) -> dict[str, str]:
    """Return a span's attributes. They contain no amounts and no account."""
    facts = {"command": type(command).__name__, "command_id": command.command_id}
    product_id = getattr(command, "product_id", "")
    return {**facts, "product_id": product_id} if product_id else facts


def _exporter(endpoint: str) -> SpanExporter:
    """Return the exporter to an OTLP endpoint. Raises SetupError if its library is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise SetupError(NEEDS) from error
    return OTLPSpanExporter(endpoint=endpoint, timeout=5)


def _ids() -> Any:
    """Return a generator of ids: those set in `next` for the next first span, otherwise random ones."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Returns the ids of the next trace, where they are given; otherwise random ids."""

        next: TraceIds | None = None

        def generate_trace_id(self) -> int:
            return super().generate_trace_id() if self.next is None else self.next.trace

        def generate_span_id(self) -> int:
            return super().generate_span_id() if self.next is None else self.next.order

    return Ids()
