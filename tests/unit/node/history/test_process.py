"""The history's process without a node, beside an engine that only reports how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from node.config.file import change_settings, load
from node.config.settings import HistoryConfig
from node.config.start import GaveUp
from node.deployment.setup import initialise
from node.history.process import run
from node.history.queries import HistoryReader
from node.native.framing import FrameSplitter, decode_request, pack
from node.native.protocol import FRAME_MAX, PROTOCOL_VERSION, Answer, Hello, Query, Welcome
from node.system.sockets import reachable
from tests.unit.node.history.answers import answers
from tests.unit.node.history.logs import KEYS, NodeLog, engine_status, read, whole
from tests.waiting import until


@contextlib.asynccontextmanager
async def engine(node: NodeLog) -> AsyncIterator[None]:
    """Answer requests at the engine's socket."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        splitter = FrameSplitter(FRAME_MAX)
        while data := await reader.read(65_536):
            for body in splitter.feed(data):
                request = decode_request(body)
                if isinstance(request, Hello):
                    writer.write(pack(Welcome(PROTOCOL_VERSION, "n1", node.config.cluster_id, "0", "")))
                elif isinstance(request, Query):
                    status = msgspec.msgpack.encode(engine_status(node.applied))
                    writer.write(pack(Answer(request.request_id, msgspec.Raw(status))))
        writer.close()

    with reachable(node.config.engine_socket) as name:
        server = await asyncio.start_unix_server(serve, name)
    async with server:
        yield


async def test_old_days_move_by_themselves(three_days: NodeLog) -> None:
    """With `history.archive_days` the process moves them and continues to store, and every answer is as before."""
    node = three_days
    before, answered = node.stored(), answers(node)
    change_settings(node.path, {"history.enabled": True, "history.archive_days": 2})
    node.config = msgspec.structs.replace(node.config, history=HistoryConfig(True, archive_days=2))
    async with engine(node):
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "node.history.process", "--config", str(node.path))
        try:
            await until(lambda: all(not node.stored()[table] for table in KEYS if table != "orders"), seconds=30.0)
            for table, key in KEYS.items():
                whole(before[table], key, node, table)
            assert read(node, "trades")
            assert answers(node) == answered
            node.add([])
            past = HistoryReader(node.config)
            await until(lambda: past.progress().log_index == node.applied, seconds=30.0)
            past.close()
        finally:
            process.send_signal(signal.SIGTERM)
            code = await process.wait()
    assert code == 0


@pytest.mark.parametrize("content", [b"no database at all" * 10, b"SQLite format 3\0" + b"\x41" * 4_080])
async def test_a_damaged_database_is_named_and_not_tried_again(tmp_path: Path, content: bytes) -> None:
    """Formerly the process was started again every few seconds, and its message named no file."""
    config = load(initialise(tmp_path / "cluster", 1)[0])
    config.history_path.mkdir()
    (config.history_path / "history.sqlite").write_bytes(content)
    with pytest.raises(GaveUp, match=r"/history\.sqlite is damaged .* move .*/data/history away"):
        await run(config)
