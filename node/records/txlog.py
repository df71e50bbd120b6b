"""Transaction logs: a cluster's commands as JSON lines, converted back into log segments, and the state after any
command.

The first line of a file is a header; each following line is an entry of the log:

    {"format": 1, "abi": "...", "first_index": 1, "secrets": true}
    {"index": 3, "term": 1, "time": "2026-03-01T12:00:00.25Z", "commands": [{"kind": "OpenAccount", ...}]}

Amounts are whole numbers in smallest units, as in the log. `"migrated": true` marks an entry of version 0.1.0 in a log
that was brought to level 0.2.0 (`snapshots.levels.level.BROUGHT_TO`). The time is the leader's time stamp of the entry,
the only clock that the exchange uses. So everyone who applies the same entries gets the same state, and can compare its
hash.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from cluster.errors import LogDamagedError
from cluster.log import DurableLog, command_of, read_segments
from cluster.messages import COMMAND
from cluster.ports import LogEntry, Schemas
from cluster.storage import RealDisk
from node.config.settings import NodeConfig
from node.errors import TxlogError
from node.records.committed_log import level_at_start, log_directories
from snapshots.abi import ABI
from snapshots.levels.level import (
    ACCEPTED,
    OWN,
    Level,
    SetLevel,
    abi_behind,
    decode_set_level,
    encode_level_entry,
    is_level_entry,
)
from snapshots.levels.narrowing import NotAtLevelError
from snapshots.levels.states import apply, commands_of, empty, encoded, encoded_migrated, is_migrated, present_tables, restored
from snapshots.manifest import Manifest
from snapshots.tsv import TableLines, title
from snapshots.tsv_values import Codecs, Scales, ValueFault, time_text, time_value
from statemachine.commands import AnyCommand, Batch, PutApiKey
from statemachine.engine import Engine
from statemachine.tables import TABLES

FORMAT = 1

_codec = Codecs(Scales({}, {}), units={}).of(inspect.type_info(AnyCommand))


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first line. `first_index` is the first index of the log; entries without commands are left out."""

    format: int
    abi: str
    first_index: int
    secrets: bool
    level: Level = OWN


class TxEntry(msgspec.Struct, frozen=True):
    """A log entry that has commands or changes the level. `payload`: its bytes, if it comes from a log."""

    index: int
    term: int
    batch: Batch
    payload: bytes = b""
    change: SetLevel | None = None


PROGRESS_EVERY = 500
"""Log entries between two calls of a progress: many a second, and none costs much."""


class Txlog(msgspec.Struct, frozen=True):
    """A transaction log: its header and its entries, which are read lazily."""

    first_index: int
    entries: Iterator[TxEntry]
    secrets: bool = True
    level: Level = OWN
    """The level at the beginning."""


def of_node(config: NodeConfig) -> Txlog:
    """Read the log of a node, including older segments of this ABI. The log of a running node may end with uncommitted
    entries.

    Raises:
        TxlogError: there is no log. The entries raise it where the log is damaged.
    """
    entries = _entries(config)
    first = next(entries, None)
    if first is None:
        raise TxlogError(f"{config.data_path}: there is no log")

    begins = level_at_start(log_directories(config))

    def commands() -> Iterator[TxEntry]:
        level = begins
        for entry in itertools.chain([first], entries):
            payload = command_of(entry)
            if payload is None:
                continue
            change = _change(entry.index, payload)
            if change is None and is_level_entry(payload):
                continue  # a check of the level changes nothing
            if change is None:
                yield TxEntry(entry.index, entry.term, _batch(level, entry.index, payload), payload)
                continue
            level = change.to if change.old.abi == level.abi else level
            yield TxEntry(entry.index, entry.term, Batch(0, []), payload, change)

    return Txlog(first.index, commands(), level=begins)


def _entries(config: NodeConfig) -> Iterator[LogEntry]:
    try:
        yield from read_segments(*log_directories(config), abis=ACCEPTED)
    except (LogDamagedError, OSError) as error:
        raise TxlogError(f"{config.node_id}: {error}") from error


def _change(index: int, payload: bytes) -> SetLevel | None:
    try:
        return decode_set_level(payload)
    except msgspec.DecodeError as error:
        raise TxlogError(f"entry {index} is not a batch of commands of this version: {error}") from error


def _batch(level: Level, index: int, payload: bytes) -> Batch:
    try:
        return commands_of(level.abi, payload)
    except msgspec.DecodeError as error:
        raise TxlogError(f"entry {index} is not a batch of commands of this version: {error}") from error


def to_lines(log: Txlog, *, secrets: bool = True) -> Iterator[bytes]:
    """Yield the lines of a file without line ends. Without `secrets`, the secrets of API keys are left out, and hashes
    will differ.
    """
    yield msgspec.json.encode(Header(FORMAT, ABI, log.first_index, secrets, log.level))
    for entry in log.entries:
        if entry.change is not None:
            yield msgspec.json.encode({"index": entry.index, "term": entry.term, "level": entry.change})
            continue
        yield msgspec.json.encode(
            {
                "index": entry.index,
                "term": entry.term,
                "time": time_text(entry.batch.time),
                "commands": [_codec.encode(_exported(command, secrets)) for command in entry.batch.commands],
                **({"migrated": True} if entry.payload and is_migrated(entry.payload) else {}),
            }
        )


def _exported(command: AnyCommand, secrets: bool) -> AnyCommand:
    if secrets or not isinstance(command, PutApiKey):
        return command
    return msgspec.structs.replace(command, secret="", passphrase="")


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file: a log entry."""

    index: int
    term: int
    time: str | int = 0
    commands: list[Any] = []
    level: SetLevel | None = None
    migrated: bool = False


def of_file(path: Path) -> Txlog:
    """Read a transaction log from a file of JSON lines.

    Raises:
        TxlogError: the file is not a transaction log, or has another ABI. The entries raise it too, naming file, line and field.
    """
    try:
        with path.open("rb") as file:
            header = msgspec.json.decode(file.readline(), type=Header)
    except OSError as error:
        raise TxlogError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TxlogError(f"{path}, line 1: expected the heading of a transaction log: {error}") from error
    if header.format != FORMAT or header.abi != ABI:
        raise TxlogError(
            f"{path}, line 1: expected format {FORMAT} and ABI {ABI}, not format {header.format} and ABI {header.abi}: "
            "it was written by another version"
        )
    return Txlog(header.first_index, _read_lines(path), header.secrets, header.level)


def _read_lines(path: Path) -> Iterator[TxEntry]:
    """Yield the entries of a transaction log as JSON lines."""
    decoder = msgspec.json.Decoder(_Line)
    before = 0
    with path.open("rb") as file:
        file.readline()
        for number, text in enumerate(file, 2):
            try:
                line = decoder.decode(text)
                commands = [_command(position, each) for position, each in enumerate(line.commands)]
                batch = Batch(time_value(line.time), commands) if line.level is None else Batch(0, [])
                payload = encoded_migrated(batch.time, commands) if line.migrated else b""
                entry = TxEntry(line.index, line.term, batch, payload, line.level)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueFault, NotAtLevelError) as error:
                raise TxlogError(f"{path}, line {number}: {error}") from error
            if entry.index <= before:
                raise TxlogError(f"{path}, line {number}: expected an index above {before}, not {entry.index}")
            before = entry.index
            yield entry


def _command(position: int, value: Any) -> AnyCommand:
    """Decode a command of a line. Raises ValueFault."""
    try:
        command: AnyCommand = _codec.decode(value)
    except ValueFault as fault:
        raise ValueFault(fault.expected, f"commands.{position}.{fault.field}".rstrip(".")) from None
    return command


def write_log(directory: Path, log: Txlog) -> int:
    """Write a transaction log as log segments, as a node has them, into a new directory. Returns the number of entries.

    Missing entries, which had no commands, are written as empty entries.

    Raises:
        TxlogError: the directory holds something.
        OSError: it cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise TxlogError(f"{directory} is not empty; name another directory")
    durable = DurableLog(
        RealDisk(directory, fsync=True, archive_to=None),
        node_id="txlog",
        schemas=Schemas(lambda: log.level.abi, ACCEPTED, abi_behind),
    )
    durable.load()
    expected, entries = log.first_index, 0
    for entry in log.entries:
        for index in range(expected, entry.index):
            durable.append(LogEntry(bytes([COMMAND]), index, entry.term))
        if entry.change is not None:
            payload = encode_level_entry(entry.change)
        else:
            payload = entry.payload or encoded(durable.abi_at_end, entry.batch.time, entry.batch.commands)
        durable.append(LogEntry(bytes([COMMAND]) + payload, entry.index, entry.term))
        expected, entries = entry.index + 1, entries + 1
    durable.sync()
    durable.close()
    return entries


class Rebuilt(msgspec.Struct, frozen=True):
    """The exchange's state after a command.

    Attributes:
        index: of the last applied entry.
        clock: the exchange's time after it, in nanoseconds since the epoch.
        cut: the last entry holds more commands. Then no node ever had this running hash; everything else is exact.
    """

    engine: Engine
    index: int
    clock: int
    cut: bool


def rebuild(
    log: Txlog,
    until: int | None = None,
    *,
    last_index: int | None = None,
    base: tuple[int, Engine] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Rebuilt:
    """Apply the entries of a log up to command number `until` or entry `last_index`.

    Args:
        base: the index and the engine to begin with, where the log does not reach back to its first entry.
        progress: called now and then with the number of the last command.

    Raises:
        TxlogError: the log does not hold what is needed.
    """
    index, engine = base or (0, empty(log.level))
    if log.first_index > index + 1:
        raise TxlogError(
            f"the log begins with entry {log.first_index}, and entry {index + 1} is needed: "
            "raft.archive_log = true keeps the whole log"
        )
    cut = False
    for entry in log.entries:
        if entry.index <= index or engine.sequence == until:
            continue
        if last_index is not None and entry.index > last_index:
            break
        if entry.change is not None:
            engine, _ = apply(engine, encode_level_entry(entry.change))
            index = entry.index
            continue
        left = len(entry.batch.commands) if until is None else until - engine.sequence
        cut = left < len(entry.batch.commands)
        batch = entry.batch
        if entry.payload and not cut:
            engine.apply_entry(entry.payload)
        else:
            engine.apply(msgspec.structs.replace(batch, commands=batch.commands[:left]) if cut else batch)
        index = entry.index
        if progress is not None and index % PROGRESS_EVERY == 0:
            progress(engine.sequence)
        if engine.sequence == until:
            break
    if until is not None and engine.sequence != until:
        raise TxlogError(f"the log ends with command {engine.sequence}; there is no command {until}")
    return Rebuilt(engine, index, engine.time, cut)


def rebuilt_snapshot(config: NodeConfig, manifest: Manifest) -> Engine:
    """Rebuild the state of a snapshot from the node's whole log.

    Raises:
        TxlogError: the log is not whole, or gives another state.
    """
    engine = rebuild(of_node(config), last_index=manifest.index).engine
    if (engine.sequence, engine.full_hash()) != (manifest.sequence, manifest.full_hash):
        raise TxlogError(
            f"{config.data_path}: the log up to entry {manifest.index} gives sequence {engine.sequence} and another state than the snapshot "
            f"there, with sequence {manifest.sequence}. Keep the directory, and compare with the other nodes"
        )
    return restored(manifest.abi, dict(engine.tables()))  # so that it counts its changes from the snapshot on


def differences(one: Engine, other: Engine) -> Iterator[str]:
    """Yield rows that only one of two states has, as lines of TSV by table: `- ` for the first state, `+ ` for the
    second.
    """
    first, second = present_tables(one), present_tables(other)
    first_lines, second_lines = TableLines(first), TableLines(second)
    for name in TABLES:
        first_rows, second_rows = set(first[name]), set(second[name])
        removed, added = sorted(first_rows - second_rows), sorted(second_rows - first_rows)
        if removed or added:
            yield f"# table = {title(name)}"
            yield f"  {first_lines.header(name)}"
            yield from (f"- {line}" for line in first_lines.of(name, removed))
            yield from (f"+ {line}" for line in second_lines.of(name, added))
