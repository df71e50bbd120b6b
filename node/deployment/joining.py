"""The directory of a node that joins a running cluster: what `quorumbook init` makes for the first nodes, made for one
more.

It is made in `DIR/.joining/n4` and then renamed, so that an interrupted call leaves no incomplete directory. A repeated
call starts again or finds the directory complete.
"""

from __future__ import annotations

import datetime
import errno
import shutil
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from node.config.checks import check_address, split_address
from node.config.file import Setting, changed, load
from node.config.settings import NodeAddress, NodeConfig
from node.data_directory import identity
from node.deployment.setup import hosts_of, make_node, node_toml
from node.errors import ConfigError, SetupError
from node.keys.encryption import read_keys
from node.system.sockets import host_of
from node.tls import pki
from snapshots.durable import sync_path

DRAFTS = ".joining"
"""Directory in a cluster's directory where a node's directory is being made."""

OWN_KEYS = frozenset({"listen", "public_url"})
"""Settings that are different on each node."""

OWN_SECTIONS = frozenset({"nodes", "tls", "start"})
"""Parts of the configuration that a joining node does not take over: its members and files are its own, and its state is the
cluster's.
"""

OWN_NAMES = frozenset({"cluster_id", "node_id", "data_dir", "cluster_key", "directory"})
"""Settings outside of sections that are not taken over, or that every configuration has."""


def next_address(node_id: str, members: Sequence[NodeAddress]) -> NodeAddress:
    """Choose addresses for one more node as `quorumbook init` would: on the members' host, after the highest port of
    each kind.

    Raises:
        SetupError: the members are on several hosts, or no ports are left after theirs.
    """
    hosts = {split[0] for member in members if (split := split_address(member.raft)) is not None}
    if len(hosts) != 1:
        raise SetupError(
            f"the members are on {', '.join(sorted(hosts))}: name the new node's addresses (--raft, --native, --http)"
        )
    (host,) = hosts
    taken = {place for member in members for place in places(member)}
    scheme = members[0].http.partition("://")[0]
    highest = [max(_port(text) for text in kind) for kind in zip(*(places(member) for member in members), strict=True)]
    for step in range(1, 100):
        raft, native, http = (f"{host}:{port + step}" for port in highest)
        address = NodeAddress(node_id, raft, native, f"{scheme}://{http}")
        if len({raft, native, http}) == 3 and not taken & set(places(address)) and all(map(split_address, places(address))):
            return address
    raise SetupError("no ports are left after those of the members: name the new node's addresses (--raft, --native, --http)")


def places(address: NodeAddress) -> tuple[str, str, str]:
    """Return the addresses on which a node listens, as "host:port": Raft, native, HTTP."""
    return address.raft, address.native, address.http.partition("://")[2]


def _port(place: str) -> int:
    split = split_address(place)
    return split[1] if split is not None else 0


def check_new(address: NodeAddress, members: Iterable[NodeAddress]) -> None:
    """Check a new member's id and addresses.

    Raises:
        SetupError: the id or an address is malformed, or an address is another member's, or in use on this machine.
    """
    try:
        check_address(address, lambda key, text: ConfigError("the new node", key, text))
    except ConfigError as error:
        raise SetupError(str(error)) from error
    taken = {place: member.node_id for member in members if member.node_id != address.node_id for place in places(member)}
    for number, place in enumerate(places(address)):
        if place in taken:
            raise SetupError(f"{place}: expected an address of its own; it is one of {taken[place]}")
        if place in places(address)[:number]:
            raise SetupError(f"{place}: expected an address of its own; it is named twice")


def check_free(address: NodeAddress) -> None:
    """Check that nothing listens on the addresses yet. Addresses of other machines are ignored.

    Raises:
        SetupError: one is in use.
    """
    for place in places(address):
        split = split_address(place)
        if split is None:
            continue
        host = split[0].strip("[]")
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, split[1]))
            except PermissionError:
                raise SetupError(f"{place}: this user may not listen there") from None
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise SetupError(f"{place} is in use; name another address (--raft, --native, --http)") from None


def make_joiner(directory: Path, address: NodeAddress, members: Sequence[NodeAddress], like: NodeConfig) -> Path:
    """Make the directory of a new node in the cluster's `directory`, and return the path of its configuration.

    All settings except addresses are copied from the node `like`. An existing directory of the same node stays.

    Raises:
        ClusterKeyError: the cluster keys of `like` cannot be read.
        SetupError: the certificate authority's key is not there, the directory holds something else, or the node was
            removed before.
    """
    home = directory / address.node_id
    if (home / "node.toml").exists():
        return _existing(home, address, like)
    if home.exists():
        raise SetupError(f"{home} exists already and has no node.toml; move it away, or choose another node id")
    authority = _authority(directory, like)
    keys = read_keys(like.cluster_key_path) if like.cluster_key_path.exists() else {}
    drafts = directory / DRAFTS
    others = [member for member in members if member.node_id != address.node_id]
    text = node_toml(like.cluster_id, address, [*others, address], like.admin, listen=_listen(like), fix=bool(like.fix.listen))
    text = changed(text, _settings(like))
    try:
        shutil.rmtree(drafts, ignore_errors=True)
        drafts.mkdir(mode=0o700)
        make_node(drafts, address, text, authority, datetime.datetime.now(datetime.UTC), keys, joined=True)
        (drafts / address.node_id).rename(home)
        drafts.rmdir()
        sync_path(directory)
    except OSError as error:
        raise SetupError(f"{error.filename or home}: cannot be written: {error.strerror}") from error
    return home / "node.toml"


def _existing(home: Path, address: NodeAddress, like: NodeConfig) -> Path:
    """Return a directory that an earlier call made."""
    path = home / "node.toml"
    config = load(path)
    if (config.cluster_id, config.node_id) != (like.cluster_id, address.node_id):
        raise SetupError(
            f"{path}: this is node {config.node_id!r} of cluster {config.cluster_id!r}; expected {address.node_id!r} of {like.cluster_id!r}"
        )
    if config.address(config.node_id) != address:
        raise SetupError(
            f"{path}: its addresses differ from those of the options; repeat without --raft, --native, --http, or edit the file"
        )
    if identity.stage_of(config) is identity.Stage.REMOVED:
        raise SetupError(f"{path}: {address.node_id} was removed from the cluster, and an id is used once: choose another one")
    return path


def _listen(like: NodeConfig) -> str:
    """Return the address on which the node listens, such as 0.0.0.0; "" if that is its own host."""
    host = host_of(like.raft.listen)
    return "" if host in hosts_of(like.address(like.node_id)) else host


def _authority(directory: Path, like: NodeConfig) -> pki.KeyPair:
    """Return the cluster's certificate authority. Raises SetupError."""
    certificate, key = directory / "ca.pem", directory / "ca.key"
    for path in (certificate, key):
        if not path.exists():
            raise SetupError(
                f"{path} is not here: the new node's certificate has to be signed by the cluster's certificate authority. "
                "Put ca.pem and ca.key of this cluster back until this command has ended"
            )
    if certificate.read_bytes() != like.path(like.tls.ca).read_bytes():
        raise SetupError(f"{certificate} is not the authority that {like.node_id} trusts ({like.path(like.tls.ca)})")
    return pki.KeyPair(certificate.read_bytes(), key.read_bytes())


def _settings(like: NodeConfig) -> dict[str, Setting]:
    """Return another node's settings that are not defaults, without those of its own such as addresses. Whatever a later
    version adds is taken over too.
    """
    found: dict[str, Setting] = {}
    for field in msgspec.structs.fields(NodeConfig):
        value = getattr(like, field.name)
        if field.name in OWN_SECTIONS or field.name in OWN_NAMES:
            continue
        if not isinstance(value, msgspec.Struct):
            if value != field.default:
                found[field.name] = value
            continue
        for inner in msgspec.structs.fields(type(value)):
            if inner.name not in OWN_KEYS and not inner.required and getattr(value, inner.name) != inner.default:
                found[f"{field.name}.{inner.encode_name}"] = getattr(value, inner.name)
    if like.history.database.startswith("sqlite:"):  # a file holds the history of one node
        del found["history.database"]
    return found
