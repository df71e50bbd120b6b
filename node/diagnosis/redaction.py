"""Configurations and texts without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from node.config.settings import NodeConfig

HIDDEN = "********"
SECRETS = frozenset({"secret", "passphrase", "database", "options"})
"""Keys whose values are not shown: the operator's key, and the URL of a database and the options of a broker, which may
hold a password.
"""

SECRET_LENGTH_MIN = 6
"""A shorter text may be part of any word: it is hidden where it stands as the value of its key, and not looked for
elsewhere.
"""


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A table of tables as one table with dotted keys, without the values of `SECRETS`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = HIDDEN if key in SECRETS and value else value
    return found


def settings(config: NodeConfig) -> dict[str, Any]:
    """All settings in effect by dotted key, without secrets."""
    found = flat(msgspec.to_builtins(config))
    found.pop("directory", None)
    return found


def secrets_of(config: NodeConfig) -> set[bytes]:
    """The secrets that a node's files hold: the operator's key, a database's password, the cluster keys, the private
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
    """The bytes with each secret replaced."""
    for secret in secrets:
        data = data.replace(secret, HIDDEN.encode())
    return data
