"""The figures that the FIX process counts."""

from __future__ import annotations

from node.fix.counting import FixCounts
from node.gateway.metrics import Metrics
from tests.unit.node.fix.harness import serving
from tests.waiting import until


def figures(counts: FixCounts) -> dict[str, dict[str, float]]:
    return {family.name: family.values for family in counts.families()}


async def test_sessions_messages_rejects_and_resends_are_counted() -> None:
    async with serving() as served:
        counts = served.server.counts
        client = await served.logged_on()
        client.order("one")
        await client.next("8")
        client.send("2", (7, 1), (16, 0))
        await client.next("4")
        client.send("D", (11, "no fields"))
        await client.next("3")
        client.send("zz9")
        await client.next()
        found = figures(counts)
        assert found["fix_sessions"] == {"orders": 1.0, "drop_copy": 0.0, "market_data": 0.0}
        assert found["fix_messages_received"] == {"D": 2.0, "2": 1.0, "other": 1.0}
        assert found["fix_messages_sent"]["3"] >= 1.0
        assert found["fix_messages_sent"]["A"] == 1.0
        stranger = await served.connect()
        stranger.logon(passphrase="wrong")
        assert (await stranger.next())[35] == "5"
        await until(lambda: figures(counts)["fix_logons_refused"][""] == 1.0)
        client.writer.write(client.encode("0")[:-4] + b"999\x01")
        await until(lambda: figures(counts)["fix_messages_garbled"][""] == 1.0)
        client.writer.close()
        await until(lambda: figures(counts)["fix_sessions"]["orders"] == 0.0)


async def test_a_gateway_shows_the_counts_of_other_processes() -> None:
    counts, metrics = FixCounts(), Metrics("n1", 0)
    counts.received("D")
    metrics.processes({"fix": counts.families(), "streams": None})
    text = metrics.render().decode()
    assert 'quorumbook_process_up{node="n1",process="fix"} 1.0' in text
    assert 'quorumbook_process_up{node="n1",process="streams"} 0.0' in text
    assert 'quorumbook_fix_messages_received_total{node="n1",type="D"} 1.0' in text
    assert 'quorumbook_fix_sessions{node="n1",service="orders"} 0.0' in text
    assert 'quorumbook_fix_connections{node="n1"} 0.0' in text
