"""`docs/operations.md` explains every key of the configuration with its default."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from node.config.settings import (
    AdminConfig,
    FixConfig,
    HistoryConfig,
    HttpConfig,
    NativeConfig,
    NodeAddress,
    NodeConfig,
    RaftConfig,
    SnapshotConfig,
    StartConfig,
    StreamsConfig,
    TlsConfig,
    TracingConfig,
)

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"
SECTIONS: dict[str, type[msgspec.Struct]] = {
    "raft": RaftConfig,
    "snapshot": SnapshotConfig,
    "start": StartConfig,
    "native": NativeConfig,
    "http": HttpConfig,
    "fix": FixConfig,
    "history": HistoryConfig,
    "streams": StreamsConfig,
    "tracing": TracingConfig,
    "tls": TlsConfig,
    "admin": AdminConfig,
    "nodes": NodeAddress,
}
NOT_KEYS = {"directory", *SECTIONS}


def keys() -> dict[str, str]:
    """Return every key of a node's file, dotted, with its default as TOML writes it, or "" if the default depends on
    the machine.
    """
    found = {}
    structs: dict[str, type[msgspec.Struct]] = {"": NodeConfig, **SECTIONS}
    for prefix, struct in structs.items():
        for field in msgspec.structs.fields(struct):
            if prefix or field.encode_name not in NOT_KEYS:
                default = (
                    ""
                    if field.required or field.default is None  # None: it depends on the machine
                    else str(field.default).replace("True", "true").replace("False", "false").replace("()", "[]")
                )
                found[f"{prefix}.{field.encode_name}" if prefix else field.encode_name] = default
    return found


def documented() -> dict[str, str]:
    """Return the default of each key from the rows of the page's table."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Configuration\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_.]+)` \|([^|]*)\|", section, flags=re.MULTILINE)
    return {key: default.strip(" `") for key, default in rows}


def test_every_key_is_there_with_its_default() -> None:
    assert documented() == keys()
