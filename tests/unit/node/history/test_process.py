"""The history's process without a node, beside an engine that only reports how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator

import msgspec

from node.config.file import change_settings
from node.config.settings import HistoryConfig
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
