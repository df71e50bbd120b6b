"""What `quorumbook init` does: a cluster's keys, certificates, configuration and empty data directories.

    DIRECTORY/ca.pem, ca.key       the cluster's certificate authority; keep ca.key apart, only new nodes need it
    DIRECTORY/admin.json           the operator's API key
    DIRECTORY/n1/node.toml         node n1: configuration
    DIRECTORY/n1/node.pem, node.key, ca.pem    its certificate, key, and whom it trusts
    DIRECTORY/n1/cluster.key       the cluster's keys, under which API keys are encrypted; the same on every node
    DIRECTORY/n1/data/             its data directory

A node's directory holds all that the node needs, so it can be moved to another machine as it is. Ports, for node number i from 1 on:
Raft `base_port + i`, native `base_port + 10 + i`, HTTP `base_port + 20 + i`.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import msgspec

from node import identity, pki
from node.config.checks import CLUSTER_ID, NODE_ID, split_address
from node.config.file import load
from node.config.settings import NODE_COUNTS, AdminConfig, NodeAddress
from node.errors import SetupError
from node.keys import sealing
from node.keys.issue import generate
from node.system import files
from snapshots.durable import sync_path

NATIVE_OFFSET = 10
HTTP_OFFSET = 20
CLUSTER_KEY = "cluster.key"

TEMPLATE = Path(__file__).with_name("node.toml.txt")
"""The text of a node's configuration, with `$names` to fill in."""


def initialise(
    directory: Path,
    nodes: int | Sequence[str] = 3,
    *,
    base_port: int = 7000,
    host: str = "127.0.0.1",
    cluster_id: str = "",
    archive_log: bool = False,
    cluster_keys: Mapping[int, bytes] | None = None,
) -> list[Path]:
    """Lay out a new cluster; returns the configuration files, in the order of the nodes.

    Args:
        nodes: how many (named n1, n2, ...), or their ids. 1, 3 or 5.
        host: where all nodes listen and are reached. For several machines, edit the files afterwards.
        cluster_id: a random one when empty.
        cluster_keys: of a cluster whose state this one will begin with; a fresh one when None.
        archive_log: keep log segments behind snapshots, so that `quorumbook audit` can replay everything from the first command.

    Raises:
        SetupError: the directory is not empty, an argument is not right, or a file cannot be written.
    """
    node_ids = [f"n{number}" for number in range(1, nodes + 1)] if isinstance(nodes, int) else list(nodes)
    cluster = cluster_id or f"quorumbook-{secrets.token_hex(4)}"
    addresses = _addresses(node_ids, host, base_port)
    _check(directory, node_ids, addresses, cluster)
    now = datetime.datetime.now(datetime.UTC)
    authority = pki.make_authority(cluster, now)
    keys = cluster_keys or sealing.with_another({})
    admin = AdminConfig(**msgspec.structs.asdict(generate("operator")))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_new(directory / "ca.pem", authority.certificate)
        files.write_new(directory / "ca.key", authority.key, 0o600)
        files.write_new(directory / "admin.json", msgspec.json.format(msgspec.json.encode(admin)) + b"\n", 0o600)
        written = []
        for address in addresses:
            text = node_toml(cluster, address, addresses, admin, archive_log=archive_log)
            written.append(make_node(directory, address, text, authority, now, keys))
        sync_path(directory)
        sync_path(directory.resolve().parent)
    except OSError as error:
        raise SetupError(f"{error.filename or directory}: cannot be written: {error.strerror}") from error
    return written


def _addresses(node_ids: Sequence[str], host: str, base_port: int) -> list[NodeAddress]:
    named = f"[{host}]" if ":" in host else host
    return [
        NodeAddress(
            node_id,
            f"{named}:{base_port + number}",
            f"{named}:{base_port + NATIVE_OFFSET + number}",
            f"http://{named}:{base_port + HTTP_OFFSET + number}",
        )
        for number, node_id in enumerate(node_ids, 1)
    ]


def _check(directory: Path, node_ids: Sequence[str], addresses: Sequence[NodeAddress], cluster_id: str) -> None:
    if len(node_ids) not in NODE_COUNTS:
        raise SetupError(
            f"expected 1, 3 or 5 nodes, not {len(node_ids)}: an even number survives no more failures than one node fewer"
        )
    for node_id in node_ids:
        if NODE_ID.fullmatch(node_id) is None:
            raise SetupError(
                f"node id {node_id!r}: expected 1 to 32 letters, digits, '-' or '_', beginning with a letter or digit"
            )
    if len(set(node_ids)) != len(node_ids):
        raise SetupError(f"node ids {', '.join(node_ids)}: expected each once")
    if CLUSTER_ID.fullmatch(cluster_id) is None:
        raise SetupError(
            f"cluster id {cluster_id!r}: expected 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit"
        )
    for address in addresses:
        for text in (address.raft, address.native, address.http.removeprefix("http://")):
            if split_address(text) is None:
                raise SetupError(f"{text}: expected a host name or IP address, and ports from 1 to 65535")
    if directory.exists() and not directory.is_dir():
        raise SetupError(f"{directory} is a file; name a directory that does not exist yet")
    if directory.is_dir() and any(directory.iterdir()):
        raise SetupError(
            f"{directory} is not empty; name another directory, or delete this one if its cluster is not needed any more"
        )


def make_node(
    directory: Path,
    address: NodeAddress,
    text: str,
    authority: pki.KeyPair,
    now: datetime.datetime,
    cluster_keys: Mapping[int, bytes],
    *,
    joined: bool = False,
) -> Path:
    """Make a node's directory in `directory`: certificate, keys, configuration (`text`) and an empty data directory. The configuration's path.

    Raises:
        OSError: it is there already, or cannot be written.
    """
    home = directory / address.node_id
    home.mkdir(mode=0o700)
    hosts = [address.raft.rpartition(":")[0].strip("[]")]
    own = pki.issue(authority, address.node_id, hosts, now)
    files.write_new(home / "ca.pem", authority.certificate)
    files.write_new(home / "node.pem", own.certificate)
    files.write_new(home / "node.key", own.key, 0o600)
    if cluster_keys:
        files.write_new(home / CLUSTER_KEY, sealing.file_bytes(cluster_keys), 0o600)
    path = home / "node.toml"
    files.write_new(path, text.encode(), 0o600)
    identity.format_data(load(path), joined=joined)
    sync_path(home)
    return path


def node_toml(
    cluster_id: str, own: NodeAddress, addresses: Sequence[NodeAddress], admin: AdminConfig, *, archive_log: bool = False
) -> str:
    """The text of a node's configuration."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        cluster_id=cluster_id,
        node_id=own.node_id,
        raft_listen=own.raft,
        native_listen=own.native,
        http_listen=own.http.removeprefix("http://"),
        public_url=own.http,
        archive_log="archive_log = true" if archive_log else "# archive_log = false",
        key_id=admin.key_id,
        secret=admin.secret,
        passphrase=admin.passphrase,
        nodes="\n\n".join(_node_table(address) for address in addresses),
    )


def _node_table(address: NodeAddress) -> str:
    return "\n".join(["[[nodes]]", *(f'{name} = "{value}"' for name, value in msgspec.structs.asdict(address).items())])
