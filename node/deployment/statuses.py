"""The statuses of all nodes of a cluster, requested concurrently over the network."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from node.config.settings import NodeConfig
from node.errors import ConnectionLost, RequestFailed
from node.keys.credentials import Credentials
from node.native.connection import NativeConnection
from node.native.protocol import FailCode, MemberStatus, NodeStatus, StatusQuery
from node.tls import pki

ANSWER_SECONDS = 1.0
"""Seconds after which a node without an answer is shown as down."""

Statuses = dict[str, NodeStatus | None]
"""Node id to status, None for a node that does not answer."""

AsNode = Callable[[], ssl.SSLContext | None]
"""Returns a context with the certificate of a node, None if there is none."""


async def ask_all(
    addresses: Mapping[str, str], tls: ssl.SSLContext, credentials: Credentials, as_node: AsNode = lambda: None
) -> Statuses:
    """Return all nodes' statuses over fresh connections, by the ids that the nodes have.

    These are the nodes at `addresses`, and members that have joined elsewhere. A node that does not answer and is no
    longer a member is left out. A node that answers is listed by its own id, whatever it is called in `addresses`.

    Args:
        as_node: called for each node that refuses the credentials, because the operator's key may be switched off.

    Raises:
        RequestFailed: UNAUTHORIZED, if the nodes that answer refuse the key. It is not known then whether they serve.
    """

    refusals: list[RequestFailed] = []

    async def ask(places: Mapping[str, str]) -> Statuses:
        found = await asyncio.gather(*(_status(address, tls, credentials, as_node, refusals) for address in places.values()))
        return {status.node_id if status is not None else name: status for name, status in zip(places, found, strict=True)}

    statuses = await ask(addresses)
    members = {member.node_id: member for member in newest_members(statuses)}
    if refusals and not members:
        raise refusals[0]
    if not members:
        return dict(sorted(statuses.items()))
    more = {node_id: member.native for node_id, member in members.items() if node_id not in statuses and member.native}
    statuses.update(await ask(more))
    return {node_id: status for node_id, status in sorted(statuses.items()) if status is not None or node_id in members}


def asking(config: NodeConfig) -> Callable[[], Coroutine[Any, Any, Statuses]]:
    """Asks all nodes as a node's machine can: with the operator's key and the addresses in its configuration, and with
    the node's certificate if the operator's key is switched off.
    """
    addresses = {node.node_id: node.native for node in config.nodes}
    as_node = functools.cache(lambda: certified([config]))
    admin, tls = config.admin, pki.client_context(config, with_cert=False)
    credentials = Credentials(admin.key_id, admin.secret, admin.passphrase)
    return lambda: ask_all(addresses, tls, credentials, as_node)


def certified(configs: Iterable[NodeConfig]) -> ssl.SSLContext | None:
    """Return a context with the certificate of the first of these nodes whose files can be read, None if there is none."""
    for config in configs:
        with contextlib.suppress(OSError):
            return pki.client_context(config)
    return None


async def _status(
    address: str, tls: ssl.SSLContext, credentials: Credentials, as_node: AsNode, refusals: list[RequestFailed]
) -> NodeStatus | None:
    """Return a node's status, None if it does not answer. A refusal of the key is added to `refusals`."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            try:
                return await _ask(address, tls, credentials)
            except RequestFailed as error:
                context = as_node() if error.code is FailCode.UNAUTHORIZED else None
                if context is None:
                    raise
            return await _ask(address, context, None)
    except (ConnectionLost, RequestFailed, TimeoutError) as error:
        if isinstance(error, RequestFailed) and error.code is FailCode.UNAUTHORIZED:
            refusals.append(error)
        return None


async def _ask(address: str, tls: ssl.SSLContext, credentials: Credentials | None) -> NodeStatus:
    """Query the status over a new connection."""
    connection = await NativeConnection.open(address, tls=tls, credentials=credentials, client="status")
    try:
        return await connection.query(StatusQuery())
    finally:
        await connection.close()


def leader_of(statuses: Statuses) -> str:
    """Return the ready leader of the highest term, "" when there is none."""
    leaders = [status for status in statuses.values() if status is not None and status.role == "leader" and status.ready]
    return max(leaders, key=lambda status: status.term).node_id if leaders else ""


def newest_members(statuses: Statuses) -> list[MemberStatus]:
    """Return the members of the cluster by the node with the newest membership in its log; an empty result if no node
    answers.
    """
    answered = [status for status in statuses.values() if status is not None]
    return max(answered, key=lambda status: (status.members_index, status.applied_index)).members if answered else []
