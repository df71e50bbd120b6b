"""A node's first process: it starts the engine and the gateways, keeps them running, and stops them in order.

- A gateway that ends is restarted after growing pauses, because it holds no state.
- An engine that a signal killed is restarted in the same way, because everything that it promised is on disk.
- An engine that exits with an exit code cannot continue: see `exit_codes`. The node then stops with that code, and a
  person has to act.
- A history whose database it must not use (of a later version, of another node) exits with `CANNOT_START`. It is not
  restarted, and the node continues without it.
- On SIGTERM or SIGINT the gateways finish their requests, then the engine transfers leadership and ends. A process that
  takes too long is killed. A second signal kills at once.

However the supervisor ends, its children end too: see `processes.watch_parent`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from node import exit_codes
from node.config.checks import advice
from node.config.file import load
from node.config.settings import NodeConfig
from node.data_directory import identity
from node.errors import QuorumbookError
from node.system import logs, stop_times
from node.system.processes import PARENT_PIPE, PID_FILE, PidFile, raise_limit
from node.system.sockets import is_taken

LOG_SECONDS = 5.0
"""Seconds between two checks of the log's size."""

Report = Callable[[str], None]
log = logging.getLogger(__name__)


class ChildSpec(msgspec.Struct, frozen=True):
    """A process to keep running. `final_codes`: a positive exit code ends the node. `first_args` apply to its first
    start only. `may_give_up`: after `CANNOT_START` it is not restarted, and the node continues without it. `shares_port`: it
    listens on `http.listen`, as others of this node do.
    """

    name: str
    argv: tuple[str, ...]
    first_args: tuple[str, ...] = ()
    final_codes: bool = False
    may_give_up: bool = False
    shares_port: bool = False


class Patience(msgspec.Struct, frozen=True):
    """The supervisor's times, in seconds."""

    pause_min: float = 0.1
    """Pause before the first restart; each further one doubles it."""
    pause_max: float = 5.0
    healthy: float = 10.0
    """A process that lived this long is restarted with the shortest pause."""
    gateway_grace: float = stop_times.GATEWAY
    engine_grace: float = stop_times.ENGINE
    """From the request to stop until SIGKILL."""
    port_poll: float = 0.1
    """Between two checks whether the gateways' port is free."""


class Supervisor:
    """Keeps one engine and its gateways running until a stop is requested, or until the engine cannot continue.

    Args:
        report: takes each line that a person should read.
        http: the address that gateways share; "" if it is not checked.
    """

    def __init__(
        self,
        engine: ChildSpec,
        gateways: Sequence[ChildSpec],
        *,
        patience: Patience | None = None,
        report: Report,
        http: str = "",
    ) -> None:
        self._engine = engine
        self._gateways = list(gateways)
        self._patience = patience or Patience()
        self._report = report
        self._http = http
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._pipe = -1

    def request_stop(self) -> None:
        """Begin to stop. A second call kills at once."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def end_with_terminal(self) -> None:
        """Begin to stop, unless that has begun."""
        self._stopping.set()

    async def run(self) -> int:
        """Run the node. Returns the exit code for this process: 0 after a requested stop, otherwise the engine's."""
        self._pipe, write_end = os.pipe()
        self._port_free = asyncio.create_task(self._wait_for_port())
        tasks = {spec.name: asyncio.create_task(self._keep(spec)) for spec in (self._engine, *self._gateways)}
        engine = tasks.pop(self._engine.name)
        stop_asked = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([engine, stop_asked], return_when=asyncio.FIRST_COMPLETED)
            stop_requested = self._stopping.is_set()
            if not stop_requested:
                self._report(self._last_words(engine.result()))
            self._stopping.set()
            await self._end(tasks, self._patience.gateway_grace)
            await self._end({self._engine.name: engine}, self._patience.engine_grace)
            code = engine.result()
            # Before a process has installed its handler, SIGTERM just ends it, and that is what was requested.
            return 0 if stop_requested and code == -signal.SIGTERM else _exit_code(code)
        finally:
            stop_asked.cancel()
            self._port_free.cancel()
            self._stopping.set()
            self._signal(self._running, signal.SIGKILL)
            await asyncio.gather(engine, *tasks.values(), return_exceptions=True)
            os.close(write_end)
            os.close(self._pipe)

    async def _keep(self, spec: ChildSpec) -> int:
        """Start a process, and restart it when it ends. Returns the exit code after which it must not be restarted."""
        pause = self._patience.pause_min
        arguments = (*spec.argv, *spec.first_args)
        if spec.shares_port:
            await asyncio.wait([self._port_free])
            if self._stopping.is_set():
                return 0
        while True:
            started = time.monotonic()
            code = await self._run_once(spec.name, arguments)
            if self._stopping.is_set() or (spec.final_codes and code > 0):
                return code
            if spec.may_give_up and code == exit_codes.CANNOT_START:
                self._report(f"{spec.name} gave up for the reason in its last message; the node continues without it")
                return code
            arguments = spec.argv
            if time.monotonic() - started >= self._patience.healthy:
                pause = self._patience.pause_min
            self._report(f"{spec.name} ended ({describe_exit(code)}); it is started again in {pause:g} s")
            if await _set_within(self._stopping, pause):
                return 0
            pause = min(2 * pause, self._patience.pause_max)

    async def _wait_for_port(self) -> None:
        """Wait until nobody listens on the gateways' address, or until a stop is requested. Gateways of another cluster would
        otherwise share the port with this node's, and the system would give each of them a part of the connections.
        """
        reported = False
        while bool(self._http) and await asyncio.to_thread(is_taken, self._http):
            if not reported:
                reported = True
                self._report(f"http.listen {self._http} is taken by another process; the gateways wait until it is free")
            if await _set_within(self._stopping, self._patience.port_poll):
                return

    async def _run_once(self, name: str, arguments: Iterable[str]) -> int:
        """Run a process until it ends. Returns its exit code."""
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, PARENT_PIPE: str(self._pipe)},
                pass_fds=(self._pipe,),
                process_group=0,  # a Ctrl-C in the terminal is for the supervisor, which stops its children in order
            )
        except OSError as error:
            self._report(f"{name} cannot be run: {error}")
            return exit_codes.CANNOT_START
        self._running[name] = process
        if self._stopping.is_set():
            self._signal([name], signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            self._running.pop(name, None)

    async def _end(self, tasks: dict[str, asyncio.Task[int]], grace: float) -> None:
        """Ask processes to stop. After `grace` seconds, or after a second request, kill them."""
        if not tasks:
            return
        self._signal(tasks, signal.SIGTERM)
        hurry: asyncio.Task[bool] = asyncio.create_task(_is_set(self._hurry))
        everyone = asyncio.create_task(_all_ended(tasks.values()))
        await asyncio.wait({everyone, hurry}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        for name in self._running.keys() & tasks.keys():
            self._report(f"{name} has not stopped in time and is killed")
        self._signal(tasks, signal.SIGKILL)
        await everyone

    def _signal(self, names: Iterable[str], number: signal.Signals) -> None:
        """Send a signal to processes that run."""
        for name in list(names):
            process = self._running.get(name)
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)

    def _last_words(self, code: int) -> str:
        """Return why the node stops, by the exit code of its engine."""
        if code == exit_codes.IN_DOUBT:
            return f"{self._engine.name}: its state is in doubt, and it was stopped; read its last message before starting the node again"
        if code == exit_codes.REMOVED:
            return f"{self._engine.name}: the cluster has removed this node; it stops, and does not start again"
        return f"{self._engine.name} gave up ({describe_exit(code)}); the node stops"


def describe_exit(code: int) -> str:
    """Return how a process ended: "exit code 3", "killed by SIGKILL"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


async def _is_set(event: asyncio.Event) -> bool:
    return await event.wait()


async def _all_ended(tasks: Iterable[asyncio.Task[int]]) -> bool:
    await asyncio.wait(tasks)
    return True


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Return whether an event is set within some seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def children(config: NodeConfig, config_path: Path, *, rejoin: bool = False) -> tuple[ChildSpec, list[ChildSpec]]:
    """Return the processes of a node: its engine, and its gateways, FIX server and history, which hold no state that
    the engine lacks.
    """
    python = (sys.executable, "-m")
    tail = ("--config", str(config_path.resolve()))
    engine = ChildSpec("engine", (*python, "node.engine.process", *tail), ("--rejoin",) if rejoin else (), final_codes=True)
    gateways = [
        ChildSpec(f"gateway-{worker}", (*python, "node.gateway.process", *tail, "--worker", str(worker)), shares_port=True)
        for worker in range(config.http.processes)
    ]
    if config.streams.enabled:
        gateways.append(ChildSpec("streams", (*python, "node.streams.process", *tail), may_give_up=True))
    if config.fix.listen:
        gateways.append(ChildSpec("fix", (*python, "node.fix.process", *tail)))
    if config.history.enabled:
        gateways.append(ChildSpec("history", (*python, "node.history.process", *tail), may_give_up=True))
    return engine, gateways


def run_node(config_path: Path, *, rejoin: bool) -> int:
    """Run a node in this process until a stop is requested. Returns the process's exit code.

    Raises:
        ConfigError: the configuration is invalid.
        DataDirectoryError: the data directory is missing or another node's.
        NodeRunningError: the node runs already.
        OSError: the data directory cannot be written.
    """
    config = load(config_path)
    if rejoin:
        config.data_path.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        identity.read(config)
    pid_file = PidFile.acquire(config.data_path / PID_FILE)
    try:
        if rejoin:
            identity.format_data(config, rejoin=True)
        logs.set_up(config.log_level, f"{config.node_id} supervisor", config.log_format)
        for line in advice(config, config_path):
            log.warning("%s", line)
        engine, gateways = children(config, config_path, rejoin=rejoin)
        return asyncio.run(_supervise(engine, gateways, config))
    finally:
        pid_file.release()


async def _supervise(engine: ChildSpec, gateways: Sequence[ChildSpec], config: NodeConfig) -> int:
    """Run the processes of a node until they stop."""
    http = config.http.listen if config.http.processes else ""
    supervisor = Supervisor(engine, gateways, report=lambda line: log.warning("%s", line), http=http)
    bounding = asyncio.create_task(_bound_log(config))
    stop_on_signals(supervisor)
    try:
        return await supervisor.run()
    finally:
        bounding.cancel()


def stop_on_signals(supervisor: Supervisor) -> None:
    """Let SIGTERM and SIGINT stop the node, and SIGHUP, which is the end of its terminal, unless it is ignored (nohup).

    A terminal and its shell may both send SIGHUP, so a second one does not kill.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.request_stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, supervisor.end_with_terminal)


async def _bound_log(config: NodeConfig) -> None:
    """Rename the log file of the node's processes whenever it is too large, for ever."""
    name, fault = os.environ.get(logs.LOG_FILE), ""
    while name:
        try:
            if logs.rotate(Path(name), config.log_bytes, config.log_files):
                log.info("the log before this line is in %s.1", name)
        except OSError as error:  # a later attempt may succeed, and the log grows until then
            if str(error) != fault:
                fault = str(error)
                log.warning("the log cannot be renamed: %s", error)
        await asyncio.sleep(LOG_SECONDS)


def run_or_explain(config_path: Path, *, rejoin: bool = False) -> int:
    """Run `run_node`. If the node cannot start, print one line on stderr and return `exit_codes.CANNOT_START`."""
    try:
        raise_limit()  # the other processes inherit its limits
        return run_node(config_path, rejoin=rejoin)
    except (QuorumbookError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return exit_codes.CANNOT_START


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m node.supervisor --config FILE [--rejoin]`, which does the same as `quorumbook node start` without
    the rest of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m node.supervisor")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rejoin", action="store_true")
    options = parser.parse_args(arguments)
    return run_or_explain(options.config, rejoin=options.rejoin)


if __name__ == "__main__":
    sys.exit(main())
