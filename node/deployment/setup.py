"""What `quorumbook init` does: a cluster's keys, certificates, configuration and empty data directories.

    DIRECTORY/ca.pem, ca.key       the cluster's certificate authority; keep ca.key apart, only new nodes need it
    DIRECTORY/admin.json           the operator's API key
    DIRECTORY/n1/node.toml         node n1: configuration
    DIRECTORY/n1/node.pem, node.key, ca.pem    its certificate, key, and whom it trusts
    DIRECTORY/n1/cluster.key       the cluster's keys, under which API keys are encrypted; the same on every node
    DIRECTORY/n1/data/             its data directory

A node's directory holds all that the node needs, so it can be moved to another machine as it is. Ports, for the i-th
node of a host, from 1 on: Raft `base_port + i`, native `base_port + 10 + i`, HTTP `base_port + 20 + i`.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

import msgspec

from node.cluster_directory import KeyFile
from node.config.checks import CLUSTER_ID, NODE_ID, is_host, split_address
from node.config.file import load
from node.config.settings import NODE_COUNTS, AdminConfig, NodeAddress, gateways_of_node
from node.data_directory import identity
from node.errors import SetupError
from node.keys import encryption
from node.keys.credentials import generate
from node.system import files
from node.system.sockets import host_of
from node.tls import pki
from snapshots.durable import sync_path

NATIVE_OFFSET = 10
HTTP_OFFSET = 20
FIX_OFFSET = 30
CLUSTER_KEY = "cluster.key"

TEMPLATE = Path(__file__).with_name("node.toml.txt")
"""The text of a node's configuration, with `$names` to fill in."""


class Host(msgspec.Struct, frozen=True):
    """A node and the host (name or IP address) where the others and its clients reach it."""

    node_id: str
    host: str


def initialise(
    directory: Path,
    nodes: int | Sequence[Host] = 3,
    *,
    base_port: int = 7000,
    host: str = "127.0.0.1",
    listen: str = "",
    https: bool = False,
    cluster_id: str = "",
    archive_log: bool = False,
    fix: bool = False,
    cluster_keys: Mapping[int, bytes] | None = None,
    now: datetime.datetime | None = None,
) -> list[Path]:
    """Lay out a new cluster. Returns the configuration files in the order of the nodes.

    Args:
        nodes: their number (named n1, n2, ...), all on `host`; or the nodes, each with its host. 1, 3 or 5.
        listen: the address on which every node listens, such as "0.0.0.0"; the node's own host if empty.
        https: serve HTTPS with the nodes' certificates, which name their hosts.
        cluster_id: a random id if empty.
        cluster_keys: the keys of the cluster whose state this one will begin with; new keys if None.
        archive_log: keep log segments that snapshots cover, so that `quorumbook audit` can apply everything from the
            first command.
        fix: serve FIX, on the port `FIX_OFFSET` - `HTTP_OFFSET` above that of HTTP.
        now: when the certificates are made, with a time zone; the present by default.

    Raises:
        SetupError: the directory is not empty, an argument is invalid, or a file cannot be written.
    """
    hosts = [Host(f"n{number}", host) for number in range(1, nodes + 1)] if isinstance(nodes, int) else list(nodes)
    cluster = cluster_id or f"quorumbook-{secrets.token_hex(4)}"
    addresses = _addresses(hosts, base_port, "https" if https else "http")
    _check(directory, [each.node_id for each in hosts], addresses, cluster)
    moment = now or datetime.datetime.now(datetime.UTC)
    authority = pki.make_authority(cluster, moment)
    keys = cluster_keys or encryption.with_another({})
    admin = AdminConfig(**msgspec.structs.asdict(generate("operator")))
    try:
        with files.filled(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_new(directory / "ca.pem", authority.certificate)
            files.write_new(directory / "ca.key", authority.key, 0o600)
            key = KeyFile(
                admin.key_id,
                admin.secret,
                admin.passphrase,
                nodes={address.node_id: address.native for address in addresses},
                ca=authority.certificate.decode("ascii"),
            )
            files.write_new(directory / "admin.json", msgspec.json.format(msgspec.json.encode(key)) + b"\n", 0o600)
            written = []
            for address in addresses:
                text = node_toml(cluster, address, addresses, admin, archive_log=archive_log, listen=listen, fix=fix)
                written.append(make_node(directory, address, text, authority, moment, keys))
            sync_path(directory)
            sync_path(directory.resolve().parent)
    except OSError as error:
        raise SetupError(f"{error.filename or directory}: cannot be written: {error.strerror}") from error
    return written


def _addresses(hosts: Sequence[Host], base_port: int, scheme: str) -> list[NodeAddress]:
    """Return the nodes' addresses. Nodes on one host have different ports; nodes on several hosts have the same."""
    on_host: Counter[str] = Counter()
    found = []
    for each in hosts:
        on_host[each.host] += 1
        number, named = on_host[each.host], bracketed(each.host)
        ports = [base_port + offset + number for offset in (0, NATIVE_OFFSET, HTTP_OFFSET)]
        found.append(NodeAddress(each.node_id, f"{named}:{ports[0]}", f"{named}:{ports[1]}", f"{scheme}://{named}:{ports[2]}"))
    return found


def hosts_of(address: NodeAddress) -> list[str]:
    """Return the hosts in a node's addresses, each once; its certificate names them."""
    places = (address.raft, address.native, address.http.partition("://")[2])
    return list(dict.fromkeys(host_of(place) for place in places))


def bracketed(host: str) -> str:
    """Return a host in the form that it has before a port."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check(directory: Path, node_ids: Sequence[str], addresses: Sequence[NodeAddress], cluster_id: str) -> None:
    """Check the arguments of a new cluster. Raises SetupError."""
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
        for text in (address.raft, address.native, address.http.partition("://")[2]):
            host = text.rpartition(":")[0]
            if not is_host(host):
                raise SetupError(f"host {host!r} of {address.node_id}: expected a host name or IP address, without a port")
            if split_address(text) is None:
                raise SetupError(f"{text}: expected ports from 1 to 65535")
    if directory.exists() and not directory.is_dir():
        raise SetupError(f"{directory} is a file; name a directory that does not exist yet")
    if directory.is_dir() and any(directory.iterdir()):
        has_cluster = any(directory.glob("*/node.toml"))
        advice = ", or delete this one if its cluster is no longer needed" if has_cluster else ": its contents are not a cluster"
        raise SetupError(f"{directory} is not empty; name another directory{advice}")


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
    """Make a node's directory in `directory`: certificate, keys, configuration (`text`) and an empty data directory.
    Returns the path of the configuration.

    Raises:
        OSError: it exists already, or cannot be written.
    """
    home = directory / address.node_id
    home.mkdir(mode=0o700)
    hosts = hosts_of(address)
    own = pki.issue(authority, address.node_id, hosts, now)
    files.write_new(home / "ca.pem", authority.certificate)
    files.write_new(home / "node.pem", own.certificate)
    files.write_new(home / "node.key", own.key, 0o600)
    if cluster_keys:
        files.write_new(home / CLUSTER_KEY, encryption.file_bytes(cluster_keys), 0o600)
    path = home / "node.toml"
    files.write_new(path, text.encode(), 0o600)
    identity.format_data(load(path), joined=joined)
    sync_path(home)
    return path


def node_toml(
    cluster_id: str,
    own: NodeAddress,
    addresses: Sequence[NodeAddress],
    admin: AdminConfig,
    *,
    archive_log: bool = False,
    listen: str = "",
    fix: bool = False,
) -> str:
    """Return the text of a node's configuration. `listen`: the address on which it listens; empty: its public address.
    `fix`: it serves FIX. Nodes on one machine share its processors, so their number of gateways is written.
    """
    neighbours = sum(set(hosts_of(each)) == set(hosts_of(own)) for each in addresses)

    def place(address: str) -> str:
        return f"{bracketed(listen)}:{address.rpartition(':')[2]}" if listen else address.partition("://")[2] or address

    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        cluster_id=cluster_id,
        node_id=own.node_id,
        raft_listen=place(own.raft),
        native_listen=place(own.native),
        http_listen=place(own.http),
        gateways=f"gateways = {gateways_of_node(neighbours)}" if neighbours > 1 else "# gateways = N",
        http_tls="tls = true" if own.http.startswith("https://") else "# tls = false",
        public_url=own.http,
        fix_listen=f'listen = "{_fix_address(place(own.http))}"' if fix else '# listen = ""',
        archive_log="archive_log = true" if archive_log else "# archive_log = false",
        key_id=admin.key_id,
        secret=admin.secret,
        passphrase=admin.passphrase,
        nodes="\n\n".join(_node_table(address) for address in addresses),
    )


def _fix_address(http: str) -> str:
    """Return the address for FIX: a port of its own beside that of HTTP."""
    host, _, port = http.rpartition(":")
    return f"{host}:{int(port) + FIX_OFFSET - HTTP_OFFSET}"


def _node_table(address: NodeAddress) -> str:
    return "\n".join(["[[nodes]]", *(f'{name} = "{value}"' for name, value in msgspec.structs.asdict(address).items())])
