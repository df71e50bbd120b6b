"""A receiver of traces: OTLP over HTTP with protobuf, like a collector of OpenTelemetry."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


@dataclass(frozen=True)
class Received:
    """A span that arrived. `parent` is empty for the first span of a trace."""

    service: str
    instance: str
    name: str
    trace: bytes
    span: bytes
    parent: bytes
    begun_ns: int
    ended_ns: int
    facts: dict[str, str]


@dataclass
class Receiver:
    """The spans that arrived. `failures`: how many of the next requests are answered with 503."""

    url: str = ""
    spans: list[Received] = field(default_factory=list)
    failures: int = 0
    faults: list[str] = field(default_factory=list)
    """What was wrong with requests."""

    def of(self, command_id: str) -> list[Received]:
        """Return the spans of the trace of a command."""
        traces = {span.trace for span in self.spans if span.facts.get("command_id") == command_id}
        return [span for span in self.spans if span.trace in traces]

    def take(self, path: str, kind: str, body: bytes) -> None:
        """Decode a request."""
        if path != "/v1/traces" or kind != "application/x-protobuf":
            self.faults.append(f"{path} {kind}")
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Received(
                            named["service.name"],
                            named["service.instance.id"],
                            span.name,
                            span.trace_id,
                            span.span_id,
                            span.parent_span_id,
                            span.start_time_unix_nano,
                            span.end_time_unix_nano,
                            {each.key: each.value.string_value for each in span.attributes},
                        )
                    )


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver on loopback."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if receiver.failures > 0:
                receiver.failures -= 1
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take(self.path, self.headers["Content-Type"], body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Write nothing to the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)
