"""Traces: the command's id alone leads gateway and engine to the same trace and the same decision to sample it. If
tracing is off, nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.config.file import load
from node.config.settings import NodeConfig, TracingConfig
from node.deployment.setup import initialise
from node.errors import ConfigError, SetupError
from node.tracing import CLOSE_S, Tracer, tracer_of
from statemachine.commands import CancelAll, PlaceOrder
from statemachine.types import OrderType, Side

memory = pytest.importorskip(
    "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="opentelemetry-sdk is not installed"
)

ORDER = PlaceOrder("alice", "c:one", "BTC-USD", Side.BUY, OrderType.LIMIT, 5, 7)


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return load(initialise(tmp_path / "exchange", 1)[0])


def tracing(config: NodeConfig, ratio: float, process: str) -> tuple[Tracer, Any]:
    exporter = memory.InMemorySpanExporter()
    made = msgspec.structs.replace(config, tracing=TracingConfig("http://127.0.0.1:1/v1/traces", ratio))
    return Tracer(made, process, exporter), exporter


def test_two_processes_make_one_trace(config: NodeConfig) -> None:
    gateway, first = tracing(config, 1.0, "gateway")
    engine, second = tracing(config, 1.0, "engine")
    gateway.gateway([ORDER], 1_000, 9_000)
    engine.engine([ORDER], 2_000, 6_000, 8_000, "")
    (order,) = first.get_finished_spans()
    spans = {span.name: span for span in second.get_finished_spans()}
    assert set(spans) == {"engine", "commit", "apply"}
    assert {span.context.trace_id for span in (order, *spans.values())} == {order.context.trace_id}
    assert order.parent is None
    assert spans["engine"].parent.span_id == order.context.span_id
    assert spans["commit"].parent.span_id == spans["apply"].parent.span_id == spans["engine"].context.span_id
    times = {name: (span.start_time, span.end_time) for name, span in spans.items()}
    assert times == {"engine": (2_000, 8_000), "commit": (2_000, 6_000), "apply": (6_000, 8_000)}
    assert (order.start_time, order.end_time) == (1_000, 9_000)
    assert dict(order.attributes) == {"command": "PlaceOrder", "command_id": "c:one", "product_id": "BTC-USD"}
    assert order.resource.attributes["service.name"] == "quorumbook-gateway"


def test_a_command_that_was_not_carried_out_says_why(config: NodeConfig) -> None:
    engine, exporter = tracing(config, 1.0, "engine")
    engine.engine([CancelAll("alice", "x")], 1, 0, 5, "OVERLOADED")
    (span,) = exporter.get_finished_spans()
    assert span.attributes["refusal"] == "OVERLOADED"


def test_spans_arrive_at_a_receiver_that_was_away(config: NodeConfig) -> None:
    """The spans go over the network with the exporter that nodes use. One request fails and is repeated."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="quorumbook[tracing] is not installed")
    from tests.otlp import receiving

    with receiving() as receiver:
        receiver.failures = 1
        made = msgspec.structs.replace(config, tracing=TracingConfig(receiver.url, 1.0))
        gateway = Tracer(made, "gateway")
        gateway.gateway([ORDER], 1_000, 9_000)
        gateway.close()
        (span,) = receiver.of("c:one")
        assert (span.name, span.begun_ns, span.ended_ns, span.instance) == ("order", 1_000, 9_000, "n1")
        assert not receiver.faults


def test_a_receiver_that_is_not_there_holds_nothing_up(config: NodeConfig) -> None:
    made = msgspec.structs.replace(config, tracing=TracingConfig("http://127.0.0.1:1/v1/traces", 1.0))
    gateway = Tracer(made, "gateway")
    begun = time.monotonic()
    gateway.gateway([ORDER] * 3_000, 1_000, 9_000)
    assert time.monotonic() - begun < 5.0, "spans go to a bounded queue"
    gateway.close()
    assert time.monotonic() - begun < CLOSE_S + 6.0


def test_sampling_is_a_share_and_the_same_in_every_process(config: NodeConfig) -> None:
    gateway, _ = tracing(config, 0.2, "gateway")
    engine, _ = tracing(config, 0.2, "engine")
    commands = [CancelAll("alice", f"x:{number}") for number in range(2_000)]
    chosen = [gateway.sampled(command) for command in commands]
    assert chosen == [engine.sampled(command) for command in commands]
    assert 300 < sum(ids is not None for ids in chosen) < 500
    assert len({ids.trace for ids in chosen if ids is not None}) == sum(ids is not None for ids in chosen)
    nothing, exporter = tracing(config, 0.0, "gateway")
    nothing.gateway(commands, 1, 2)
    assert not exporter.get_finished_spans()


def test_without_tracing_its_library_is_not_imported(config: NodeConfig) -> None:
    assert tracer_of(config, "gateway") is None
    program = "import sys, node.gateway.process, node.engine.process; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_its_absence_is_explained(config: NodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(SetupError, match=r"quorumbook\[tracing\]"):
        tracing(config, 1.0, "gateway")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('endpoint = "127.0.0.1:4318"', "tracing.endpoint"),
        ("ratio = 1.5", "tracing.ratio"),
        ("ratio = nan", "tracing.ratio"),
    ],
)
def test_faults_name_their_key(tmp_path: Path, line: str, key: str) -> None:
    path = initialise(tmp_path / "exchange", 1)[0]
    path.write_text(path.read_text().replace("\n[tracing]\n", f"\n[tracing]\n{line}\n", 1))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.key == key
