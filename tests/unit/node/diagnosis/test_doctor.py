"""The doctor finds each fault, says what to do, and never ends with an exception."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509

from cluster.log import DurableLog
from cluster.messages import COMMAND
from cluster.ports import LogEntry
from cluster.storage import RealDisk
from node.cluster_directory import REMOVED
from node.config.file import load
from node.deployment.setup import initialise
from node.diagnosis import doctor as doctors
from node.diagnosis.doctor import Doctor
from node.diagnosis.findings import Finding, Severity, worst
from node.system.processes import PID_FILE, PidFile
from node.tls.certificates import validity
from snapshots.abi import ABI
from tests.ports import free_port
from tests.unit.node.diagnosis.statuses import member, status


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the configuration of a node that has never run."""
    return initialise(tmp_path / "exchange", 3, base_port=free_port())[0]


def found(path: Path, check: str, **options: object) -> list[Finding]:
    """Return the findings of one check."""
    return [finding for finding in Doctor(path, **options).examine() if finding.check == check]  # type: ignore[arg-type]


def write_log(data: Path, entries: int) -> Path:
    """Write a log of some entries. Returns its file."""
    log = DurableLog(RealDisk(data / "log"), node_id="n1", abi=ABI)
    log.load()
    for index in range(1, entries + 1):
        log.append(LogEntry(bytes([COMMAND]) + b"x" * 50, index, 1))
    log.close()
    (segment,) = (data / "log").glob("log-*.seg")
    return segment


def test_a_fresh_node_is_fit(path: Path) -> None:
    findings = Doctor(path).examine()
    bad = {finding.check for finding in findings if finding.level}
    assert bad <= {"other nodes", "clock", "limits", "versions", "disk space", "fsync"}, (
        "only checks of the machine and of other nodes may fail"
    )
    assert worst(found(path, "configuration")) is Severity.OK
    assert {finding.check for finding in findings} >= {"log", "snapshots", "ports", "data directory", "certificates"}
    assert not list(load(path).data_path.glob(".doctor*")), "the doctor removes its files"


def test_every_bad_finding_has_an_advice(path: Path) -> None:
    assert all(finding.advice for finding in Doctor(path).examine() if finding.level in (Severity.WARNING, Severity.CRITICAL))


def test_a_file_system_that_cannot_be_written_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly the advice was to change the owner of the files."""
    read_only = SimpleNamespace(f_flag=os.ST_RDONLY, f_frsize=4096, f_blocks=1 << 30, f_bfree=1 << 29, f_bavail=1 << 29)
    monkeypatch.setattr(os, "statvfs", lambda _path: read_only)
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    bad = [finding for finding in found(path, "data directory") if finding.level]
    assert ["is read-only" in finding.text for finding in bad] == [True]


def test_only_members_are_expected_to_answer(path: Path) -> None:
    """Formerly it said for ever that a removed node has to be started."""
    members = [member("n1", raft="127.0.0.1:2"), member("n4", raft="127.0.0.1:1")]
    (finding,) = found(path, "other nodes", status=status("n1", members=members))
    assert "n4 at 127.0.0.1:1" in finding.text
    (path.parent.parent / REMOVED).write_text("n2\n")
    (finding,) = found(path, "other nodes")
    assert finding.text.startswith("n3 at ")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("[raft]", "[raft]\nhartbeat = 0.05", "did you mean"),
        ('listen = "127.0.0.1:', 'listen = "127.0.0.1:x', "expected host:port"),
        ("[raft]", "[raft", "node.toml"),
    ],
)
def test_a_wrong_configuration_is_a_finding(path: Path, old: str, new: str, text: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    (finding,) = found(path, "configuration")
    assert finding.level is Severity.CRITICAL
    assert text in finding.text


def test_a_missing_configuration_is_a_finding(tmp_path: Path) -> None:
    (finding,) = found(tmp_path / "node.toml", "configuration")
    assert finding.level is Severity.CRITICAL


def test_a_certificate_that_ends_soon_or_has_ended_is_a_finding(path: Path) -> None:
    ends = validity(x509.load_pem_x509_certificate((path.parent / "node.pem").read_bytes())).ends
    for seconds, level in (
        (40 * 86_400, Severity.OK),
        (20 * 86_400, Severity.WARNING),
        (3 * 86_400, Severity.CRITICAL),
        (-9, Severity.CRITICAL),
    ):
        now = ends - seconds
        own = [finding for finding in found(path, "certificates", now=lambda now=now: now) if "node.pem" in finding.text]
        assert [finding.level for finding in own] == [level]
    assert "expired" in own[0].text
    assert "pki renew" in own[0].advice


def test_a_missing_or_foreign_data_directory_is_a_finding(path: Path) -> None:
    other = path.parents[1] / "n2" / "data" / "identity.json"
    shutil.copy(other, load(path).data_path / "identity.json")
    (finding,) = found(path, "data directory")
    assert finding.level is Severity.CRITICAL
    assert "'n2'" in finding.text
    shutil.rmtree(load(path).data_path)
    assert worst(found(path, "data directory")) is Severity.CRITICAL
    assert found(path, "disk space")[0].level is Severity.UNKNOWN, "an unreadable disk is a finding, not an exception"


def test_a_port_in_use_is_a_finding(path: Path) -> None:
    host, _, port = load(path).native.listen.rpartition(":")
    with socket.create_server((host, int(port))):
        bad = [finding for finding in found(path, "ports") if finding.level]
    assert [(finding.level, "native" in finding.text) for finding in bad] == [(Severity.CRITICAL, True)]
    assert "ss -ltnp" in bad[0].advice


def test_a_damaged_log_is_a_finding_and_a_sound_one_is_not(path: Path) -> None:
    segment = write_log(load(path).data_path, 30)
    assert "30 entries" in found(path, "log")[0].text
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    (finding,) = found(path, "log")
    assert finding.level is Severity.CRITICAL
    assert "checksum" in finding.text
    assert segment.read_bytes() == data, "nothing was changed"


def test_the_doctor_examines_a_running_node(path: Path) -> None:
    write_log(load(path).data_path, 30)
    pid_file = PidFile.acquire(load(path).data_path / PID_FILE)
    try:
        node_status = status("n1", "leader", applied_index=20, members=[member("n1"), member("n2", clock_skew=2.0)], abi=ABI)
        assert "that the node has applied" in found(path, "log", status=node_status)[0].text
        assert found(path, "log")[0].level is Severity.UNKNOWN, "the applied index of a silent node is not known"
        assert any("+2.000 s" in finding.text and finding.level for finding in found(path, "clock", status=node_status))
        assert all(finding.level is Severity.CRITICAL for finding in found(path, "ports", status=node_status)), (
            "nobody listens there"
        )
        other = status("n1", abi="another")
        assert any("another one" in finding.text for finding in found(path, "versions", status=other))
    finally:
        pid_file.release()


def test_a_slow_or_full_disk_is_a_finding(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctors, "sync_times", lambda _directory, _count: [0.001] * 39 + [0.05])
    assert found(path, "fsync")[0].level is Severity.WARNING
    monkeypatch.setattr(doctors, "sync_times", lambda _directory, _count: [0.5] * 40)
    assert found(path, "fsync")[0].level is Severity.CRITICAL
    for free, level in ((9 * 10**11, Severity.OK), (10**11, Severity.WARNING), (10**10, Severity.CRITICAL)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: SimpleNamespace(free=free, total=10**12))
        assert found(path, "disk space")[0].level is level


def test_fsync_that_is_off_is_critical(path: Path) -> None:
    path.write_text(path.read_text().replace("[raft]", "[raft]\nfsync = false", 1))
    assert any(finding.level is Severity.CRITICAL for finding in found(path, "fsync"))


def test_a_damaged_snapshot_is_a_finding(path: Path) -> None:
    broken = load(path).data_path / "snapshots" / f"{7:020d}"
    broken.mkdir(parents=True)
    (broken / "SEAL").write_bytes(b"nonsense")
    (finding,) = found(path, "snapshots")
    assert finding.level is Severity.CRITICAL
