"""The supervisor with small real processes in place of a node's processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import pytest

from node import exit_codes, supervisor
from node.config.file import load
from node.deployment.setup import initialise
from node.supervisor import ChildSpec, Patience, Supervisor, describe_exit, stop_on_signals
from node.system import logs
from node.system.processes import alive, descendants
from tests.waiting import until

QUICK = Patience(pause_min=0.02, pause_max=0.2, healthy=30.0, gateway_grace=0.4, engine_grace=0.4)
DEADLINE = 20.0

BEGIN = """
import os, signal, sys, time
from pathlib import Path
from node.system.processes import watch_parent
watch_parent()
name, directory = sys.argv[1], Path(sys.argv[2])
def stop(number, frame):
    with open(directory / "stopped", "a") as file:
        file.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
with open(directory / f"{name}.pids", "a") as file:
    file.write(f"{os.getpid()} {' '.join(sys.argv[3:])}\\n")
"""
OBEDIENT = BEGIN + "while True: time.sleep(60)\n"
DEAF = BEGIN + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n(directory / 'deaf').touch()\nwhile True: time.sleep(60)\n"


def spec(name: str, directory: Path, code: str = OBEDIENT, *, engine: bool = False, first: tuple[str, ...] = ()) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code, name, str(directory)), first, final_codes=engine)


def starts(directory: Path, name: str) -> list[list[str]]:
    """Return the process id and the arguments of each start of a process, oldest first."""
    try:
        return [line.split() for line in (directory / f"{name}.pids").read_text().splitlines()]
    except FileNotFoundError:
        return []


async def until_started(directory: Path, name: str, count: int) -> None:
    await until(lambda: len(starts(directory, name)) == count, f"start {count} of {name}")


class Running:
    """A supervisor that runs in this process's event loop."""

    def __init__(self, engine: ChildSpec, *gateways: ChildSpec, http: str = "") -> None:
        self.lines: list[str] = []
        self.supervisor = Supervisor(engine, gateways, patience=QUICK, report=self.lines.append, http=http)
        self.task = asyncio.create_task(self.supervisor.run())

    async def stop(self) -> int:
        self.supervisor.request_stop()
        return await self.task

    async def __aenter__(self) -> Running:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def test_a_stop_ends_the_gateways_before_the_engine(tmp_path: Path) -> None:
    async with Running(spec("engine", tmp_path, engine=True), spec("g0", tmp_path), spec("g1", tmp_path)) as node:
        await until(lambda: all(starts(tmp_path, name) for name in ("engine", "g0", "g1")), "three processes")
        assert await node.stop() == 0
    stopped = (tmp_path / "stopped").read_text().split()
    assert sorted(stopped) == ["engine", "g0", "g1"]
    assert stopped[-1] == "engine"
    assert node.lines == []


async def test_a_gateway_that_is_killed_comes_back(tmp_path: Path) -> None:
    async with Running(spec("engine", tmp_path, engine=True), spec("g0", tmp_path)) as node:
        for count in range(1, 4):
            await until_started(tmp_path, "g0", count)
            os.kill(int(starts(tmp_path, "g0")[-1][0]), signal.SIGKILL)
        await until_started(tmp_path, "g0", 4)
        assert await node.stop() == 0
    assert len(starts(tmp_path, "engine")) == 1
    assert node.lines[0] == "g0 ended (killed by SIGKILL); it is started again in 0.02 s"
    assert "0.04 s" in node.lines[1]


async def test_a_gateway_that_exits_with_any_code_comes_back(tmp_path: Path) -> None:
    failing = spec("g0", tmp_path, BEGIN + "sys.exit(3)")
    async with Running(spec("engine", tmp_path, engine=True), failing) as node:
        await until(lambda: len(starts(tmp_path, "g0")) >= 3, "three starts")
        assert await node.stop() == 0
    assert "exit code 3" in node.lines[0]


async def test_a_history_that_must_not_use_its_database_is_started_once(tmp_path: Path) -> None:
    """Formerly it was started every five seconds for ever, with the same error."""
    giving_up = spec("history", tmp_path, BEGIN + f"sys.exit({exit_codes.CANNOT_START})")
    giving_up = msgspec.structs.replace(giving_up, may_give_up=True)
    failing = spec("g0", tmp_path, BEGIN + f"sys.exit({exit_codes.CANNOT_START})")
    async with Running(spec("engine", tmp_path, engine=True), giving_up, failing) as node:
        await until(lambda: len(starts(tmp_path, "g0")) >= 4, "a gateway that is started again")
        assert len(starts(tmp_path, "history")) == 1
        assert not node.task.done()
        assert await node.stop() == 0
    assert [line for line in node.lines if "history" in line] == [
        "history gave up for the reason in its last message; the node continues without it"
    ]


async def test_gateways_wait_while_another_process_has_their_port(tmp_path: Path) -> None:
    """Formerly they shared the port with the gateways of another cluster, which got requests that were not for them."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        gateway = msgspec.structs.replace(spec("g0", tmp_path), shares_port=True)
        http = f"127.0.0.1:{other.getsockname()[1]}"
        async with Running(spec("engine", tmp_path, engine=True), gateway, http=http) as node:
            await until_started(tmp_path, "engine", 1)
            await asyncio.sleep(0.1)
            assert not starts(tmp_path, "g0")
            other.close()
            await until_started(tmp_path, "g0", 1)
            assert await node.stop() == 0
    assert node.lines == [f"http.listen {http} is taken by another process; the gateways wait until it is free"]


async def test_an_engine_killed_by_a_signal_comes_back_without_its_first_arguments(tmp_path: Path) -> None:
    async with Running(spec("engine", tmp_path, engine=True, first=("--rejoin",)), spec("g0", tmp_path)) as node:
        await until(lambda: bool(starts(tmp_path, "engine")), "the engine")
        os.kill(int(starts(tmp_path, "engine")[0][0]), signal.SIGKILL)
        await until(lambda: len(starts(tmp_path, "engine")) == 2, "the engine again")
        assert await node.stop() == 0
    assert [start[1:] for start in starts(tmp_path, "engine")] == [["--rejoin"], []]


async def test_an_engine_in_doubt_stops_the_node(tmp_path: Path) -> None:
    failing = spec("engine", tmp_path, BEGIN + f"sys.exit({exit_codes.IN_DOUBT})", engine=True)
    async with Running(failing, spec("g0", tmp_path)) as node:
        await until(node.task.done, "the end of the node")
        assert node.task.result() == exit_codes.IN_DOUBT
    assert len(starts(tmp_path, "engine")) == 1
    assert "state is in doubt" in node.lines[0]


async def test_an_engine_that_gives_up_is_not_started_again(tmp_path: Path) -> None:
    async with Running(spec("engine", tmp_path, BEGIN + "sys.exit(2)", engine=True)) as node:
        await until(node.task.done, "the end of the node")
        assert node.task.result() == 2
    assert node.lines == ["engine gave up (exit code 2); the node stops"]


async def test_a_process_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    async with Running(spec("engine", tmp_path, DEAF, engine=True), spec("g0", tmp_path)) as node:
        await until((tmp_path / "deaf").exists, "a process that ignores SIGTERM")
        assert await node.stop() == 128 + signal.SIGKILL
    assert node.lines[-1] == "engine has not stopped in time and is killed"


async def test_a_second_request_kills_at_once(tmp_path: Path) -> None:
    patient = Patience(gateway_grace=DEADLINE, engine_grace=DEADLINE)
    supervisor = Supervisor(spec("engine", tmp_path, DEAF, engine=True), [], patience=patient, report=lambda line: None)
    task = asyncio.create_task(supervisor.run())
    await until((tmp_path / "deaf").exists, "a process that ignores SIGTERM")
    begun = time.monotonic()
    supervisor.request_stop()
    supervisor.request_stop()
    assert await task == 128 + signal.SIGKILL
    assert time.monotonic() - begun < DEADLINE / 2


async def test_the_end_of_the_terminal_stops_the_node_in_order(tmp_path: Path) -> None:
    """The terminal and its shell may both send SIGHUP, which kills nothing. Under nohup it stays ignored."""
    loop = asyncio.get_running_loop()
    ended = Supervisor(spec("engine", tmp_path, engine=True), [], report=lambda line: None)
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup themselves
    try:
        stop_on_signals(ended)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert await ended.run() == 0
        assert not ended._hurry.is_set()
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop_on_signals(ended)
        assert not loop.remove_signal_handler(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def test_a_stop_during_a_pause_starts_nothing_more(tmp_path: Path) -> None:
    slow = Patience(pause_min=DEADLINE, pause_max=DEADLINE)
    lines: list[str] = []
    supervisor = Supervisor(
        spec("engine", tmp_path, engine=True), [spec("g0", tmp_path, BEGIN + "sys.exit(3)")], patience=slow, report=lines.append
    )
    task = asyncio.create_task(supervisor.run())
    await until(lambda: bool(lines and starts(tmp_path, "engine")), "a pause before a restart")
    supervisor.request_stop()
    assert await task == 0
    assert len(starts(tmp_path, "g0")) == 1


async def test_a_program_that_is_not_there_stops_the_node_when_it_is_the_engine(tmp_path: Path) -> None:
    absent = ChildSpec("engine", (str(tmp_path / "absent"),), final_codes=True)
    async with Running(absent, spec("g0", tmp_path)) as node:
        await until(node.task.done, "the end of the node")
        assert node.task.result() == exit_codes.CANNOT_START
    assert node.lines[0].startswith("engine cannot be run: ")


async def test_a_gateway_that_is_not_there_is_tried_again(tmp_path: Path) -> None:
    async with Running(spec("engine", tmp_path, engine=True), ChildSpec("g0", (str(tmp_path / "absent"),))) as node:
        await until(lambda: sum("cannot be run" in line for line in node.lines) >= 3, "three tries")
        await until_started(tmp_path, "engine", 1)
        assert await node.stop() == 0


async def test_a_process_that_is_stopped_before_it_is_ready_is_not_a_failure(tmp_path: Path) -> None:
    bare = "import sys, time; from pathlib import Path; (Path(sys.argv[2]) / 'engine.pids').touch(); time.sleep(60)"
    async with Running(spec("engine", tmp_path, bare, engine=True)) as node:
        await until((tmp_path / "engine.pids").exists, "the engine")
        assert await node.stop() == 0


SUPERVISE = """
import asyncio, sys
from pathlib import Path
from tests.unit.node.test_supervisor import spec
from node.supervisor import Supervisor
directory = Path(sys.argv[1])
supervisor = Supervisor(spec("engine", directory, engine=True), [spec("g0", directory)], report=print)
asyncio.run(supervisor.run())
"""


async def test_children_do_not_outlive_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SUPERVISE, str(tmp_path), cwd=root)
    pids: list[int] = []
    try:
        await until(lambda: all(starts(tmp_path, name) for name in ("engine", "g0")), "two processes")
        pids = [int(starts(tmp_path, name)[0][0]) for name in ("engine", "g0")]
        assert descendants(process.pid) == sorted(pids)
        process.kill()
        await process.wait()
        await until(lambda: not any(alive(pid) for pid in pids), "the end of the children")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert not (tmp_path / "stopped").exists()


async def test_a_log_that_cannot_be_renamed_is_renamed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formerly the first error ended the rotation, and the log grew for ever."""
    (path,) = initialise(tmp_path / "cluster", 1)
    log = tmp_path / "node.log"
    log.write_bytes(bytes(100_000))
    monkeypatch.setenv(logs.LOG_FILE, str(log))
    monkeypatch.setattr(supervisor, "LOG_SECONDS", 0.01)
    older = tmp_path / "node.log.1"
    older.mkdir()
    (older / "file").touch()
    task = asyncio.create_task(supervisor._bound_log(msgspec.structs.replace(load(path), log_bytes=65_536, log_files=1)))
    await asyncio.sleep(0.05)
    assert not task.done()
    shutil.rmtree(older)
    await until(older.is_file)
    task.cancel()


def test_ends_are_described_in_words() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-200) == "killed by signal 200"
