"""The sessions of users, over HTTP, the WebSocket or the native protocol. Each session checks the answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from loadtest.answers import fault as outcome_fault
from loadtest.flow import FlowCommand
from loadtest.market import Trader
from loadtest.rest import answer_fault, flow_request, order_body
from loadtest.traffic.ledger import OutcomeSummary
from loadtest.traffic.socket import OrderSocket
from node.client.rest import AsyncRestClient, RestError
from node.cluster_directory import Access, KeyFile
from node.errors import ConnectionLost, QuorumbookError, RequestFailed
from node.gateway.values import order_number
from node.keys.credentials import Credentials
from node.native.client import ClusterClient
from node.native.protocol import FailCode, OrdersQuery, StatusQuery
from node.system import tasks as background
from statemachine.commands import CancelOrder, PlaceOrder
from statemachine.events import AnyOutcome, Placed

PATIENCE_S = 15.0
"""A request that is not answered in this time, attempts at other nodes included, is a failure."""

LOOK_S = 0.5
"""Seconds between two queries for the leader."""

NOT_ANSWERED = f"not answered within {PATIENCE_S:g} s"


class Reply(NamedTuple):
    """An answer. `fault`: the error in it, or "". `outcome`: the outcome in it, if an audit can check it. `answered`:
    whether any answer arrived.
    """

    fault: str
    length: int = 0
    outcome: OutcomeSummary | None = None
    answered: bool = True


class UserSession(Protocol):
    """A user's connection to the exchange. It goes to another node if its own does not answer."""

    protocol: str

    async def send(self, command: FlowCommand) -> Reply:
        """Send a command until it is answered, for at most `PATIENCE_S`."""

    async def look(self) -> Reply | None:
        """Read the open orders; None if the protocol has no reads."""

    async def close(self) -> None:
        """Close the connections."""


class Cluster:
    """The addresses of a cluster, and which node leads. `urls` are the nodes' public URLs."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self.operator = access.client(client="load test", deadline=PATIENCE_S)
        self.urls: list[str] = []
        self.leader_url = ""
        self._looking: asyncio.Task[None] | None = None

    async def start(self, urls: Iterable[str] = ()) -> None:
        """Find the leader and keep looking for it. `urls` are public URLs that are known already.

        Raises:
            RequestFailed, ConnectionLost: no node answers.
        """
        self.urls = [url.rstrip("/") for url in urls]
        await self._look()
        self._looking = asyncio.create_task(self._keep_looking())

    async def _look(self) -> None:
        """Learn the addresses of the members and of the leader."""
        status = await self.operator.query(StatusQuery())
        urls = [member.http for member in status.members if member.http]
        if status.leader is not None and status.leader.http:
            self.leader_url = status.leader.http
            urls.append(self.leader_url)
        self.urls = list(dict.fromkeys([*self.urls, *urls]))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(RequestFailed, ConnectionLost):
                await self._look()

    def ordered_urls(self) -> list[str]:
        """Return the public URLs, the leader's first."""
        return sorted(self.urls, key=lambda url: url != self.leader_url)

    def rest(self, person: Trader | None) -> AsyncRestClient:
        """Return a client of the REST API; it acts for `person`, or makes public calls only."""
        key = KeyFile(person.key_id, person.secret, person.passphrase) if person is not None else None
        authority = self.access.authority if self.leader_url.startswith("https") else ""
        return AsyncRestClient(self.ordered_urls(), key, authority=authority, deadline=PATIENCE_S)

    def native(self, person: Trader) -> ClusterClient:
        """Return a client of the native protocol that acts for `person`."""
        credentials = Credentials(person.key_id, person.secret, person.passphrase)
        access = msgspec.structs.replace(self.access, credentials=credentials)
        return access.client(client="load test", deadline=PATIENCE_S)

    async def close(self) -> None:
        """Stop looking, and close the connections."""
        if self._looking is not None:
            await background.cancel([self._looking])
        await self.operator.close()


class HttpSession:
    """Orders over REST."""

    protocol = "HTTP"

    def __init__(self, cluster: Cluster, person: Trader) -> None:
        self._cluster = cluster
        self._client = cluster.rest(person)
        self._leader = cluster.leader_url

    async def send(self, command: FlowCommand) -> Reply:
        """Send a command until it is answered."""
        request = flow_request(command)
        body = order_body(command) if isinstance(command, PlaceOrder) else None
        status, answer = await self._call(request.method, request.target, body)
        if not status:
            return Reply(NOT_ANSWERED, answered=False)
        fault = answer_fault(command, status, answer)
        outcome = None
        if isinstance(command, PlaceOrder) and status == 200 and not fault:
            outcome = OutcomeSummary("placed", 0, order_number(answer["id"]))
        return Reply(fault, len(request.body), outcome, status < 500)

    async def look(self) -> Reply:
        """Read the open orders. Each must be open or wait for its trigger."""
        status, answer = await self._call("GET", "/orders?limit=20", None)
        wrong = status != 200 or any(order["status"] not in ("open", "active") for order in answer)
        return Reply(f"status {status}: {str(answer)[:200]}" if wrong else "")

    async def _call(self, method: str, target: str, body: Mapping[str, object] | None) -> tuple[int, Any]:
        """Return the status and the decoded answer; status 0 if no node answered."""
        leader = self._cluster.leader_url
        if leader != self._leader:
            self._leader = leader
            self._client.prefer(leader)
        try:
            return 200, await self._client.request(method, target, body=body)
        except RestError as error:
            return error.status, error.body
        except ConnectionLost:
            return 0, None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class SocketSession:
    """Orders over the WebSocket."""

    protocol = "WebSocket"

    def __init__(self, cluster: Cluster, person: Trader) -> None:
        self._socket = OrderSocket(cluster.ordered_urls, person, authority=cluster.access.authority, patience_s=PATIENCE_S)

    async def send(self, command: FlowCommand) -> Reply:
        """Send a command until it is answered."""
        try:
            result = await self._socket.ask(command.command_id, _message(command))
        except QuorumbookError:
            return Reply(NOT_ANSWERED, answered=False)
        status, sequence = int(result["status"]), int(result.get("sequence", 0))
        answer = result.get("error") if status != 200 else _shown(command, result)
        fault = answer_fault(command, status, answer)
        outcome = None
        if isinstance(command, PlaceOrder) and status == 200 and not fault:
            outcome = OutcomeSummary("placed", sequence, order_number(result["order"]["id"]))
        return Reply(fault, 0, outcome)

    async def look(self) -> None:
        """Do nothing: the WebSocket has no reads."""
        return

    async def close(self) -> None:
        """Close the connection."""
        await self._socket.close()


def _message(command: FlowCommand) -> dict[str, object]:
    """Return the WebSocket message of a command."""
    if isinstance(command, PlaceOrder):
        return {"type": "place", "order": order_body(command)}
    if isinstance(command, CancelOrder):
        return {"type": "cancel", "client_oid": command.client_oid}
    return {"type": "cancel_all", "product_id": command.product_id}


def _shown(command: FlowCommand, result: Mapping[str, Any]) -> Any:
    """Return the answer that REST would give."""
    if isinstance(command, PlaceOrder):
        return result.get("order")
    order_ids = result.get("order_ids")
    return order_ids[0] if isinstance(command, CancelOrder) and order_ids else order_ids


class NativeSession:
    """Commands over the native protocol."""

    protocol = "native"

    def __init__(self, cluster: Cluster, person: Trader) -> None:
        self._client = cluster.native(person)
        self._account_id = person.account_id

    async def send(self, command: FlowCommand) -> Reply:
        """Send a command until it is answered."""
        try:
            (outcome,) = await self._client.submit([command])
        except (RequestFailed, ConnectionLost) as error:
            return refused(error)
        return Reply(outcome_fault(command, outcome), 0, summary_of(outcome))

    async def look(self) -> Reply:
        """Read the open orders."""
        try:
            await self._client.query(OrdersQuery(self._account_id, limit=20))
        except (RequestFailed, ConnectionLost) as error:
            return refused(error)
        return Reply("")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def summary_of(outcome: AnyOutcome) -> OutcomeSummary:
    """Return the summary of an outcome, for the ledger."""
    order_id = outcome.order.order_id if isinstance(outcome, Placed) else 0
    return OutcomeSummary(type(outcome).__name__.lower(), outcome.sequence, order_id)


def refused(error: RequestFailed | ConnectionLost) -> Reply:
    """Return the reply for a failed request of the native protocol."""
    unknown = isinstance(error, ConnectionLost) or error.code in (FailCode.OUTCOME_UNKNOWN, FailCode.NO_LEADER)
    return Reply(str(error), answered=not unknown)
