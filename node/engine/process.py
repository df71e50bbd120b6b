"""`python -m node.engine.process --config node.toml [--rejoin]`: a node's engine, until SIGTERM.

One process, one thread that matters, one event loop: Raft's ticks, the state machine, and the sessions of the native
protocol take turns on it. So this module needs no locks, and any long operation delays a heartbeat. `parts`
builds the objects that run on it.

Exit codes: see `node.exit_codes`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

from cluster.errors import ClusterError
from cluster.raft import Raft
from node import exit_codes
from node.config.file import load
from node.config.settings import NodeConfig
from node.config.start import stop_event
from node.data_directory import identity
from node.engine import failures, levels
from node.engine.housekeeping import Housekeeping
from node.engine.modes import Mode, Modes
from node.engine.parts import Parts, build
from node.engine.startup import check_other_nodes
from node.errors import NodeRunningError, QuorumbookError
from node.migration.start import at_start, finish_interrupted
from node.system import software, stop_times
from node.system.logs import set_up
from node.system.processes import ENGINE_PID_FILE, PidFile, raise_limit, watch_parent
from node.system.sockets import listening
from node.tls import pki
from snapshots.abi import ABI
from snapshots.errors import SnapshotError

log = logging.getLogger("node.engine.process")

POLL_SECONDS = 0.01
"""Seconds between two checks of a condition while the engine starts or stops."""

SWITCH_INTERVAL = 0.0005
"""Seconds for which another thread may keep the interpreter from the event loop. Python's default of 5 ms is as long as
the whole processing of an entry.
"""

COLLECTOR = (10_000, 20, 20)
"""Thresholds of the garbage collector. Python's default looks through the young objects after 700 new ones, which an
entry of a few dozen orders makes; nearly all of them are freed by their reference counts.
"""

CATCH_UP_SECONDS = 1.0
"""Seconds for which a stopping leader waits until a follower has the whole log. The leader proposes nothing new, so a
round or two is enough.
"""

LOCK_TIMEOUT = 5.0
"""Seconds to wait for the lock of the data directory."""


async def run(
    config: NodeConfig,
    known: identity.DirectoryIdentity,
    stop: asyncio.Event,
    *,
    modes: Modes | None = None,
    settled: Callable[[], object] = lambda: None,
) -> int:
    """Run the engine until `stop` is set or a failure ends it. Returns the process's exit code. `settled` is called
    when all data is read from disk, and after each snapshot: most objects in memory at that time are long-lived.
    """
    modes = modes or Modes(config.node_id)
    modes.enter(Mode.BOOTSTRAPPING)
    try:
        parts = build(config, known, modes)
        identity.mark_started(config, known)
    except (QuorumbookError, ClusterError, SnapshotError, OSError) as error:
        return failures.cannot_start(config, error)
    try:
        await _listen(parts, config)
    except OSError as error:
        await parts.server.stop()
        parts.raft.stop()
        return failures.cannot_start(config, error)
    parts.raft.on_role_change.append(
        lambda role, leader: log.info("%s is %s; leader: %s", config.node_id, role, leader or "none")
    )
    settled()
    _leave_to_former(parts, config)
    # The log lets go of what the snapshot covers first.
    parts.snapshots.written = functools.partial(asyncio.get_running_loop().call_soon, _leave_to_former, parts, config)
    modes.enter(Mode.INITIALISING)
    parts.raft.start()
    keeping = Housekeeping(config, parts.service, parts.raft, parts.snapshots, parts.machine, settled)
    keeping.start()
    watching = asyncio.create_task(parts.certificates.run())
    ended = asyncio.ensure_future(_first_failure(parts.driver.run(), _failures_of_callbacks()))
    asked = asyncio.create_task(stop.wait())
    await asyncio.wait((ended, asked), return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    watching.cancel()
    keeping.stop()
    if not ended.done():
        await _stop(parts, config, ended)
    return await _end(parts, ended, config)


async def _first_failure(driver: Coroutine[Any, Any, None], failed: asyncio.Future[None]) -> None:
    """Wait until the driver has been stopped. Raises the exception that ends the node before that."""
    task = asyncio.create_task(driver)
    try:
        await asyncio.wait((task, failed), return_when=asyncio.FIRST_COMPLETED)
        await (task if task.done() else failed)
    finally:
        task.cancel()
        failed.cancel()


def _failures_of_callbacks() -> asyncio.Future[None]:
    """Return a future that gets the first exception of a callback of the engine. Such an exception is a defect: the
    callback did not complete.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "handle" in context and isinstance(error, Exception) and not failed.done():
            failed.set_exception(error)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    return failed


async def _listen(parts: Parts, config: NodeConfig) -> None:
    """Open the ports, and log that the node is up."""
    await parts.server.listen_local(config.engine_socket)
    context = pki.server_context(config, require_client_cert=False)
    with listening("native.listen", config.native.listen):
        await parts.server.listen_tls(config.native.listen, context)
    status = parts.raft.status()
    log.info(
        "%s of %s is up: ABI %s, log %d to %d, snapshot %d, native %s, raft %s",
        config.node_id,
        config.cluster_id,
        ABI[:12],
        status.first_log_index,
        status.last_log_index,
        status.snapshot_index,
        config.native.listen,
        config.raft.listen,
    )


async def _stop(parts: Parts, config: NodeConfig, ended: asyncio.Future[None]) -> None:
    """Refuse new commands, finish pending ones, transfer leadership, and write a snapshot. The sessions are closed
    after that.

    A kill or a timeout during this work loses nothing: the log holds all commands.
    """
    modes = parts.service.modes
    modes.enter(Mode.UNLOAD)
    parts.service.begin_stop()
    await _until(lambda: parts.service.idle, stop_times.DRAIN, ended)
    if await _asked_to_lead(parts.raft, ended):
        await _until(lambda: bool(parts.raft.leader_id) and not parts.raft.is_leader, stop_times.TRANSFER, ended)
    modes.enter(Mode.UNLOADING)
    if config.snapshot.on_stop and parts.machine.engine.sequence > parts.snapshots.sequence:
        await _last_snapshot(parts, ended)
    modes.enter(Mode.CLOSED)
    await parts.server.stop()
    parts.driver.stop()


async def _asked_to_lead(raft: Raft, ended: asyncio.Future[None]) -> bool:
    """Transfer leadership. Returns whether another node was asked to lead. A follower that lacks a pending entry
    catches up a moment later, so the transfer is retried.
    """
    asked: list[bool] = []

    def ask() -> bool:
        asked.append(raft.is_leader and raft.transfer_leadership())
        return asked[-1] or not raft.is_leader or not _reaches_another(raft)

    await _until(ask, CATCH_UP_SECONDS, ended)
    return asked[-1]


def _reaches_another(raft: Raft) -> bool:
    return any(state.connected and state.member.node_id != raft.node_id for state in raft.status().members)


async def _last_snapshot(parts: Parts, ended: asyncio.Future[None]) -> None:
    """Write a snapshot of the applied state. A failure is logged and ends the wait."""
    wanted, failed = parts.raft.status().applied_index, parts.snapshots.failed
    parts.raft.request_snapshot()

    def settled() -> bool:
        return parts.raft.status().snapshot_index >= wanted or parts.snapshots.failed > failed

    await _until(settled, stop_times.SNAPSHOT, ended)
    if parts.raft.status().snapshot_index < wanted:
        log.warning("stopping without a last snapshot; the log holds all commands")


async def _end(parts: Parts, ended: asyncio.Future[None], config: NodeConfig) -> int:
    """Close all resources. Log why the node ends if no stop was requested."""
    code = 0
    try:
        await ended
    except Exception as error:  # noqa: BLE001  # any exception is logged there, and the node ends
        code = failures.must_stop(config, error, lambda: _progress(parts))
    await parts.server.stop(wait=0.2)
    parts.service.modes.enter(Mode.SHUTDOWN)
    with contextlib.suppress(OSError):
        parts.raft.stop()
    parts.snapshots.cancel()
    if not code:
        _leave_to_former(parts, config)
    log.info("%s has stopped", config.node_id)
    return code


def _leave_to_former(parts: Parts, config: NodeConfig) -> None:
    """Let software of an earlier level start on the data, if the cluster has returned to it."""
    try:
        levels.leave_to_former(config, parts.machine.level, parts.disk)
    except (OSError, SnapshotError, ClusterError) as error:
        log.error(
            "what only this version can read was not removed: version %s cannot start: %s", parts.machine.level.version, error
        )


def _progress(parts: Parts) -> str:
    status = parts.raft.status()
    return f"applied index {status.applied_index}, commit index {status.commit_index}, sequence {parts.service.sequence}"


async def _until(condition: Callable[[], bool], seconds: float, ended: asyncio.Future[None]) -> None:
    """Wait until a condition holds, the time is over, or the engine has ended."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition() and loop.time() < deadline and not ended.done():
        await asyncio.wait((ended,), timeout=POLL_SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m node.engine.process", description="the engine process of a node")
    parser.add_argument("--config", type=Path, required=True, help="the node's TOML file")
    parser.add_argument("--rejoin", action="store_true", help="the node lost its disk: take part without a vote until caught up")
    options = parser.parse_args(arguments)
    if not __debug__:
        sys.stderr.write("error: assertions are part of this program; start it without -O and without PYTHONOPTIMIZE\n")
        return exit_codes.CANNOT_START
    try:
        config = load(options.config)
        set_up(config.log_level, f"{config.node_id} engine", config.log_format)
        raise_limit()
        log.info("quorumbook %s, ABI %s", software.title(), ABI)
        watch_parent()
        return _run_locked(config, rejoin=options.rejoin)
    except (QuorumbookError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return exit_codes.CANNOT_START


def _run_locked(config: NodeConfig, *, rejoin: bool) -> int:
    """Run with the data directory locked. Two engines on one log would destroy it."""
    known = identity.format_data(config, rejoin=True) if rejoin else identity.read(config)
    lock = _acquire(config.data_path / ENGINE_PID_FILE)
    try:
        modes = Modes(config.node_id, lock.note)
        try:
            finish_interrupted(config)
            if not levels.runs_as_it_is(config.data_path):
                check_other_nodes(config)
                at_start(config)
        except (QuorumbookError, ClusterError, SnapshotError, OSError) as error:
            return failures.cannot_start(config, error)
        return uvloop.run(_until_signal(config, known, modes))
    finally:
        lock.release()


def _acquire(path: Path) -> PidFile:
    """Take the lock. Waits a little, because an engine whose supervisor was just killed may still be stopping."""
    until = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            return PidFile.acquire(path)
        except NodeRunningError:
            if time.monotonic() > until:
                raise
        time.sleep(POLL_SECONDS)


async def _until_signal(config: NodeConfig, known: identity.DirectoryIdentity, modes: Modes) -> int:
    """Run the engine until a signal stops it. Returns the exit code."""
    stop = stop_event()
    # The thread that feeds a snapshot's writer must release the interpreter to the event loop quickly: the loop needs
    # it back after every fsync of Raft's.
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(*COLLECTOR)
    return await run(config, known, stop, modes=modes, settled=_settle)


def _settle() -> None:
    """Exclude the objects in memory from garbage collection: a full collection over 300,000 orders takes 0.4 s, longer
    than an election timeout.

    Young garbage is collected first, unless a state is being loaded, which that collection would traverse. The excluded
    objects are from now on freed by their reference counts.
    """
    if gc.isenabled():
        gc.collect(1)
    gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
