"""Certificates, and which TLS connections they permit."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from node.config.file import load
from node.config.settings import NodeConfig
from node.deployment.setup import initialise
from node.errors import ConfigError
from node.tls import pki
from node.tls.certificates import check_tls

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[NodeConfig]:
    """Return the nodes of a cluster, and the first node of another one."""
    directory = tmp_path_factory.mktemp("pki")
    paths = [*initialise(directory / "a", cluster_id="a"), *initialise(directory / "b", 1, cluster_id="b")]
    return [load(path) for path in paths]


async def talk(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str | None, str | None]:
    """Connect over loopback. Returns whom the server sees and whom the client sees. Raises the error that the client
    sees when it is refused.
    """
    seen: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(pki.peer_node_id(writer.get_extra_info("ssl_object")))
        writer.write(b"x")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server)
    port = listener.sockets[0].getsockname()[1]
    async with listener, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        try:
            other = pki.peer_node_id(writer.get_extra_info("ssl_object"))
            # In TLS 1.3 a client learns that its certificate was refused when it reads.
            if await reader.read(1) != b"x":
                raise ConnectionResetError("refused")
            return await seen, other
        finally:
            writer.transport.abort()


async def test_two_nodes_know_each_other(configs: list[NodeConfig]) -> None:
    first, second = configs[0], configs[1]
    assert await talk(pki.server_context(first), pki.client_context(second)) == ("n2", "n1")


async def test_a_client_without_a_certificate_has_no_identity(configs: list[NodeConfig]) -> None:
    server = pki.server_context(configs[0], require_client_cert=False)
    assert await talk(server, pki.client_context(configs[1], with_cert=False)) == (None, "n1")
    assert await talk(server, pki.client_context(configs[1])) == ("n2", "n1")


async def test_a_certificate_is_required_between_nodes(configs: list[NodeConfig]) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await talk(pki.server_context(configs[0]), pki.client_context(configs[1], with_cert=False))


@pytest.mark.parametrize("required", [True, False])
async def test_another_cluster_is_refused_by_both_sides(configs: list[NodeConfig], required: bool) -> None:
    first, other = configs[0], configs[3]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await talk(pki.server_context(first), pki.client_context(other))
    trusting = pki.client_context(other)
    trusting.load_verify_locations(first.path(first.tls.ca))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await talk(pki.server_context(first, require_client_cert=required), trusting)


async def test_old_tls_is_refused(configs: list[NodeConfig]) -> None:
    old = pki.client_context(configs[1])
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await talk(pki.server_context(configs[0]), old)


async def test_a_client_that_compares_host_names_is_satisfied(configs: list[NodeConfig]) -> None:
    client = ssl.create_default_context(cafile=str(configs[0].path(configs[0].tls.ca)))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert client.check_hostname
    assert await talk(pki.server_context(configs[0], require_client_cert=False), client) == (None, "n1")


def test_the_names_in_a_certificate_are_read() -> None:
    authority = pki.make_authority("c", NOW)
    pair = pki.issue(authority, "n7", ["10.1.2.3", "exchange.example.org", "127.0.0.1"], NOW)
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["quorumbook-node-n7", "exchange.example.org", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3", "127.0.0.1"]
    assert pki.certified_node_id(certificate) == "n7"
    assert pki.certified_node_id(x509.load_pem_x509_certificate(authority.certificate)) is None
    assert certificate.not_valid_after_utc == NOW + datetime.timedelta(days=3650)


def test_a_certificate_with_two_node_names_names_no_node() -> None:
    pair = pki.issue(pki.make_authority("c", NOW), "n1", ["quorumbook-node-n2"], NOW)
    assert pki.certified_node_id(x509.load_pem_x509_certificate(pair.certificate)) is None


def test_keys_stay_out_of_reprs() -> None:
    pair = pki.make_authority("c", NOW)
    assert b"PRIVATE" in pair.key
    assert "PRIVATE" not in repr(pair)


@pytest.mark.parametrize(
    ("years", "text"),
    [(11, "expired on"), (-1, "is valid from")],
)
def test_a_certificate_out_of_date_is_refused(configs: list[NodeConfig], years: int, text: str) -> None:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=365 * years)

    def fault(key: str, what: str) -> ConfigError:
        return ConfigError("node.toml", key, what)

    check_tls(configs[0], fault)
    with pytest.raises(ConfigError, match=text):
        check_tls(configs[0], fault, moment)


def test_a_certificate_that_expired_before_its_authority_is_refused(configs: list[NodeConfig], tmp_path: Path) -> None:
    today = datetime.datetime.now(datetime.UTC)
    authority = pki.make_authority("a", today)
    old = pki.issue(authority, "n1", [], today - datetime.timedelta(days=4000))
    for name, data in (("ca.pem", authority.certificate), ("node.pem", old.certificate), ("node.key", old.key)):
        (tmp_path / name).write_bytes(data)
    config = msgspec.structs.replace(configs[0], directory=str(tmp_path))
    with pytest.raises(ConfigError, match=r"tls\.certificate: .*expired on"):
        check_tls(config, lambda key, text: ConfigError("node.toml", key, text))
