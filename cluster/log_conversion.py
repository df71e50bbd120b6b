"""Conversion of a node's log to another schema. Entries keep their index and term, and the node keeps its term, vote
and right to vote.

So nothing changes for Raft: each node has the same entries, committed or not, and the same votes.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster import hardstate
from cluster.hardstate import HardState
from cluster.log import DurableLog, command_of
from cluster.ports import Disk, LogEntry

COUNTED_EVERY = 1_000
"""Log entries between two calls of a progress."""

Convert = Callable[[bytes], bytes]
"""Converts a command's bytes from the old schema to the other one."""


def convert_entry(entry: LogEntry, convert: Convert) -> LogEntry:
    """Return the entry in the other schema. An entry without a command does not change."""
    command = command_of(entry)
    if command is None:
        return entry
    return entry._replace(payload=entry.payload[:1] + convert(command))


def convert_log(
    source: Disk,
    target: Disk,
    *,
    node_id: str,
    from_abi: str,
    to_abi: str,
    convert: Convert,
    counted: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[LogEntry]:
    """Write the whole log of `source` to `target`, which is empty. It is durable on return. Returns the entries as
    written.

    Args:
        counted: called now and then with the entries that were converted, and all of them.

    Raises:
        LogDamagedError: the log is damaged.
        LogAbiError: the log has another schema than `from_abi`.
    """
    old = DurableLog(source, node_id=node_id, abi=from_abi)
    loaded = old.load()
    entries = []
    for number, entry in enumerate(loaded, 1):
        entries.append(convert_entry(entry, convert))
        if number % COUNTED_EVERY == 0:
            counted(number, len(loaded))
    new = DurableLog(target, node_id=node_id, abi=to_abi)
    for entry in entries:
        new.append(entry)
    new.close()
    state = hardstate.load(source)
    if old.doubtful:
        # The cut also removed the reason for `doubtful`; see `RaftLog`.
        state = msgspec.structs.replace(state or HardState(), recovering=True)
    if state is not None:
        hardstate.store(target, state)
    return entries


def raise_term(disk: Disk, above: HardState | None) -> None:
    """Let a node that returns to an older log begin in a term that is later than any it has known since.

    All entries since then have lower terms than the next ones. So a node that did not return to the older log detects
    that its entries are not those of its cluster, and stops.
    """
    state = hardstate.load(disk)
    if state is not None and above is not None:
        hardstate.store(disk, msgspec.structs.replace(state, term=max(state.term, above.term) + 1, voted_for=None))
