"""The whole engine process with real files, real sockets, and a cluster of one node."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from node import exit_codes
from node.config.file import change_settings, load
from node.config.settings import NodeConfig
from node.data_directory import identity
from node.deployment.setup import initialise
from node.engine import failures
from node.engine import process as engine_process
from node.engine.modes import Mode
from node.engine.replicated_engine import ReplicatedEngine
from node.errors import ConnectionLost, RequestFailed
from node.keys.encryption import ClusterKeys
from node.native.client import ClusterClient, Credentials, NativeConnection
from node.native.protocol import ControlAction, ProductsQuery, StatusQuery
from node.records import datasets
from node.system.processes import ENGINE_PID_FILE
from node.tls import pki
from statemachine.events import OrderDone, Placed
from statemachine.limits import CANCEL_AFTER_MIN
from statemachine.types import DoneReason, TimeInForce
from tests.ports import free_port
from tests.unit.node.fakes import WORLD, buy, sell
from tests.waiting import until

ROOT = Path(__file__).parents[4]


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    (path,) = initialise(tmp_path / "cluster", 1, base_port=free_port())
    return path


@pytest.fixture
def config(config_path: Path) -> NodeConfig:
    return load(config_path)


@contextlib.asynccontextmanager
async def engine(
    config: NodeConfig, *, rejoin: bool = False, settled: Callable[[], object] = lambda: None
) -> AsyncIterator[asyncio.Task[int]]:
    """The engine in this process, stopped gracefully at the end."""
    known = identity.format_data(config, rejoin=True) if rejoin else identity.read(config)
    stop = asyncio.Event()
    task = asyncio.create_task(engine_process.run(config, known, stop, settled=settled))
    try:
        yield task
    finally:
        stop.set()
        await task


@contextlib.asynccontextmanager
async def operator(config: NodeConfig) -> AsyncIterator[ClusterClient]:
    client = ClusterClient(
        {node.node_id: node.native for node in config.nodes},
        tls=pki.client_context(config, with_cert=False),
        credentials=Credentials(config.admin.key_id, config.admin.secret, config.admin.passphrase),
    )
    try:
        yield client
    finally:
        await client.close()


async def test_commands_over_tls_survive_a_restart(config: NodeConfig) -> None:
    async with engine(config), operator(config) as client:
        await client.submit([*WORLD, buy(1)])
        before = await client.query(StatusQuery(), linearizable=True)
    async with engine(config), operator(config) as client:
        (outcome,) = await client.submit([sell(2)])
        assert isinstance(outcome, Placed)
        assert outcome.order.filled_size == 10**8
        (again,) = await client.submit([buy(1)])
        assert again.duplicate
        after = await client.query(StatusQuery())
    assert before.sequence == len(WORLD) + 1
    assert after.sequence == before.sequence + 2


async def test_an_order_leaves_at_its_time_without_a_command(config: NodeConfig) -> None:
    order = msgspec.structs.replace(buy(1), time_in_force=TimeInForce.GTT, cancel_after=CANCEL_AFTER_MIN)
    async with engine(config), operator(config) as client, asyncio.timeout(20):
        *_, outcome = await client.submit([*WORLD, order])
        assert isinstance(outcome, Placed)
        (event,) = await anext(client.events("BTC-USD", outcome.order.opened_sequence + 1))
        status = await client.query(StatusQuery(), linearizable=True)
    assert isinstance(event, OrderDone)
    assert (event.order_id, event.reason, event.remaining) == (outcome.order.order_id, DoneReason.EXPIRED, 10**8)
    assert event.time >= outcome.order.expires_at
    assert status.sequence == len(WORLD) + 1


async def test_a_snapshot_replaces_the_log_before_it(config: NodeConfig) -> None:
    async with engine(config), operator(config) as client:
        await client.submit([*WORLD, buy(1)])
        assert await client.control(ControlAction.SNAPSHOT)
        async with asyncio.timeout(20):
            before = await client.query(StatusQuery())
            while before.counters["snapshots_taken"] == 0:
                await asyncio.sleep(0.02)
                before = await client.query(StatusQuery())
    assert before.snapshot_index > 0
    async with engine(config), operator(config) as client:
        after = await client.query(StatusQuery(), linearizable=True)
        assert (after.sequence, after.state_hash) == (before.sequence, before.state_hash)
        assert after.counters["entries_applied"] == 0
        (outcome,) = await client.submit([sell(2)])
        assert isinstance(outcome, Placed)
        assert outcome.order.filled_size == 10**8
        first = (await anext(client.events("BTC-USD", 1)))[0]
        assert first.product_sequence == 1, "the snapshot keeps the tail of the feed"


async def test_a_session_of_a_node_is_a_gateway(config: NodeConfig) -> None:
    async with engine(config), operator(config) as client:
        await client.submit(WORLD)
        native = config.native.listen
        local = await NativeConnection.open(f"unix:{config.engine_socket}")
        peer = await NativeConnection.open(native, tls=pki.client_context(config, with_cert=True))
        for connection in (local, peer):
            assert (await connection.query(ProductsQuery()))[0].product_id == "BTC-USD"
            await connection.close()
        with pytest.raises(RequestFailed, match="sign the greeting with an API key, or show a node's certificate"):
            await NativeConnection.open(native, tls=pki.client_context(config, with_cert=False))
        with pytest.raises(ConnectionLost):
            await NativeConnection.open(native)


async def test_a_certificate_of_another_cluster_is_refused(config: NodeConfig, tmp_path: Path) -> None:
    (other_path,) = initialise(tmp_path / "other", 1, base_port=free_port())
    other = pki.client_context(load(other_path), with_cert=True)
    other.load_verify_locations(config.path(config.tls.ca))
    async with engine(config), operator(config) as client:
        await client.query(StatusQuery(), linearizable=True)
        with pytest.raises(ConnectionLost):
            await NativeConnection.open(config.native.listen, tls=other)
        assert (await client.query(StatusQuery())).ready


async def test_an_exception_in_apply_ends_the_node_and_names_the_index(
    config: NodeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_self: ReplicatedEngine, _index: int, _payload: bytes) -> object:
        raise KeyError("a defect")

    monkeypatch.setattr(ReplicatedEngine, "apply", fail)
    async with engine(config) as task:
        connection = await _connected(config)
        with pytest.raises((ConnectionLost, RequestFailed)):
            await connection.submit(WORLD)
        assert await asyncio.wait_for(task, 10) == exit_codes.IN_DOUBT
        await connection.close()
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "apply failed at index" in record.getMessage()
    assert "a defect" in record.getMessage()


async def _connected(config: NodeConfig) -> NativeConnection:
    """Return a local connection to a node that leads."""
    async with asyncio.timeout(10):
        while True:
            try:
                connection = await NativeConnection.open(f"unix:{config.engine_socket}")
            except ConnectionLost:
                await asyncio.sleep(0.01)
                continue
            if (await connection.query(StatusQuery())).role == "leader":
                return connection
            await connection.close()
            await asyncio.sleep(0.01)


async def _in_mode(connection: NativeConnection, mode: Mode) -> None:
    async with asyncio.timeout(10):
        status = await connection.query(StatusQuery())
        while status.mode != mode:
            await asyncio.sleep(0.01)
            status = await connection.query(StatusQuery())


async def test_an_exception_in_a_callback_ends_the_node(config: NodeConfig, caplog: pytest.LogCaptureFixture) -> None:
    async with engine(config) as task:
        await (await _connected(config)).close()

        def fail() -> None:
            raise KeyError("a defect")

        asyncio.get_running_loop().call_soon(fail)
        assert await asyncio.wait_for(task, 10) == exit_codes.IN_DOUBT
    assert any("a defect" in record.getMessage() for record in caplog.records)


async def test_the_garbage_collector_is_frozen_when_the_node_opens_and_after_each_snapshot(config: NodeConfig) -> None:
    times: list[int] = []
    async with engine(config, settled=lambda: times.append(1)), operator(config) as client:
        await client.submit([*WORLD, buy(1)])
        assert len(times) == 1
        assert await client.control(ControlAction.SNAPSHOT)
        await until(lambda: len(times) == 2, seconds=20)


async def test_a_lost_log_is_noticed(config: NodeConfig, caplog: pytest.LogCaptureFixture) -> None:
    async with engine(config), operator(config) as client:
        await client.submit(WORLD)
    for path in (config.data_path / "log").iterdir():
        path.unlink()
    async with engine(config) as task:
        assert await task == exit_codes.CANNOT_START
    assert "--rejoin" in caplog.text


@pytest.mark.parametrize("section", ["native", "raft"])
async def test_a_port_in_use_is_named(config: NodeConfig, caplog: pytest.LogCaptureFixture, section: str) -> None:
    host, _, port = getattr(config, section).listen.rpartition(":")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does: old connections do not hold the port
        taken.bind((host, int(port)))
        taken.listen()
        async with engine(config) as task:
            assert await task == exit_codes.CANNOT_START
    assert port in caplog.text


@pytest.mark.parametrize("section", ["native", "raft"])
async def test_a_name_that_does_not_resolve_is_named(config_path: Path, caplog: pytest.LogCaptureFixture, section: str) -> None:
    """Formerly the node said that its disk is in doubt (exit code 70), or only that a name is not known."""
    change_settings(config_path, {f"{section}.listen": "no-such-host.invalid:7001"})
    async with engine(load(config_path)) as task:
        assert await task == exit_codes.CANNOT_START
    assert f"{section}.listen no-such-host.invalid:7001: " in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/srv/n1/data/log/hardstate.new"), exit_codes.IN_DOUBT),
        (OSError(errno.EROFS, "Read-only file system", "/srv/n1/data/log/log-1.seg"), exit_codes.IN_DOUBT),
        (PermissionError(errno.EACCES, "Permission denied"), exit_codes.CANNOT_START),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), exit_codes.CANNOT_START),
    ],
)
def test_a_file_that_may_no_longer_be_written_is_not_taken_for_a_port(
    config: NodeConfig, caplog: pytest.LogCaptureFixture, error: OSError, code: int
) -> None:
    assert failures.must_stop(config, error, str) == code
    assert ("raft.listen" in caplog.text) == (code == exit_codes.CANNOT_START)


# ---------------------------------------------------------------------- as a process


@contextlib.contextmanager
def process(*arguments: str, python: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, *python, "-m", "node.engine.process", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def outcome(child: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = child.communicate(timeout=30)
    return child.returncode, errors


@pytest.mark.cluster
async def test_sigterm_ends_it_with_zero_and_a_second_one_waits_for_the_lock(config_path: Path, config: NodeConfig) -> None:
    with process("--config", str(config_path)) as first:
        connection = await _connected(config)
        await connection.submit(WORLD)
        await _in_mode(connection, Mode.READY)
        await connection.close()
        with process("--config", str(config_path)) as second:
            first.send_signal(signal.SIGTERM)
            code, errors = outcome(first)
            assert code == 0, errors
            modes = re.findall(r"mode (\w+)", errors)
            assert modes == [mode.value for mode in Mode]
            assert "Traceback" not in errors
            connection = await _connected(config)
            assert (await connection.query(StatusQuery())).sequence == len(WORLD)
            await connection.close()
            second.send_signal(signal.SIGTERM)
            assert outcome(second)[0] == 0


def killed_in(mode: Mode, config_path: Path) -> None:
    """Start the process and kill it as soon as it is in a mode."""
    with process("--config", str(config_path)) as child:
        assert child.stderr is not None
        assert any(line.rstrip().endswith(f"mode {mode}") for line in child.stderr), f"it ended before {mode}"
        child.kill()


@pytest.mark.cluster
async def test_a_kill_while_it_starts_loses_nothing(config_path: Path, config: NodeConfig) -> None:
    with process("--config", str(config_path)):
        connection = await _connected(config)
        await connection.submit(WORLD)
        await connection.close()
    for mode in (Mode.STARTED, Mode.BOOTSTRAPPING, Mode.INITIALISING):
        killed_in(mode, config_path)
    with process("--config", str(config_path)):
        connection = await _connected(config)
        await _in_mode(connection, Mode.READY)
        assert (await connection.query(StatusQuery())).sequence == len(WORLD)
        await connection.close()


@pytest.mark.cluster
async def test_a_kill_while_a_new_cluster_starts_leaves_it_the_whole_dataset_once(config_path: Path, config: NodeConfig) -> None:
    directory = ROOT / "datasets" / "example"
    text = config_path.read_text(encoding="utf-8")
    config_path.write_text(text.replace('dataset = ""', f'dataset = "{directory}"'), encoding="utf-8")
    for mode in (Mode.STARTED, Mode.BOOTSTRAPPING, Mode.INITIALISING):
        killed_in(mode, config_path)
    with process("--config", str(config_path)):
        connection = await _connected(config)
        await _in_mode(connection, Mode.READY)
        assert (await connection.query(StatusQuery())).sequence == len(
            datasets.load(directory, ClusterKeys(config.cluster_key_path)).commands
        )
        await connection.close()


@pytest.mark.cluster
def test_a_second_engine_on_one_directory_is_refused(
    config_path: Path, config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "LOCK_TIMEOUT", 0.05)
    lock = engine_process._acquire(config.data_path / ENGINE_PID_FILE)
    try:
        assert engine_process.main(["--config", str(config_path)]) == exit_codes.CANNOT_START
    finally:
        lock.release()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("python", "arguments", "text"),
    [
        (("-O",), (), "assertions are part of this program"),
        ((), ("--config", "/does/not/exist.toml"), "/does/not/exist.toml"),
    ],
)
def test_an_engine_that_cannot_start_prints_one_line(
    config_path: Path, python: tuple[str, ...], arguments: tuple[str, ...], text: str
) -> None:
    with process(*(arguments or ("--config", str(config_path))), python=python) as child:
        code, errors = outcome(child)
    assert code == exit_codes.CANNOT_START
    assert errors.startswith("error: ")
    assert text in errors
    assert errors.count("\n") == 1


@pytest.mark.cluster
def test_a_missing_data_directory_is_not_made_again(config_path: Path, config: NodeConfig) -> None:
    (config.data_path / identity.FILE).unlink()
    with process("--config", str(config_path)) as child:
        code, errors = outcome(child)
    assert code == exit_codes.CANNOT_START
    assert "--rejoin" in errors
