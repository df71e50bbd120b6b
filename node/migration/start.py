"""The migration at a start: finishes an interrupted one, and migrates the data of another version."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

from node.config.settings import NodeConfig
from node.migration import cutover, keeping
from node.migration.contents import Found, check_known, look
from node.migration.conversion import Builder, Built
from node.system import software
from snapshots import durable
from snapshots.errors import MigrationError
from snapshots.levels.level import ACCEPTED, BROUGHT_TO
from snapshots.migration.chain import Chains, Step

log = logging.getLogger(__name__)

SCRIPTS = "migrations"
"""Directory beside `node.toml` with the operator's executables, each named after its source ABI."""


def chains(config: NodeConfig) -> Chains:
    """Return the chains of steps that this node may use."""
    return Chains(scripts=Path(config.directory) / SCRIPTS)


def finish_interrupted(config: NodeConfig) -> None:
    """Finish a migration or a rollback that was killed while data was exchanged, and remove what one left. Until then
    snapshots and log may be of different times, so this comes before anything is read.

    Raises:
        DataDirectoryError, OSError: the directory cannot be read or written.
    """
    if cutover.finish(config.data_path):
        log.warning("an interrupted exchange of former and present data is finished now")
    cutover.draft(config.data_path)
    durable.remove(config.data_path / keeping.DRAFT)


def at_start(config: NodeConfig, known: Chains | None = None) -> Built | None:
    """Bring the data directory to a level that this software can run (`level.BROUGHT_TO`); None if it already has one.
    No other process may use the directory during the call.

    Raises:
        UnknownAbiError, MigrationError: it cannot be done; the data is unchanged.
        SnapshotDamagedError, LogDamagedError, DataDirectoryError: the data is damaged or inconsistent.
        OSError: the directory cannot be read or written; the data is unchanged.
    """
    finish_interrupted(config)
    data = config.data_path
    found = look(data)
    if found.abi is None or found.abi in ACCEPTED:
        return None
    log.warning(
        "the data in %s has ABI %s (%s), at whose level this software cannot run: it is brought to level %s",
        *(data, found.abi, found.writer, BROUGHT_TO.version),
    )
    built = _migrate(config, found, known or chains(config))
    log.warning(
        "migrated in %.1f s: %d rows, %d log entries; the former data is kept until: quorumbook migrate --finalize",
        built.seconds,
        sum(map(len, built.after.values())),
        built.report.entries,
    )
    return built


def _migrate(config: NodeConfig, found: Found, known: Chains) -> Built:
    """Migrate the data at a start."""
    assert found.abi is not None
    check_known(found, known.releases, software.version())
    out = cutover.draft(config.data_path)
    steps = known.find(found.abi, BROUGHT_TO.abi)
    for step in steps:
        log.warning("step, %s: %s to %s", step.how, known.releases.title(step.source.abi), known.releases.title(step.target.abi))
    try:
        built = Builder(found, out, steps, known.releases, config.node_id, log.info).build()
        record = cutover.MigrationRecord(
            found.abi,
            BROUGHT_TO.abi,
            software.version(),
            time.time_ns(),
            built.snapshot_index,
            built.last_index,
            built.last_term,
            built.state_hash.hex(),
            _digest(steps),
        )
    except OSError as error:
        durable.remove(out)
        raise MigrationError("the migrated data is written", str(error.filename or out), error.strerror or str(error)) from error
    except BaseException:
        durable.remove(out)
        raise
    cutover.commit(config.data_path, record)
    return built


def _digest(steps: list[Step]) -> str:
    """Return a digest of steps and executables: nodes with the same digest have migrated in the same way."""
    made = hashlib.sha256()
    for step in steps:
        made.update(f"{step.source.abi} {step.target.abi} {step.how}\n".encode())
        if step.script is not None:
            made.update(step.script.read_bytes())
    return made.hexdigest()[:16]
