"""Certificates expire, cause a warning, and are renewed while a node runs."""

from __future__ import annotations

import asyncio
import datetime
import logging
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509

from node import exit_codes
from node.cli import main
from node.cluster_directory import ClusterDirectory, KeyFile
from node.config.file import load
from node.config.settings import NodeConfig
from node.deployment.renewing import FORMER_KEY, begin_roll, certificates_of, finish_roll, renew
from node.deployment.setup import Host, initialise
from node.errors import ConfigError, SetupError
from node.system import files
from node.tls import pki
from node.tls.certificates import DAY, CertificateWatch, expiry

LONG = datetime.timedelta(days=3650)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    initialise(tmp_path / "c", [Host("n1", "10.0.0.1"), Host("n2", "10.0.0.2"), Host("n3", "10.0.0.3")], cluster_id="c")
    return tmp_path / "c"


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def config_of(directory: Path, node_id: str = "n1") -> NodeConfig:
    return load(directory / node_id / "node.toml")


async def serial_seen(server: ssl.SSLContext, client: ssl.SSLContext) -> int:
    """Return the serial number of the certificate that a client sees. Raises the error that it sees if either side
    refuses the other.
    """

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server)
    async with listener, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.sockets[0].getsockname()[1], ssl=client)
        try:
            if await reader.read(1) != b"x":
                raise ConnectionResetError("refused")
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(der).serial_number
        finally:
            writer.transport.abort()


async def test_a_renewed_certificate_is_shown_by_contexts_that_are_in_use(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Formerly nodes had to be restarted, and no command renewed a certificate."""
    caplog.set_level(logging.INFO)
    first, second = config_of(directory), config_of(directory, "n2")
    watches = [CertificateWatch(first), CertificateWatch(second)]
    server, client = pki.server_context(first), pki.client_context(second)
    before = await serial_seen(server, client)
    made = renew(ClusterDirectory(directory), ["n1", "n2"], now(), datetime.timedelta(days=100))
    assert await serial_seen(server, client) == before
    for watch in watches:
        watch.look()
    after = await serial_seen(server, client)
    assert f"{after:x}" == made["n1"].serial
    assert after != before
    assert watches[0].expires == made["n1"].ends
    assert "the certificate of n1 is renewed" in caplog.text


async def test_an_authority_is_changed_while_all_trust_each_other(directory: Path) -> None:
    layout = ClusterDirectory(directory)
    configs = [config_of(directory, node_id) for node_id in ("n1", "n2")]
    watches = [CertificateWatch(config) for config in configs]
    server, client = pki.server_context(configs[0]), pki.client_context(configs[1])

    async def all_is_well() -> None:
        """Check that old processes, new processes and operators reach each other."""
        fresh = [load(config.path("node.toml")) for config in configs]
        operator = pki.trusting_context(msgspec.json.decode((directory / "admin.json").read_bytes(), type=KeyFile).ca)
        await serial_seen(server, client)
        await serial_seen(pki.server_context(fresh[1]), client)
        await serial_seen(server, pki.client_context(fresh[1]))
        await serial_seen(pki.server_context(fresh[0], require_client_cert=False), operator)

    begin_roll(layout, now())
    with pytest.raises(SetupError, match="another authority is trusted already"):
        begin_roll(layout, now())
    with pytest.raises(SetupError, match="n1, n2, n3: still with a certificate of the former authority"):
        finish_roll(layout)
    for step in (lambda: None, lambda: renew(layout, ["n1"], now(), LONG), lambda: renew(layout, ["n2", "n3"], now(), LONG)):
        step()
        for watch in watches:
            watch.look()
        await all_is_well()
    assert finish_roll(layout) == ["n1", "n2", "n3"]
    await all_is_well()
    found = certificates_of(layout)
    assert [each.place for each in found] == ["authority", "n1", "n2", "n3"]
    assert all(each.trusted for each in found)
    assert not (directory / FORMER_KEY).exists()
    with pytest.raises(SetupError, match="nothing to finish"):
        finish_roll(layout)


def interrupted(monkeypatch: pytest.MonkeyPatch, step: Callable[[], object], at: int) -> bool:
    """Return whether an interruption ends a step before it writes its file number `at`, counted from 0."""
    replace, written = files.replace, 0

    def write(path: Path, data: bytes, mode: int = 0o644) -> None:
        nonlocal written
        if written == at:
            raise KeyboardInterrupt
        written += 1
        replace(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", write)
        try:
            step()
        except KeyboardInterrupt:
            return True
    return False


def test_an_interrupted_renewal_can_be_repeated(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly a node did not start if it was interrupted between the two files, and no command of the cluster ran,
    this one included.
    """
    unfit: list[str] = []
    for at in range(7):
        stopped = interrupted(monkeypatch, lambda: renew(ClusterDirectory(directory), ["n1", "n2", "n3"], now(), LONG), at)
        assert stopped is (at < 6)
        for node_id in ("n1", "n2", "n3"):
            try:
                config_of(directory, node_id)
            except ConfigError as error:
                unfit.append(str(error))
        renew(ClusterDirectory(directory), ["n1", "n2", "n3"], now(), LONG)
        assert all(each.trusted for each in certificates_of(ClusterDirectory(directory)))
        assert [config_of(directory, node_id).node_id for node_id in ("n1", "n2", "n3")] == ["n1", "n2", "n3"]
    assert len(unfit) == 3
    assert all("`quorumbook pki renew` was interrupted, repeat it" in text for text in unfit)


def test_an_interrupted_roll_can_be_repeated(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly certificates that were renewed after an interrupted begin were signed by a key that no node trusted."""
    former = (directory / "ca.key").read_bytes()
    for at in range(8):
        layout = ClusterDirectory(directory)
        if not interrupted(monkeypatch, lambda layout=layout: begin_roll(layout, now()), at):  # type: ignore[misc]
            break
        assert at == 0 or (directory / FORMER_KEY).read_bytes() == former
        if (directory / "ca.key").read_bytes() != former:
            with pytest.raises(SetupError, match="repeat it"):
                renew(layout, ["n1"], now(), LONG)
    assert at == 6, "each file was the last one that was written once"
    assert (directory / FORMER_KEY).read_bytes() == former
    renew(ClusterDirectory(directory), ["n1", "n2", "n3"], now(), LONG)
    for at in range(6):
        layout = ClusterDirectory(directory)
        if not interrupted(monkeypatch, lambda layout=layout: finish_roll(layout), at):  # type: ignore[misc]
            break
    assert all(each.trusted for each in certificates_of(ClusterDirectory(directory)))
    assert len(certificates_of(ClusterDirectory(directory))) == 4


def test_a_renewed_certificate_names_the_hosts_of_its_node(directory: Path) -> None:
    renew(ClusterDirectory(directory), ["n2"], now(), LONG)
    certificate = x509.load_pem_x509_certificate((directory / "n2" / "node.pem").read_bytes())
    assert "10.0.0.2" in pki.certified_hosts(certificate)
    assert pki.certified_node_id(certificate) == "n2"
    assert (directory / "n2" / "node.key").stat().st_mode & 0o777 == 0o600


def test_no_certificate_outlives_its_authority(directory: Path) -> None:
    """Each ends at another second than the one before, because a running node tells only when its certificate ends."""
    layout = ClusterDirectory(directory)
    first, second = (renew(layout, ["n1"], now(), datetime.timedelta(days=36_500))["n1"].ends for _ in range(2))
    assert {first, second} <= {certificates_of(layout)[0].validity.ends, certificates_of(layout)[0].validity.ends - 1}
    assert first != second


def test_files_that_do_not_fit_leave_the_former_ones_in_use(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_of(directory)
    watch = CertificateWatch(config)
    expires = watch.expires
    other = (directory / "n2" / "node.pem").read_bytes()
    (directory / "n1" / "node.pem").write_bytes(other)
    watch.look()
    watch.look()
    assert caplog.text.count("is not renewed, and the previous one stays in use") == 1
    assert watch.expires == expires
    (directory / "n1" / "node.pem").unlink()
    watch.look()
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(("days_before", "warnings"), [(32, 0), (29, 1), (0.5, 1)])
def test_an_end_is_warned_of_once_a_day(
    directory: Path, caplog: pytest.LogCaptureFixture, days_before: float, warnings: int
) -> None:
    config = config_of(directory)
    time = [0.0]
    watch = CertificateWatch(config, clock=lambda: time[0])
    time[0] = watch.expires - days_before * DAY
    for _ in range(5):
        watch.look()
    assert caplog.text.count("quorumbook pki renew") == warnings
    time[0] += DAY
    watch.look()
    assert caplog.text.count("quorumbook pki renew") == (2 if warnings else 0)


def test_an_expired_certificate_is_logged(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    time = [0.0]
    watch = CertificateWatch(config_of(directory), clock=lambda: time[0])
    time[0] = watch.expires - 10.0
    watch.look()
    assert "HAS EXPIRED" not in caplog.text
    time[0] += 15.0
    for _ in range(3):
        watch.look()
    assert caplog.text.count("the certificate of n1 HAS EXPIRED on") == 1


def test_the_status_names_the_certificate_of_a_node_that_does_not_answer(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    initialise(directory, 3, base_port=1200)
    renew(ClusterDirectory(directory), ["n2"], now() - datetime.timedelta(days=2), datetime.timedelta(days=1))
    shown = CliRunner().invoke(main, ["cluster", "status", "--cluster", str(directory)])
    assert shown.exit_code == exit_codes.UNAVAILABLE
    lines = [line for line in shown.output.splitlines() if "certificate" in line]
    assert re.fullmatch(r"the certificate of n2 HAS EXPIRED on .*; renew it: quorumbook pki renew", lines[0])
    assert re.fullmatch(r"certificates valid until .* \(n1\)", lines[1])


def test_a_certificate_ends_with_its_authority(tmp_path: Path) -> None:
    begin = now() - LONG + datetime.timedelta(days=3)
    (path,) = initialise(tmp_path / "c", 1, now=begin)
    config = load(path)
    fresh = pki.issue(
        pki.KeyPair((tmp_path / "c" / "ca.pem").read_bytes(), (tmp_path / "c" / "ca.key").read_bytes()), "n1", ["h"], now()
    )
    config.path(config.tls.certificate).write_bytes(fresh.certificate)
    ends = expiry(config.path(config.tls.certificate), config.path(config.tls.ca))
    assert abs(ends - (begin + LONG).timestamp()) <= 1


def test_an_ended_authority_cannot_sign(tmp_path: Path) -> None:
    initialise(tmp_path / "c", 1)
    layout = ClusterDirectory(tmp_path / "c")
    with pytest.raises(SetupError, match="roll --begin"):
        renew(layout, ["n1"], now() + LONG + datetime.timedelta(days=1), LONG)


def test_an_ended_certificate_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expired on"):
        initialise(tmp_path / "c", 1, now=now() - LONG - datetime.timedelta(days=2))


def test_an_ended_certificate_can_be_renewed(directory: Path) -> None:
    past = now() - datetime.timedelta(days=2)
    renew(ClusterDirectory(directory), ["n2"], past, datetime.timedelta(days=1))
    with pytest.raises(ConfigError, match=r"tls\.certificate: .* expired on"):
        config_of(directory, "n2")
    renewed = CliRunner().invoke(main, ["pki", "renew", "--node", "n2", "--cluster", str(directory)])
    assert renewed.exit_code == 0, renewed.output
    assert renewed.output.startswith("n2: valid until")
    assert config_of(directory, "n2").node_id == "n2"
