"""Removes secrets from configurations and texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from node.config.settings import NodeConfig

HIDDEN = "********"
SECRETS = frozenset({"secret", "passphrase", "database", "options"})
"""Keys whose values are hidden: the operator's key, and a database's URL and a broker's options, which may contain a
password.
"""

SECRET_LENGTH_MIN = 6
"""A shorter secret may be part of any word, so it is hidden only as the value of its key, not everywhere."""


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables to dotted keys, without the values of `SECRETS`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = HIDDEN if key in SECRETS and value else value
    return found


def settings(config: NodeConfig) -> dict[str, Any]:
    """Return all settings in effect by dotted key, without secrets."""
    found = flat(msgspec.to_builtins(config))
    found.pop("directory", None)
    return found


def secrets_of(config: NodeConfig) -> set[bytes]:
    """Return the secrets in a node's files: the operator's key, a database's password, the cluster keys, the private
    key.
    """
    texts = {config.admin.secret, config.admin.passphrase}
    try:
        texts.add(urlsplit(config.history.database).password or "")
    except ValueError:
        texts.add(config.history.database)
    texts |= {option.partition("=")[2] for option in config.streams.options if "password" in option.partition("=")[0]}
    found = {text.encode() for text in texts if len(text) >= SECRET_LENGTH_MIN}
    for path in (config.cluster_key_path, config.path(config.tls.key)):
        try:
            lines = path.read_bytes().split()
        except OSError:
            continue
        found |= {line.strip(b'",:') for line in lines if len(line) >= 40}
    return found


def scrub(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """Return the bytes with each secret replaced."""
    for secret in secrets:
        data = data.replace(secret, HIDDEN.encode())
    return data
