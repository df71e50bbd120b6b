"""A receiver of OTLP gets the traces of a real cluster's orders. The gateway and the leader contribute to one trace for
each order.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from loadtest.access import ClusterAccess
from loadtest.market import set_up, traders
from node.client import AsyncRestClient
from node.cluster_directory import KeyFile
from tests.real_cluster import SEED, MakeGround

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="quorumbook[tracing] is not installed")
from tests.otlp import Received, receiving

pytestmark = pytest.mark.cluster

ARRIVE_S = 20.0
"""The exporter sends a batch every five seconds."""


def test_an_order_is_one_trace_from_gateway_to_apply(make_ground: MakeGround) -> None:
    with receiving() as receiver:
        ground = make_ground({"tracing.endpoint": receiver.url, "tracing.ratio": 1.0})

        async def trade() -> None:
            access = ClusterAccess(ground.directory)
            await ground.cluster.wait_ready(ARRIVE_S)
            operator = access.client()
            people = traders(1, SEED)
            await set_up(operator, people)
            await operator.close()
            person, leader = people[0], await ground.cluster.leader()
            follower = next(node_id for node_id in access.https if node_id != leader)
            authority = (ground.directory / "ca.pem").read_text()
            key = KeyFile(person.key_id, person.secret, person.passphrase, person.account_id, access.natives, authority)
            for name, node_id in (("at-leader", leader), ("at-follower", follower)):
                client = AsyncRestClient([access.https[node_id]], key)
                body = {"product_id": "ETH-USD", "side": "buy", "price": "1", "size": "1", "client_oid": name}
                await client.place(body)
                await client.close()

        def found(name: str) -> list[Received]:
            return receiver.of(f"c:{name}")

        asyncio.run(trade())
        end = time.monotonic() + ARRIVE_S
        while time.monotonic() < end and min(len(found(name)) for name in ("at-leader", "at-follower")) < 4:
            time.sleep(0.1)
        for name in ("at-leader", "at-follower"):
            spans = {span.name: span for span in found(name)}
            assert set(spans) == {"order", "engine", "commit", "apply"}, spans
            order, engine = spans["order"], spans["engine"]
            assert len({span.trace for span in spans.values()}) == 1
            assert (order.parent, engine.parent) == (b"", order.span)
            assert spans["commit"].parent == spans["apply"].parent == engine.span
            assert (order.service, engine.service) == ("quorumbook-gateway", "quorumbook-engine")
            assert order.begun_ns <= engine.begun_ns <= spans["apply"].begun_ns <= engine.ended_ns <= order.ended_ns
            assert order.facts == {"command": "PlaceOrder", "command_id": f"c:{name}", "product_id": "ETH-USD"}
        assert found("at-leader")[0].trace != found("at-follower")[0].trace
        assert not receiver.faults
