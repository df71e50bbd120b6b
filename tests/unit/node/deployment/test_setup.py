"""What `quorumbook init` writes, and what it refuses."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from node.cluster_directory import KeyFile
from node.config.file import load
from node.data_directory import identity
from node.deployment.setup import Host, initialise
from node.errors import SetupError
from node.keys.encryption import read_keys
from node.supervisor import children
from node.system import files


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_cluster_of_any_size_loads(tmp_path: Path, count: int) -> None:
    paths = initialise(tmp_path / "c", count, base_port=9000, cluster_id="x")
    assert [path.parent.name for path in paths] == [f"n{number}" for number in range(1, count + 1)]
    configs = [load(path) for path in paths]
    assert {config.cluster_id for config in configs} == {"x"}
    assert len({config.admin for config in configs}) == 1
    assert all(config.nodes == configs[0].nodes for config in configs)
    assert configs[-1].raft.listen == f"127.0.0.1:{9000 + count}"
    assert configs[-1].native.listen == f"127.0.0.1:{9010 + count}"
    assert configs[-1].http.public_url == f"http://127.0.0.1:{9020 + count}"
    identities = [identity.read(config) for config in configs]
    assert [each.stage for each in identities] == [identity.Stage.NEW] * count
    assert len({each.incarnation for each in identities}) == count


def test_the_operators_key_is_that_of_the_nodes(tmp_path: Path) -> None:
    path = initialise(tmp_path / "c", 1)[0]
    admin = msgspec.json.decode((tmp_path / "c" / "admin.json").read_bytes(), type=KeyFile)
    config = load(path)
    assert (admin.key_id, admin.secret, admin.passphrase) == (config.admin.key_id, config.admin.secret, config.admin.passphrase)
    assert admin.nodes == {"n1": config.native.listen}
    assert admin.ca == config.path(config.tls.ca).read_text()


def test_secrets_are_for_the_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    initialise(directory, 1)
    for name in ("ca.key", "admin.json", "n1/node.key", "n1/node.toml", "n1/cluster.key"):
        assert mode(directory / name) == 0o600, name
    for name in (".", "n1", "n1/data"):
        assert mode(directory / name) == 0o700, name


def test_two_clusters_share_nothing(tmp_path: Path) -> None:
    first, second = (load(initialise(tmp_path / name, 1)[0]) for name in ("a", "b"))
    assert first.cluster_id != second.cluster_id
    assert first.admin.secret != second.admin.secret
    assert read_keys(first.cluster_key_path) != read_keys(second.cluster_key_path)


def test_the_nodes_share_the_cluster_s_keys(tmp_path: Path) -> None:
    configs = [load(path) for path in initialise(tmp_path / "c", 3)]
    keys = [read_keys(config.cluster_key_path) for config in configs]
    assert keys[0] == keys[1] == keys[2]
    assert list(keys[0]) == [1]
    (successor,) = initialise(tmp_path / "d", 1, cluster_keys={3: bytes(64)})
    assert read_keys(load(successor).cluster_key_path) == {3: bytes(64)}


def test_node_ids_and_host_can_be_chosen(tmp_path: Path) -> None:
    paths = initialise(tmp_path / "c", [Host(name, "::1") for name in ("zurich", "berlin-2", "oslo_1")], base_port=500)
    config = load(paths[1])
    assert config.node_id == "berlin-2"
    assert config.raft.listen == "[::1]:502"
    assert config.http.public_url == "http://[::1]:522"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"nodes": 2}, "expected 1, 3 or 5 nodes, not 2"),
        ({"nodes": 0}, "expected 1, 3 or 5 nodes, not 0"),
        ({"nodes": [Host("a", "h"), Host("b", "h"), Host("a", "h")]}, "expected each once"),
        ({"nodes": [Host("../x", "h")]}, "node id '../x': expected"),
        ({"cluster_id": 'x"y'}, "cluster id 'x\"y': expected"),
        ({"host": "a b"}, "host 'a b' of n1: expected a host name or IP address"),
        ({"host": "10.0.0.1:80"}, "host '.10.0.0.1:80.' of n1: expected a host name or IP address, without a port"),
        ({"host": "10.0.0.256"}, "host '10.0.0.256' of n1: expected"),
        ({"base_port": 65530}, "ports from 1 to 65535"),
        ({"base_port": -5}, "ports from 1 to 65535"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tmp_path: Path, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(SetupError, match="^.*" + text.replace("(", r"\(")):
        initialise(tmp_path / "c", **arguments)  # type: ignore[arg-type] # parametrised
    assert not (tmp_path / "c").exists()


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SetupError, match="is not empty; name another directory: its contents are not a cluster"):
        initialise(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(SetupError, match="is a file"):
        initialise(tmp_path / "mine.txt")


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    initialise(tmp_path, 1)
    assert (tmp_path / "n1" / "node.toml").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SetupError, match="cannot be written: Not a directory"):
        initialise(tmp_path / "file" / "c")


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly the next attempt failed because of what the first one had left."""
    written: list[Path] = []
    write = files.write_new

    def write_new(path: Path, data: bytes, mode: int = 0o644) -> None:
        if len(written) == 9:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        write(path, data, mode)

    monkeypatch.setattr(files, "write_new", write_new)
    for directory in (tmp_path, tmp_path / "new"):
        written.clear()
        with pytest.raises(SetupError, match="cannot be written: No space left on device"):
            initialise(directory)
        assert list(tmp_path.iterdir()) == []


def test_every_node_has_its_own_host_and_a_certificate_that_names_it(tmp_path: Path) -> None:
    """Formerly several machines needed three edits by hand, and certificates named one host only."""
    hosts = {"n1": "10.77.0.11", "n2": "node2.example", "n3": "fd00::3"}
    paths = initialise(tmp_path / "c", [Host(*each) for each in hosts.items()], base_port=7000, https=True, listen="0.0.0.0")
    for path, (node_id, host) in zip(paths, hosts.items(), strict=True):
        config = load(path)
        bracketed = f"[{host}]" if ":" in host else host
        address = config.address(node_id)
        assert (address.raft, address.native) == (f"{bracketed}:7001", f"{bracketed}:7011")
        assert address.http == config.http.public_url == f"https://{bracketed}:7021"
        assert (config.raft.listen, config.native.listen, config.http.listen) == ("0.0.0.0:7001", "0.0.0.0:7011", "0.0.0.0:7021")
        assert config.http.tls
        certificate = x509.load_pem_x509_certificate(config.path(config.tls.certificate).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names_and_addresses = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
        assert host in names_and_addresses
        assert not set(names_and_addresses) & (set(hosts.values()) - {host})


def test_nodes_that_share_a_host_have_ports_of_their_own(tmp_path: Path) -> None:
    named = [Host("a", "10.0.0.1"), Host("b", "10.0.0.2"), Host("c", "10.0.0.1")]
    configs = [load(path) for path in initialise(tmp_path / "c", named)]
    assert [config.raft.listen for config in configs] == ["10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.1:7002"]


def test_a_cluster_with_fix_serves_it_beside_http(tmp_path: Path) -> None:
    configs = [load(path) for path in initialise(tmp_path / "c", 3, base_port=9000, fix=True)]
    assert [config.fix.listen for config in configs] == ["127.0.0.1:9031", "127.0.0.1:9032", "127.0.0.1:9033"]
    assert [child.name for child in children(configs[0], tmp_path / "c" / "n1" / "node.toml")[1]] == ["gateway-0", "fix"]
