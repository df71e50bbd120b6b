"""What is allowed in a node's configuration and hardly meant: told once, when the node starts."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator
from pathlib import Path

from node.config.settings import NodeConfig


def advice(config: NodeConfig, path: Path) -> list[str]:
    """A line for each thing that a person should look at. `path` is the configuration's file."""
    return [*_open_secrets(config, path), *_plain_http(config)]


def _open_secrets(config: NodeConfig, path: Path) -> Iterator[str]:
    """Files with secrets that others on the machine may read."""
    secrets = (
        (path, "the operator's key is in it"),
        (config.path(config.tls.key), "whoever has it can be this node"),
        (config.cluster_key_path, "whoever has it and a snapshot has the traders' API keys"),
    )
    for file, why in secrets:
        try:
            mode = file.stat().st_mode
        except OSError:
            continue
        # Kubernetes mounts secrets as readable for the pod's group: that is how fsGroup works.
        if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            yield f"{file} has mode {stat.S_IMODE(mode):04o}, and {why}: chmod 600"


def _plain_http(config: NodeConfig) -> Iterator[str]:
    """HTTP without TLS where others can listen in."""
    host = config.http.listen.rpartition(":")[0].strip("[]")
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not config.http.tls and not local and config.http.gateways:
        yield (
            f"HTTP on {config.http.listen} goes without TLS: what clients send and get can be read on the way, and changed but for what "
            "a signature covers. Set http.tls, or put a proxy with TLS in front of it"
        )
