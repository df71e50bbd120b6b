"""Removes secrets from configurations and texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from node.config.settings import NodeConfig

HIDDEN = "********"
SECRETS = frozenset({"secret", "passphrase", "database", "options"})
"""Keys whose values are hidden: the operator's key, and a database's URL and a broker's options, which may contain a
password.
"""

_SECRET_WORDS = ("password", "secret", "token", "key", "pem", "passphrase", "credential", "config")
"""A broker's option with such a word in its name may have a secret as its value, such as `sasl.jaas.config`."""

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
    texts = {config.admin.secret, config.admin.passphrase, *_passwords(config.history.database)}
    options = [option.partition("=")[::2] for option in config.streams.options]
    texts |= {value for name, value in options if any(word in name.lower() for word in _SECRET_WORDS)}
    found = {text.encode() for text in texts if len(text) >= SECRET_LENGTH_MIN}
    for path in (config.cluster_key_path, config.path(config.tls.key)):
        try:
            lines = path.read_bytes().split()
        except OSError:
            continue
        found |= {line.strip(b'",:') for line in lines if len(line) >= 40}
    return found


def _passwords(url: str) -> set[str]:
    """Return the passwords in a database's URL, as written and as decoded. A password may contain any character, "/"
    and "#" among them, so it ends at the last "@" of the URL without its parameters.
    """
    place, _, parameters = url.partition("://")[2].partition("?")
    found = {value for name, value in parse_qsl(parameters) if "password" in name}
    for text in (place, url.partition("://")[2]):  # a "?" may belong to the password
        written = text.rpartition("@")[0].partition(":")[2]
        found |= {written, unquote(written)}
    return found


def scrub(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """Return the bytes with each secret replaced."""
    for secret in secrets:
        data = data.replace(secret, HIDDEN.encode())
    return data
