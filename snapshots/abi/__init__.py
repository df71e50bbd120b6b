"""The schema's checksum: two programs with the same ABI write and read the same bytes.

The ABI is the SHA-1, in hex, of the schema's description: canonical JSON with every persistent table and its key, and
every command, outcome, event and enumeration that is reachable from them, with their names, orders, types, tags,
defaults and values. Docstrings, comments and the order of modules do not matter.

schema       a schema as data, and as text
inspection   the schema of this software, from its types
difference   what changed between two, in words
releases     the descriptions of all released ABIs, kept forever
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snapshots.abi.inspection import MESSAGES, schema_of
from statemachine.tables import TABLES

SCHEMA = schema_of()
"""The schema of this software."""

ABI = SCHEMA.abi
"""The ABI of this software."""


def abi(tables: Mapping[str, Any] = TABLES, messages: Mapping[str, Any] = MESSAGES) -> str:
    """Return the checksum of a schema, 40 hex digits."""
    return schema_of(tables, messages).abi
