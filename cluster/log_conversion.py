"""A node's log written anew in another schema: entries keep their index and term, and the node its term, vote and right
to vote.

So Raft sees no difference: whoever had an entry has it, committed or not, and the same votes were given.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster import hardstate
from cluster.hardstate import HardState
from cluster.log import DurableLog, command_of
from cluster.ports import Disk, LogEntry

Convert = Callable[[bytes], bytes]
"""A command's bytes in the old schema to those in the other one."""


def convert_entry(entry: LogEntry, convert: Convert) -> LogEntry:
    """The entry in the other schema; one without a command is the same."""
    command = command_of(entry)
    if command is None:
        return entry
    return entry._replace(payload=entry.payload[:1] + convert(command))


def convert_log(source: Disk, target: Disk, *, node_id: str, from_abi: str, to_abi: str, convert: Convert) -> list[LogEntry]:
    """Write the whole log of `source` to `target`, which is empty; durable on return. The entries as they were written.

    Raises:
        LogDamagedError: the log cannot be trusted.
        LogAbiError: it is not of `from_abi`.
    """
    old = DurableLog(source, node_id=node_id, abi=from_abi)
    entries = [convert_entry(entry, convert) for entry in old.load()]
    new = DurableLog(target, node_id=node_id, abi=to_abi)
    for entry in entries:
        new.append(entry)
    new.close()
    state = hardstate.load(source)
    if old.doubtful:
        # The end was cut and with it the reason to doubt; see `RaftLog`.
        state = msgspec.structs.replace(state or HardState(), recovering=True)
    if state is not None:
        hardstate.store(target, state)
    return entries


def raise_term(disk: Disk, above: HardState | None) -> None:
    """Make a node that goes back to an older log begin in a term that is later than any it has known since.

    What was applied since has lower terms than whatever comes now: a node that did not go back notices that its entries
    are not those of its cluster, and stops.
    """
    state = hardstate.load(disk)
    if state is not None and above is not None:
        hardstate.store(disk, msgspec.structs.replace(state, term=max(state.term, above.term) + 1, voted_for=None))
