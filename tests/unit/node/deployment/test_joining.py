"""The directory of a node that joins is made whole or not at all, and the next call finds it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import msgspec
import pytest

from node.config.file import Setting, change_settings, load
from node.config.settings import NodeAddress, NodeConfig
from node.data_directory import identity
from node.deployment import joining
from node.deployment.setup import initialise
from node.errors import ConfigError, SetupError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    initialise(tmp_path / "c", 3, base_port=9000, cluster_id="demo", archive_log=True)
    return tmp_path / "c"


@pytest.fixture
def like(directory: Path) -> NodeConfig:
    change_settings(directory / "n1" / "node.toml", {"snapshot.every_commands": 77, "http.gateways": 0, "log_level": "debug"})
    return load(directory / "n1" / "node.toml")


def test_the_directory_of_a_joining_node_loads(directory: Path, like: NodeConfig) -> None:
    address = joining.next_address("n4", like.nodes)
    assert address == NodeAddress("n4", "127.0.0.1:9004", "127.0.0.1:9014", "http://127.0.0.1:9024")
    made = load(joining.make_joiner(directory, address, like.nodes, like))
    assert made.nodes == [*like.nodes, address]
    assert (made.cluster_id, made.admin, made.log_level) == (like.cluster_id, like.admin, "debug")
    assert (made.snapshot.every_commands, made.raft.archive_log, made.http.gateways) == (77, True, 0)
    assert (made.raft.listen, made.native.listen, made.http.public_url) == (address.raft, address.native, address.http)
    known = identity.read(made)
    assert known.joined
    assert known.stage is identity.Stage.NEW
    assert not (directory / joining.DRAFTS).exists()


def test_the_joining_node_gets_the_cluster_s_keys(directory: Path, like: NodeConfig) -> None:
    made = load(joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like))
    assert made.cluster_key_path.read_bytes() == like.cluster_key_path.read_bytes()
    like.cluster_key_path.unlink()
    other = load(joining.make_joiner(directory, joining.next_address("n5", [*like.nodes, made.address("n4")]), like.nodes, like))
    assert not other.cluster_key_path.exists(), "a cluster that has none yet"


def test_trusted_proxies_are_taken_over(directory: Path, like: NodeConfig) -> None:
    like = msgspec.structs.replace(like, http=msgspec.structs.replace(like.http, trusted_proxies=("10.0.0.0/8", "::1/128")))
    made = load(joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like))
    assert made.http.trusted_proxies == ("10.0.0.0/8", "::1/128")


def test_every_setting_is_taken_over_but_those_of_a_node(directory: Path) -> None:
    """Among them who may use the operator's key from where."""
    path = directory / "n1" / "node.toml"
    settings: dict[str, Setting] = {
        "log_format": "json",
        "log_bytes": 70_000,
        "admin.addresses": ("10.0.0.0/8",),
        "history.enabled": True,
        "history.archive_days": 9,
        "streams.url": "nats://127.0.0.1:4222",
        "tracing.endpoint": "http://127.0.0.1:4318/v1/traces",
        "fix.listen": "127.0.0.1:9031",
        "fix.key_rate": 5.0,
        "raft.heartbeat": 0.05,
        "start.from": "snapshot",
    }
    change_settings(path, settings)
    like = load(path)
    made = load(joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like))
    assert (made.log_format, made.log_bytes, made.raft.heartbeat) == ("json", 70_000, 0.05)
    assert made.admin.addresses == ("10.0.0.0/8",)
    assert (made.history, made.streams, made.tracing) == (like.history, like.streams, like.tracing)
    assert (made.fix.listen, made.fix.key_rate) == ("127.0.0.1:9034", 5.0)
    assert made.start.source == "auto", "its state is that of the cluster"


def test_the_file_of_another_nodes_history_is_not_taken_over(directory: Path, tmp_path: Path) -> None:
    path = directory / "n1" / "node.toml"
    change_settings(path, {"history.enabled": True, "history.database": f"sqlite:///{tmp_path}/history"})
    like = load(path)
    made = load(joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like))
    assert made.history.enabled
    assert made.history.database == ""


def test_a_repeated_call_finds_the_directory(directory: Path, like: NodeConfig) -> None:
    address = joining.next_address("n4", like.nodes)
    path = joining.make_joiner(directory, address, like.nodes, like)
    before = identity.read(load(path))
    assert joining.make_joiner(directory, address, like.nodes, like) == path
    assert identity.read(load(path)) == before
    with pytest.raises(SetupError, match="its addresses differ from those of the options"):
        joining.make_joiner(directory, msgspec.structs.replace(address, raft="127.0.0.1:9005"), like.nodes, like)


def test_a_half_made_directory_is_made_again(directory: Path, like: NodeConfig) -> None:
    (directory / joining.DRAFTS / "n4").mkdir(parents=True)
    (directory / joining.DRAFTS / "n4" / "ca.pem").touch()
    path = joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like)
    assert identity.read(load(path)).joined


def test_a_directory_of_something_else_is_left_alone(directory: Path, like: NodeConfig) -> None:
    (directory / "n4").mkdir()
    with pytest.raises(SetupError, match=r"has no node\.toml"):
        joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like)


def test_an_id_is_used_once(directory: Path, like: NodeConfig) -> None:
    address = joining.next_address("n4", like.nodes)
    identity.mark_removed(load(joining.make_joiner(directory, address, like.nodes, like)))
    with pytest.raises(SetupError, match="n4 was removed from the cluster, and an id is used once"):
        joining.make_joiner(directory, address, like.nodes, like)


@pytest.mark.parametrize("missing", ["ca.key", "ca.pem"])
def test_without_the_authority_nothing_is_made(directory: Path, like: NodeConfig, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(SetupError, match=f"{missing} is not here"):
        joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like)
    assert not (directory / "n4").exists()


def test_another_clusters_authority_is_refused(directory: Path, like: NodeConfig, tmp_path: Path) -> None:
    initialise(tmp_path / "other", 1)
    for name in ("ca.pem", "ca.key"):
        shutil.copy(tmp_path / "other" / name, directory / name)
    with pytest.raises(SetupError, match="is not the authority that n1 trusts"):
        joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"node_id": "n 4"}, "the new node: node_id: expected 1 to 32 letters"),
        ({"raft": "127.0.0.1"}, "the new node: raft: expected host:port"),
        ({"native": "127.0.0.1:99999"}, "the new node: native: expected host:port"),
        ({"http": "127.0.0.1:1"}, "the new node: http: expected http://host:port"),
        ({"native": "127.0.0.1:9001"}, "127.0.0.1:9001: expected an address of its own; it is one of n1"),
        ({"native": "127.0.0.1:9004"}, "it is named twice"),
    ],
)
def test_invalid_addresses_are_refused(like: NodeConfig, change: dict[str, str], text: str) -> None:
    address = msgspec.structs.replace(joining.next_address("n4", like.nodes), **change)
    with pytest.raises(SetupError, match=text):
        joining.check_new(address, like.nodes)


def test_members_on_several_hosts_leave_the_address_to_the_operator(like: NodeConfig) -> None:
    members = [like.nodes[0], msgspec.structs.replace(like.nodes[1], raft="10.0.0.2:7000")]
    with pytest.raises(SetupError, match="name the new node's addresses"):
        joining.next_address("n4", members)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{port} is in use"):
            joining.check_free(NodeAddress("n4", "127.0.0.1:1025", f"127.0.0.1:{port}", "http://127.0.0.1:1026"))


def test_an_address_of_another_machine_is_passed_over() -> None:
    joining.check_free(NodeAddress("n4", "192.0.2.1:7000", "192.0.2.1:7001", "http://192.0.2.1:7002"))


def test_a_node_without_a_usable_configuration_is_an_error(directory: Path, like: NodeConfig) -> None:
    (directory / "n4").mkdir()
    (directory / "n4" / "node.toml").write_text("cluster_id = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError):
        joining.make_joiner(directory, joining.next_address("n4", like.nodes), like.nodes, like)
