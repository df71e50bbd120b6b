"""The metrics and the alerts: names follow Prometheus' rules, and each alert is silent in normal work and fires for its
cause.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from node.fix.counting import FixCounts
from node.fix.wire import encode
from node.gateway.metrics import Metrics, who
from node.native.protocol import MemberStatus, NodeStatus
from node.streams.process import families
from node.system.durations import EngineDurations

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "quorumbook.json"
PAGE = ROOT / "docs" / "operations.md"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed"
)

STATUS = NodeStatus(
    "n1",
    "trial",
    "leader",
    "n1",
    3,
    40,
    40,
    40,
    1,
    10,
    0,
    "",
    True,
    True,
    True,
    1.0,
    "0.1.0",
    "abi",
    [MemberStatus("n1", True, 40), MemberStatus("n2", True, 40, clock_skew=0.01)],
    mode="Ready",
    certificate_expires=1_900_000_000,
    counters={
        "commands_proposed": 7,
        "commands_queued": 1,
        "native_refused_not_leader": 15,
        "native_refused_unauthorized": 2,
        "raft_refused_handshake": 3,
        "raft_refused_certificate": 1,
        "state_digests_compared": 9,
        "snapshot_pause_last_ms": 20,
        "disk_free_bytes": 5,
        "disk_size_bytes": 10,
        "snapshot_timestamp_seconds": 1_700_000_000,
    },
    durations=EngineDurations().freeze(),
)


def rendered() -> str:
    """Return what Prometheus reads from a node that has counted at least one of everything."""
    metrics = Metrics("n1", 0)
    metrics.engine(STATUS)
    metrics.request("POST", "/orders", 200, 0.01)
    metrics.cut_off("slow")
    metrics.refused("malformed")
    metrics.history({"behind": 3, "gaps": 0})
    counts = FixCounts()
    counts.received("D")
    counts.sent(encode("QUORUMBOOK", "key", 1, [(35, "8")], 0))
    metrics.processes({"fix": counts.families(), "streams": families(40, 7, 0, publishes=True)})
    return metrics.render().decode()


def rules() -> list[dict[str, Any]]:
    """Return the alerts."""
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [dict(rule) for rule in group["rules"]]


def names(text: str) -> set[str]:
    """Return the names of the metrics in a text."""
    return set(re.findall(r"\b(quorumbook_[a-z0-9_]+)", text))


@pytest.mark.parametrize(
    ("port", "kind", "expected"),
    [
        ("native", "not_leader", "state"),
        ("native", "rate_limited", "client"),
        ("native", "unauthorized", "stranger"),
        ("raft", "handshake", "member"),
        ("raft", "certificate", "stranger"),
        ("raft", "unknown_node", "stranger"),
    ],
)
def test_unknown_callers_and_redirected_clients_are_counted_apart(port: str, kind: str, expected: str) -> None:
    """Formerly the alert on unknown callers rose with each command that reached a follower, and with a peer that was
    paused.
    """
    assert who(port, kind) == expected


def test_every_counter_has_the_type_counter() -> None:
    text = rendered()
    assert 'quorumbook_refused_total{by="state",kind="not_leader",node="n1",port="native"} 15.0' in text
    assert 'quorumbook_refused_total{by="stranger",kind="certificate",node="n1",port="raft"} 1.0' in text
    assert 'quorumbook_commands_proposed_total{node="n1"} 7.0' in text
    assert "# TYPE quorumbook_commands_queued gauge" in text
    assert 'quorumbook_build_info{abi="abi",node="n1",software="0.1.0"} 1.0' in text


def there() -> set[str]:
    """Return the metrics that a node has."""
    found = {line.split("{")[0].split(" ")[0] for line in rendered().splitlines() if not line.startswith("#")}
    return found | {
        "quorumbook_state_digests_differing_total",
        "quorumbook_state_digests_undecided_total",
        "quorumbook_snapshots_not_taken_total",
    }


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    shown = {name for panel in dashboard["panels"] for target in panel["targets"] for name in names(target["expr"])}
    assert len(shown) > 20
    assert shown - there() == set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places), "no panel overlaps another"


def test_every_alert_has_a_runbook() -> None:
    for rule in rules():
        page = ROOT / rule["annotations"]["runbook"]
        assert page == ROOT / "docs" / "runbooks" / f"{rule['alert']}.md"
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {rule['alert']}\n")
        assert {"## Check", "## Fix", "## Resolved"} <= set(text.splitlines())
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert (page.parent / link).exists(), f"{page}: {link}"
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {rule["alert"] for rule in rules()}, "and no page is left over"


def test_each_metric_has_one_meaning_and_its_unit_in_its_name() -> None:
    """Prometheus' naming rules are at https://prometheus.io/docs/practices/naming/."""
    text = rendered()
    assert 'what="' not in text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, flags=re.MULTILINE))
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items() if not name.endswith("_created")), (
        kinds
    )
    assert not [name for name in kinds if re.search(r"_(ms|us|milliseconds|kb|mb)$", name)]
    assert all(name.endswith("_seconds") for name, kind in kinds.items() if kind == "histogram")


def test_alerts_and_the_page_name_metrics_that_exist() -> None:
    watching = PAGE.read_text(encoding="utf-8").partition("## Watching")[2].partition("\n## ")[0]
    for text in (watching, *(rule["expr"] for rule in rules())):
        assert {name for name in names(text) if name not in there() and f"{name}_bucket" not in there()} == set()
    assert names(watching) >= {name.removesuffix("_bucket") for rule in rules() for name in names(rule["expr"])}


@needs_promtool
def test_promtool_finds_nothing_wrong() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=rendered(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


NORMAL = {
    'up{job="quorumbook",instance="a"}': "1x120",
    'quorumbook_engine_up{node="n1"}': "1x120",
    'quorumbook_node_role{node="n1",role="leader"}': "1x120",
    'quorumbook_node_role{node="n2",role="leader"}': "0x120",
    'quorumbook_raft_term{node="n1"}': "3x60 4x60",
    'quorumbook_raft_applied_index{node="n1"}': "0+1000x120",
    'quorumbook_raft_applied_index{node="n2"}': "0+999x120",
    'quorumbook_ready{node="n1"}': "1x120",
    'quorumbook_state_digests_differing_total{node="n1"}': "0x120",
    'quorumbook_state_digests_undecided_total{node="n1"}': "0x120",
    'quorumbook_member_connected{node="n1",member="n2"}': "1x120",
    'quorumbook_member_connected{node="n2",member="n3"}': "0x120",
    'quorumbook_refused_total{node="n1",port="native",kind="not_leader",by="state"}': "0+50x120",
    'quorumbook_refused_total{node="n1",port="raft",kind="handshake",by="member"}': "0+50x120",
    'quorumbook_snapshots_not_taken_total{node="n1"}': "0x120",
    'quorumbook_history_behind_commands{node="n1"}': "70x120",
    'quorumbook_history_gaps{node="n1"}': "0x120",
    'quorumbook_http_requests_total{node="n1",status="503"}': "0x60 1x60",
    'quorumbook_http_request_duration_seconds_bucket{node="n1",method="POST",le="0.1"}': "0+99x120",
    'quorumbook_http_request_duration_seconds_bucket{node="n1",method="POST",le="2.5"}': "0+100x120",
    'quorumbook_http_request_duration_seconds_bucket{node="n1",method="POST",le="+Inf"}': "0+100x120",
    'quorumbook_certificate_expires_timestamp_seconds{node="n1"}': "300000000x120",
    'quorumbook_member_clock_skew_seconds{node="n1",member="n2"}': "0.02x120",
    'quorumbook_fsync_duration_seconds_bucket{node="n1",le="0.02"}': "0+100x120",
    'quorumbook_fsync_duration_seconds_bucket{node="n1",le="+Inf"}': "0+100x120",
    'quorumbook_commit_duration_seconds_bucket{node="n1",le="0.1"}': "0+100x120",
    'quorumbook_commit_duration_seconds_bucket{node="n1",le="0.5"}': "0+100x120",
    'quorumbook_commit_duration_seconds_bucket{node="n1",le="+Inf"}': "0+100x120",
    'quorumbook_commands_queued{node="n1"}': "900x120",
    'quorumbook_disk_free_bytes{node="n1"}': "500x120",
    'quorumbook_disk_size_bytes{node="n1"}': "1000x120",
    'quorumbook_process_up{node="n1",process="fix"}': "1x120",
    'quorumbook_fix_messages_sent_total{node="n1",type="3"}': "0+1x120",
    'quorumbook_fix_messages_sent_total{node="n1",type="8"}': "0+900x120",
    'quorumbook_fix_logons_refused_total{node="n1"}': "0x120",
    'quorumbook_streams_publishing{node="n1"}': "1x120",
    'quorumbook_streams_publishing{node="n2"}': "0x120",
    'quorumbook_streams_log_index{node="n1"}': "1000000000x120",
    'quorumbook_build_info{node="n1",abi="a"}': "1x120",
    'quorumbook_build_info{node="n2",abi="a"}': "1x120",
}
"""Series of ten minutes, a value each five seconds, in which nothing is wrong: clients are led on, one member paused,
one election, one 503.
"""

WRONG = {
    "QuorumbookNodeDown": {'quorumbook_engine_up{node="n1"}': "0x120"},
    "QuorumbookNoLeader": {'quorumbook_node_role{node="n1",role="leader"}': "0x120"},
    "QuorumbookElections": {'quorumbook_raft_term{node="n1"}': "3+1x120"},
    "QuorumbookNodeBehind": {'quorumbook_raft_applied_index{node="n2"}': "0x120"},
    "QuorumbookNotReady": {'quorumbook_ready{node="n1"}': "0x120"},
    "QuorumbookStatesDiffer": {'quorumbook_state_digests_undecided_total{node="n1"}': "1x120"},
    "QuorumbookMemberGone": {'quorumbook_member_connected{node="n1",member="n2"}': "0x120"},
    "QuorumbookStrangers": {'quorumbook_refused_total{node="n1",port="raft",kind="certificate",by="stranger"}': "0+5x120"},
    "QuorumbookSnapshotsRefused": {'quorumbook_snapshots_not_taken_total{node="n1"}': "0+1x120"},
    "QuorumbookHistoryBehind": {'quorumbook_history_gaps{node="n1"}': "1x120"},
    "QuorumbookProcessDown": {'quorumbook_process_up{node="n1",process="fix"}': "0x120"},
    "QuorumbookFixRejects": {'quorumbook_fix_messages_sent_total{node="n1",type="3"}': "0+10x120"},
    "QuorumbookStreamBehind": {'quorumbook_streams_publishing{node="n1"}': "0x120"},
    "QuorumbookErrors": {'quorumbook_http_requests_total{node="n1",status="503"}': "0+10x120"},
    "QuorumbookSlow": {'quorumbook_http_request_duration_seconds_bucket{node="n1",method="POST",le="0.1"}': "0+90x120"},
    "QuorumbookSlowFsync": {
        'quorumbook_fsync_duration_seconds_bucket{node="n1",le="0.02"}': "0+90x120",
        'quorumbook_fsync_duration_seconds_bucket{node="n1",le="0.2"}': "0+100x120",
    },
    "QuorumbookSlowCommit": {'quorumbook_commit_duration_seconds_bucket{node="n1",le="0.1"}': "0+90x120"},
    "QuorumbookQueue": {'quorumbook_commands_queued{node="n1"}': "6000x120"},
    "QuorumbookDiskFull": {'quorumbook_disk_free_bytes{node="n1"}': "50x120"},
    "QuorumbookCertificateEnds": {'quorumbook_certificate_expires_timestamp_seconds{node="n1"}': "1000000x120"},
    "QuorumbookClockSkew": {'quorumbook_member_clock_skew_seconds{node="n1",member="n2"}': "-0.9x120"},
    "QuorumbookSeveralAbis": {'quorumbook_build_info{node="n2",abi="b"}': "1x120"},
}
"""By alert: what is otherwise then."""


@needs_promtool
def test_each_alert_fires_for_its_cause_only(tmp_path: Path) -> None:
    assert {rule["alert"] for rule in rules()} == set(WRONG)
    expected: list[tuple[str, dict[str, str]]] = [("", {}), *WRONG.items()]
    tests = []
    for alert, changed in expected:
        series = [{"series": name, "values": values} for name, values in {**NORMAL, **changed}.items()]
        fired = 'count by (alertname) (ALERTS{alertstate="firing"})'
        samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
        tests.append(
            {
                "interval": "5s",
                "input_series": series,
                "promql_expr_test": [{"expr": f"{fired} > bool 0", "eval_time": "9m55s", "exp_samples": samples}],
            }
        )
    path = tmp_path / "tests.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "5s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_status_without_counters_is_not_a_fault() -> None:
    metrics = Metrics("n1", 0)
    metrics.engine(msgspec.structs.replace(STATUS, counters={}))
    assert "quorumbook_node_role" in metrics.render().decode()
