"""Handles requests about levels: the change of the level at the leader (`level_change`), and the preparation of this
node's own state for a new level (`level_preparation`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from node.config.settings import NodeConfig
from node.engine.level_change import LevelChange
from node.engine.level_preparation import Preparation
from node.engine.principal import Principal
from node.errors import QuorumbookError, RequestFailed
from node.native.connection import NativeConnection
from node.native.protocol import (
    TRUE,
    Answer,
    ChangeLevel,
    FailCode,
    Failed,
    LevelReport,
    MemberStatus,
    NodeStatus,
    PrepareLevel,
    StatusQuery,
)
from node.system import tasks as background
from node.tls.pki import client_context

Send = Callable[[msgspec.Struct], None]


class LevelRequests:
    """Answers requests about levels, each in a task of its own.

    Args:
        change: the leader's change of the level.
    """

    def __init__(self, change: LevelChange, preparation: Preparation) -> None:
        self._change = change
        self._preparation = preparation
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> bool:
        """Whether nothing may be proposed now."""
        return self._change.under_way

    def change(self, principal: Principal, request: ChangeLevel, send: Send) -> None:
        """See `protocol.ChangeLevel`. `send` gets `Answer` or `Failed`, once."""

        async def work() -> msgspec.Raw:
            principal.check_cluster("a change of the level")
            report: LevelReport = await self._change.change(request.version, check=request.check, earlier=request.earlier)
            return msgspec.Raw(msgspec.msgpack.encode(report))

        self._begin(request.request_id, work(), send)

    def prepare(self, principal: Principal, request: PrepareLevel, send: Send) -> None:
        """See `protocol.PrepareLevel`. `send` gets `Answer` or `Failed`, once."""

        async def work() -> msgspec.Raw:
            principal.check_node("making a state ready for another level")
            await self._preparation.prepare(request.abi)
            return TRUE

        self._begin(request.request_id, work(), send)

    def _begin(self, request_id: int, work: Coroutine[Any, Any, msgspec.Raw], send: Send) -> None:
        """Do the work of a request in a task, and send its answer."""

        async def answered() -> None:
            try:
                send(Answer(request_id, await work))
            except RequestFailed as error:
                send(Failed(request_id, error.code, error.message, error.leader))

        background.keep(self._tasks, answered())


def asking(
    config: NodeConfig,
) -> tuple[Callable[[MemberStatus], Awaitable[NodeStatus]], Callable[[MemberStatus, str], Awaitable[None]]]:
    """Return how a leader asks the other members for their status and to prepare their states. It authenticates with
    this node's certificate.
    """

    async def connect(member: MemberStatus) -> NativeConnection:
        if not member.native:
            raise RequestFailed(FailCode.NOT_FOUND, "its address is not known")
        try:
            tls = client_context(config, with_cert=True)
        except QuorumbookError as error:
            raise RequestFailed(FailCode.CONFLICT, str(error)) from error
        return await NativeConnection.open(member.native, tls=tls, client=f"engine of {config.node_id}")

    async def ask(member: MemberStatus) -> NodeStatus:
        connection = await connect(member)
        try:
            return await connection.query(StatusQuery())
        finally:
            await connection.close()

    async def prepare(member: MemberStatus, abi: str) -> None:
        connection = await connect(member)
        try:
            await connection.prepare_level(abi)
        finally:
            await connection.close()

    return ask, prepare
