"""Checks of a configuration beyond its types, with messages that say what to change.

A number has bounds where a value outside them can only be a mistake. Relations are checked between keys that can
contradict each other. `advice` lists settings that are allowed but probably not intended.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import stat
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from node.config.settings import COMMANDS_PER_SUBMIT_MAX, NodeAddress, NodeConfig
from node.errors import ClusterKeyError, ConfigError
from node.keys import addresses
from node.keys.encryption import ClusterKeys
from node.system.sockets import host_of
from node.tls.certificates import check_tls
from statemachine.limits import NAME_MAX, SECRET_MAX

Fault = Callable[[str, str], ConfigError]
"""Makes the error for a key and the expected value."""

START_SOURCES = ("auto", "snapshot", "log", "dataset")
FOLLOWERS = ("forward", "redirect")
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
STREAM_SCHEMES = ("kafka", "nats")
STREAM_FORMATS = ("json", "msgpack")
SECRET_BYTES_MIN = 16
HEARTBEATS_PER_ELECTION = 4

NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
CLUSTER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEY_ID = re.compile(rf"[A-Za-z0-9_.:-]{{1,{NAME_MAX}}}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,100}")
_ORDERS = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""The topic of orders is a part of command ids, which have at most 96 characters."""
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_HOST_MAX = 253

RANGES: dict[str, tuple[float, float, str]] = {
    "raft.heartbeat": (0.005, 10, "seconds"),
    "raft.election_timeout_min": (0.02, 60, "seconds"),
    "raft.election_timeout_max": (0.03, 120, "seconds"),
    "raft.leader_fallback": (0.03, 300, "seconds"),
    "snapshot.every_commands": (1, 1_000_000_000, "commands"),
    "snapshot.every_seconds": (0, 31 * 86_400, "seconds"),
    "snapshot.every_bytes": (64 * 1024, 2**40, "bytes"),
    "snapshot.keep": (1, 100, "snapshots"),
    "native.queue_max": (1, 1_000_000, "commands"),
    # This many orders with the longest names still fit into one log entry, which must stay under 512 KiB.
    "native.batch_commands_max": (1, COMMANDS_PER_SUBMIT_MAX, "commands"),
    "native.events_kept": (1, 10_000_000, "events"),
    "native.key_rate": (0, 10_000_000, "units a second"),
    "native.account_rate": (0, 10_000_000, "units a second"),
    "http.gateways": (0, 64, "processes"),
    "http.deadline": (0.1, 300, "seconds"),
    "http.signature_age_max": (1, 3600, "seconds"),
    "history.archive_days": (0, 36_500, "days"),
    "history.log_bytes": (0, 2**40, "bytes"),
    "tracing.ratio": (0, 1, "of all commands"),
    "streams.partitions": (1, 1_000, "partitions"),
    "streams.replication": (1, 10, "copies"),
    "streams.takeover": (1, 3600, "seconds"),
    "fix.key_rate": (0, 1_000_000, "messages a second"),
    "fix.logon_age_max": (1, 3600, "seconds"),
    "http.key_rate": (0, 1_000_000, "requests a second"),
    "http.address_rate": (0, 1_000_000, "requests a second"),
}
"""Smallest and largest value of each number, and its unit."""


def check(config: NodeConfig, file: str, *, dates: bool = True) -> None:
    """Check everything. Without `dates`, certificates need not be valid now, nor fit the key.

    Raises:
        ConfigError: the first fault found.
    """

    def fault(key: str, text: str) -> ConfigError:
        return ConfigError(file, key, text)

    _check_names(config, fault)
    _check_numbers(config, fault)
    _check_times(config, fault)
    _check_own_addresses(config, fault)
    _check_nodes(config, fault)
    _check_admin(config, fault)
    _check_admin_addresses(config, fault)
    _check_history(config, fault)
    _check_streams(config, fault)
    if config.tracing.endpoint and not _is_endpoint(config.tracing.endpoint):
        raise fault("tracing.endpoint", f"expected http://host:port/v1/traces or https://..., not {config.tracing.endpoint!r}")
    _check_keys(config, fault)
    check_tls(config, fault, dates=dates)


def split_address(address: str) -> tuple[str, int] | None:
    """Return host and port of "host:port" (IPv6: "[::1]:80"); None if the text has another form."""
    host, _, port = address.rpartition(":")
    if not is_host(host) or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        return None
    return host, int(port)


def is_host(text: str) -> bool:
    """Return whether `text` can stand before a port: a name (RFC 1123, section 2.1), an IPv4 address, or an IPv6
    address in brackets. A name whose last label is a number is an IPv4 address or not valid.
    """
    try:
        if text.startswith("["):
            return text.endswith("]") and "%" not in text and ipaddress.IPv6Address(text[1:-1]) is not None
        labels = text.split(".")
        if labels[-1].isdigit():
            return ipaddress.IPv4Address(text) is not None
    except ValueError:
        return False
    return len(text) <= _HOST_MAX and all(_LABEL.fullmatch(label) for label in labels)


def check_address(node: NodeAddress, fault: Fault) -> None:
    """Check a node's id and each of its addresses.

    Raises:
        ConfigError: made by `fault`, for one of `node_id`, `raft`, `native`, `http`.
    """
    if NODE_ID.fullmatch(node.node_id) is None:
        raise fault("node_id", "expected 1 to 32 letters, digits, '-' or '_', beginning with a letter or digit")
    _address("raft", node.raft, fault)
    _address("native", node.native, fault)
    _check_url("http", node.http, fault)


def _check_names(config: NodeConfig, fault: Fault) -> None:
    """Check ids, paths, the settings of the log, and those with a choice of words."""
    if CLUSTER_ID.fullmatch(config.cluster_id) is None:
        raise fault("cluster_id", "expected 1 to 64 letters, digits, '-', '_' or '.', beginning with a letter or digit")
    if NODE_ID.fullmatch(config.node_id) is None:
        raise fault("node_id", "expected 1 to 32 letters, digits, '-' or '_', beginning with a letter or digit")
    _check_paths(config, fault)
    if config.log_level not in LOG_LEVELS:
        raise fault("log_level", f"expected one of {', '.join(LOG_LEVELS)}, not {config.log_level!r}")
    if config.log_format not in LOG_FORMATS:
        raise fault("log_format", f"expected one of {', '.join(LOG_FORMATS)}, not {config.log_format!r}")
    for key, low, high in (("log_bytes", 64 * 1024, 2**40), ("log_files", 0, 1_000)):
        if not low <= getattr(config, key) <= high:
            raise fault(key, f"expected {low:,} to {high:,}, not {getattr(config, key):,}")
    if config.http.followers not in FOLLOWERS:
        raise fault("http.followers", f"expected one of {', '.join(FOLLOWERS)}, not {config.http.followers!r}")
    if config.start.source not in START_SOURCES:
        raise fault("start.from", f"expected one of {', '.join(START_SOURCES)}, not {config.start.source!r}")
    if config.start.source == "dataset" and not config.start.dataset:
        raise fault("start.dataset", 'expected the directory of a dataset, since start.from is "dataset"')


def _check_paths(config: NodeConfig, fault: Fault) -> None:
    """Check that the paths have the form of a path."""
    tls = config.tls
    needed = {"tls.ca": tls.ca, "tls.certificate": tls.certificate, "tls.key": tls.key, "cluster_key": config.cluster_key}
    for key, text in {"data_dir": config.data_dir, **needed, "start.dataset": config.start.dataset or "-"}.items():
        if not text or "\0" in text:
            raise fault(key, f"expected the path of a {'file' if key in needed else 'directory'}")


def _check_numbers(config: NodeConfig, fault: Fault) -> None:
    """Check that each number is within its range."""
    for key, (low, high, unit) in RANGES.items():
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        # Not "value < low or value > high": a NaN would pass that. None: the default depends on the machine.
        if value is not None and not low <= value <= high:
            raise fault(key, f"expected {low:,} to {high:,} {unit}, not {value:,}")


def _check_times(config: NodeConfig, fault: Fault) -> None:
    """Check that times fit together."""
    raft = config.raft
    if raft.heartbeat * HEARTBEATS_PER_ELECTION >= raft.election_timeout_min:
        raise fault(
            "raft.election_timeout_min",
            f"expected more than {HEARTBEATS_PER_ELECTION} heartbeats (raft.heartbeat is {raft.heartbeat:g} s), "
            f"so that a lost message elects nobody; it is {raft.election_timeout_min:g} s",
        )
    if raft.election_timeout_max <= raft.election_timeout_min:
        raise fault(
            "raft.election_timeout_max",
            f"expected more than raft.election_timeout_min ({raft.election_timeout_min:g} s), so that nodes do not campaign at the "
            f"same moment; it is {raft.election_timeout_max:g} s",
        )
    if raft.leader_fallback < raft.election_timeout_max:
        raise fault(
            "raft.leader_fallback",
            f"expected at least raft.election_timeout_max ({raft.election_timeout_max:g} s), so that a leader does not give up "
            f"before any node could campaign; it is {raft.leader_fallback:g} s",
        )


def _check_own_addresses(config: NodeConfig, fault: Fault) -> None:
    """Check the addresses on which the node listens: each has another port."""
    taken: dict[tuple[str, int], str] = {}
    listening = [("raft", config.raft.listen), ("native", config.native.listen), ("http", config.http.listen)]
    if config.fix.listen:
        if find_spec("simplefix") is None:
            raise fault("fix.listen", "expected to be empty: FIX needs an extra, pip install 'quorumbook[fix]'")
        listening.append(("fix", config.fix.listen))
    for key, listen in listening:
        address = _address(f"{key}.listen", listen, fault)
        if address in taken:
            raise fault(f"{key}.listen", f"expected an address of its own; {listen} is also {taken[address]}.listen")
        taken[address] = key
    _check_url("http.public_url", config.http.public_url, fault)
    if config.http.tls and not config.http.public_url.startswith("https://"):
        raise fault("http.public_url", f"expected https://..., since http.tls is true; it is {config.http.public_url!r}")


def _address(key: str, text: str, fault: Fault) -> tuple[str, int]:
    address = split_address(text)
    if address is None:
        raise fault(key, f"expected host:port with a port from 1 to 65535, not {text!r}")
    return address


def _check_url(key: str, text: str, fault: Fault) -> None:
    """Raise a fault unless the text is a URL of a scheme, a host and perhaps a port."""
    try:
        parts = urlsplit(text)
        port = parts.port
        sound = (
            parts.scheme in ("http", "https")
            and port != 0
            and is_host(parts.netloc if port is None else parts.netloc.rpartition(":")[0])
            and text == f"{parts.scheme}://{parts.netloc}"
        )
    except ValueError:
        sound = False
    if not sound or "@" in text or any(character.isspace() for character in text):
        raise fault(key, f"expected http://host:port or https://host:port without a path, not {text!r}")


def _is_endpoint(text: str) -> bool:
    """Return whether a text is a URL of HTTP with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _within(key: str, fault: Fault) -> Fault:
    """Return a fault that names keys below `key`."""
    return lambda name, text: fault(f"{key}.{name}", text)


def _check_nodes(config: NodeConfig, fault: Fault) -> None:
    """Check the members: their ids and addresses are different."""
    ids: dict[str, int] = {}
    addresses: dict[str, str] = {}
    for position, node in enumerate(config.nodes):
        key = f"nodes[{position}]"
        check_address(node, _within(key, fault))
        if node.node_id in ids:
            raise fault(f"{key}.node_id", f"expected an id of its own; {node.node_id!r} is also nodes[{ids[node.node_id]}]")
        ids[node.node_id] = position
        for name, text in (("raft", node.raft), ("native", node.native), ("http", node.http)):
            place = text.partition("://")[2] or text
            if place in addresses:
                raise fault(f"{key}.{name}", f"expected an address of its own; {text!r} is also {addresses[place]}")
            addresses[place] = f"{key}.{name}"
    if config.node_id not in ids:
        raise fault("node_id", f"expected the node_id of one of [[nodes]] ({', '.join(ids)}), not {config.node_id!r}")
    own = config.nodes[ids[config.node_id]]
    if own.http != config.http.public_url:
        raise fault(
            "http.public_url", f"expected {own.http!r}, as nodes[{ids[config.node_id]}].http says, not {config.http.public_url!r}"
        )


def _check_admin(config: NodeConfig, fault: Fault) -> None:
    """Check the operator's key."""
    admin = config.admin
    if _KEY_ID.fullmatch(admin.key_id) is None:
        raise fault("admin.key_id", f"expected 1 to {NAME_MAX} letters, digits or any of _.:-")
    try:
        size = len(base64.b64decode(admin.secret, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    # The message does not show the text, because messages end up in logs.
    if size < SECRET_BYTES_MIN or len(admin.secret) > SECRET_MAX:
        raise fault("admin.secret", f"expected base64 of at least {SECRET_BYTES_MIN} bytes, in at most {SECRET_MAX} characters")
    if not 0 < len(admin.passphrase) <= SECRET_MAX:
        raise fault("admin.passphrase", f"expected 1 to {SECRET_MAX} characters")


def _check_admin_addresses(config: NodeConfig, fault: Fault) -> None:
    """Check the networks from which the operator's key may be used."""
    for position, text in enumerate(config.admin.addresses):
        try:
            addresses.network(text)
        except ValueError as error:
            raise fault(f"admin.addresses[{position}]", f"expected a network such as 10.0.0.0/8: {error}") from None


def _check_history(config: NodeConfig, fault: Fault) -> None:
    """Check the archive of the history and the URL of its database."""
    if config.history.archive_days == 1:
        raise fault("history.archive_days", "expected at least 2, or 0 for no archive: rolling figures need the latest two days")
    database = config.history.database
    # The message does not show the text, which may contain a password.
    if database and not (database.startswith(("postgresql://", "sqlite:////")) and _is_database(database)):
        raise fault(
            "history.database",
            "expected postgresql://... or sqlite:////absolute/path, or nothing for SQLite in the data directory",
        )
    if config.history.enabled and database.startswith("postgresql:") and find_spec("psycopg") is None:
        raise fault("history.database", "expected no PostgreSQL: it needs an extra, pip install 'quorumbook[postgresql]'")


def _is_database(text: str) -> bool:
    """Return whether the database's library can read a URL."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(text)
    except (ArgumentError, ValueError):
        return False
    return "\0" not in text


def _check_streams(config: NodeConfig, fault: Fault) -> None:
    """Check the broker, the topics and the options, if streams are enabled."""
    streams = config.streams
    if not streams.enabled:
        return
    scheme, separator, servers = streams.url.partition("://")
    if not separator or scheme not in STREAM_SCHEMES or any(split_address(each) is None for each in servers.split(",")):
        raise fault("streams.url", f"expected kafka://host:port,host:port or nats://host:port, not {streams.url!r}")
    if _TOPIC.fullmatch(streams.prefix) is None:
        raise fault("streams.prefix", "expected 1 to 100 letters, digits, '-', '_' or '.'")
    if streams.orders and _ORDERS.fullmatch(streams.orders) is None:
        raise fault("streams.orders", "expected the name of a topic: 1 to 64 letters, digits, '-', '_' or '.'")
    if streams.format not in STREAM_FORMATS:
        raise fault("streams.format", f"expected one of {', '.join(STREAM_FORMATS)}, not {streams.format!r}")
    for position, option in enumerate(streams.options):
        # The message does not show the text, which may be a password.
        if not all(option.partition("=")[::2]):
            raise fault(f"streams.options[{position}]", 'expected "name=value", such as "security.protocol=SSL"')


def _check_keys(config: NodeConfig, fault: Fault) -> None:
    """Check the networks of the HTTP section, and the cluster keys."""
    for name in ("trusted_proxies", "metrics_from"):
        for position, text in enumerate(getattr(config.http, name)):
            try:
                addresses.network(text)
            except ValueError as error:
                raise fault(f"http.{name}[{position}]", f"expected a network such as 10.0.0.0/8: {error}") from None
    try:
        ClusterKeys(config.cluster_key_path)
    except ClusterKeyError as error:
        raise fault("cluster_key", str(error)) from None


def advice(config: NodeConfig, path: Path) -> list[str]:
    """Return a line for each setting that a person should look at. `path` is the configuration's file."""
    return [*_open_secrets(config, path), *_plain_http(config)]


def _open_secrets(config: NodeConfig, path: Path) -> Iterator[str]:
    """Yield files with secrets that other users of the machine can read."""
    secrets = (
        (path, "the operator's key is in it"),
        (config.path(config.tls.key), "everybody who reads it can act as this node"),
        (config.cluster_key_path, "with it and a snapshot the traders' API keys can be read"),
    )
    for file, why in secrets:
        try:
            mode = file.stat().st_mode
        except OSError:
            continue
        # Kubernetes makes mounted secrets readable for the pod's group: fsGroup works that way.
        if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            yield f"{file} has mode {stat.S_IMODE(mode):04o}, and {why}: chmod 600"


def _plain_http(config: NodeConfig) -> Iterator[str]:
    """Yield a line if HTTP without TLS is reachable from other machines."""
    host = host_of(config.http.listen)
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not config.http.tls and not local and config.http.processes:
        yield (
            f"HTTP on {config.http.listen} has no TLS: others can read what clients send and receive, and change what is not protected by "
            "a signature. Set http.tls, or put a proxy with TLS in front of it"
        )
