"""The path of a request from HTTP to a handler and back: authentication, limits, and the answer to every failure, which
is a status with a `message`.

A handler takes a `Call` and returns an `Answer`, or raises an exception. No input may cause a 5xx: a 503 or 504 means
that no leader could be reached, and a 500 is a defect of the gateway, logged with its traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from node.budget import Cost
from node.errors import RequestFailed
from node.gateway.auth import Claim, Identity, unproven
from node.gateway.backend import Outcomes, Resent
from node.gateway.book import LongText
from node.gateway.errors import ApiError, BadRequestError, NotLeaderError, ProposedError, UnavailableError, UnknownHereError
from node.gateway.http.messages import LongResponse, Request, Response, in_origin_form, json_response
from node.gateway.replays import REPEAT_SECONDS, find, is_signed, replayed, signed_id, summary, with_new_ids
from node.gateway.requests import parameters
from node.gateway.values import iso
from node.keys import addresses
from node.native.protocol import AnyQuery, FailCode, NodeStatus, RightsQuery, StatusQuery
from statemachine.access import OF_OPERATOR, described, sent_by, widened
from statemachine.commands import AnyCommand, CancelAll, CancelOrder, PlaceOrder
from statemachine.events import AnyOutcome, Proposed
from statemachine.limits import OPERATOR
from statemachine.types import Permission, Scope

if TYPE_CHECKING:
    from node.gateway.gateway import Gateway
    from node.gateway.history_source import HistorySource

log = logging.getLogger(__name__)

SEQUENCE_HEADER = "x-quorumbook-sequence"
ROLE_HEADER = "x-quorumbook-role"
NOTHING = (b"", b"{}")
"""Bodies that some clients send with calls that have no body."""
FORWARDED = addresses.FORWARDED.lower()
SIGNED_HEADERS = ("cb-access-key", "cb-access-sign", "cb-access-timestamp", "cb-access-passphrase")
_TARGET_SAFE = "".join(chr(code) for code in range(0x21, 0x7F))


Body = TypeVar("Body")


@dataclass(frozen=True)
class Answer(Generic[Body]):
    """A 2xx answer: a JSON value and headers. A handler's annotation names the type of the value, and the OpenAPI
    document is generated from it.

    `text` replaces `body`, and holds the value as JSON text.
    """

    body: Body
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    text: LongText | None = None


class Call:
    """One request, as handlers see it.

    Attributes:
        names: the values of the route's names in the path, with percent escapes decoded.
        status: the node's status, sampled before the data of the answer.
        sequence: the sequence of the submitted command, or the sequence up to which a read from another source is
            complete.
        signed: the credentials that the client presented; None for a public call.
        known: the sequence that this node had applied before the commands were sent.
    """

    __slots__ = (
        "_has_read",
        "_places",
        "_signed_id",
        "gateway",
        "identity",
        "known",
        "names",
        "request",
        "route",
        "sequence",
        "signed",
        "status",
    )

    def __init__(
        self, gateway: Gateway, route: Route, request: Request, names: Mapping[str, str], status: NodeStatus | None
    ) -> None:
        self.gateway = gateway
        self.route = route
        self.request = request
        self.names = names
        self.status = status
        self.identity: Identity | None = None
        self.sequence: int | None = None
        self.known = 0
        self._has_read = False
        self.signed: Claim | None = None
        self._signed_id = ""
        self._places = 0

    @property
    def body(self) -> bytes:
        """The request's body."""
        return self.request.body

    @property
    def signed_id(self) -> str:
        """Return the id for a command of this request whose client gave none."""
        if not self._signed_id:
            assert self.signed is not None, "only private routes send commands"
            self._signed_id = signed_id(self.signed.key_id, self.signed.signature)
        return self._signed_id

    @property
    def caller(self) -> Identity:
        """The client of a private call."""
        assert self.identity is not None, "the route asks for a permission"
        return self.identity

    @property
    def account_id(self) -> str:
        """The account that the key acts for. Raises ApiError 403 for the operator, which has no account."""
        account_id = self.caller.account_id
        if account_id == OPERATOR:
            raise ApiError(403, "The operator's key has no account: use the key of an account", reason="forbidden")
        return account_id

    @property
    def linearizable(self) -> bool:
        """Whether a read requests a barrier."""
        return self.request.query.get("consistency") == ["linearizable"]

    def path(self, name: str) -> str:
        """Return a part of the path, with percent escapes decoded."""
        return self.names[name]

    async def begin(self) -> None:
        """Check the query parameters. A linearizable read then waits for its barrier. Raises ApiError, NotLeaderError,
        UnavailableError.
        """
        given = self.parameters()
        if not given:
            return
        if "profile_id" in given:
            self.check_profile(given["profile_id"])
        if given.get("consistency", "local") not in ("local", "linearizable"):
            raise BadRequestError("consistency must be local or linearizable", "consistency")
        if self.linearizable:
            self.status, self._has_read = await self.gateway.backend.query(StatusQuery(), linearizable=True), True

    def parameters(self) -> dict[str, str]:
        """Return the route's query parameters, except those that may be repeated. Raises BadRequestError for an unknown
        parameter if the route is strict.
        """
        query = self.request.query
        if not query:
            return {}
        if self.route.repeats:
            query = {name: texts for name, texts in query.items() if name not in self.route.repeats}
        own = ("consistency",) if self.route.method == "GET" else ()
        return parameters(query, *self.route.query, *own, strict=self.route.strict)

    def check_profile(self, profile_id: str | None) -> None:
        """Raise BadRequestError for a `profile_id` other than the account that the key acts for."""
        if profile_id not in (None, self.account_id):
            raise BadRequestError("profile_id must be the account of the API key", "profile_id")

    def freshness(self) -> dict[str, str]:
        """Return the headers that state up to which sequence the answer is complete."""
        if self.status is None:
            return {}
        sequence = self.status.sequence if self.sequence is None else self.sequence
        return {ROLE_HEADER: self.status.role, SEQUENCE_HEADER: str(sequence)}

    async def look(self) -> None:
        """Sample the status before the data of the answer is read. Raises UnavailableError if the engine does not
        answer.
        """
        if not self._has_read:
            self.status, self._has_read = await self.gateway.monitor.recent(), True
        if self.status is None:
            raise UnavailableError("the engine of this node does not answer")

    async def read(self, query: AnyQuery) -> Any:
        """Send a query to the engine of this node."""
        if not self._has_read:
            self.status, self._has_read = await self.gateway.monitor.recent(), True
        return await self.gateway.backend.query(query)

    def pay(self, cost: float) -> None:
        """Charge the key, or the address of a public call, for what the call costs beyond a request."""
        if self.identity is None:
            self.spend(cost)
        else:
            self.gateway.limits.keys.spend(self.identity.key_id, cost)

    def spend(self, cost: float) -> None:
        """Charge the client's address for what a public read costs beyond a request."""
        peer = client_address(self.gateway, self.request.peer, self.request.headers(FORWARDED))
        self.gateway.limits.addresses.spend(peer, cost)

    async def past(self) -> HistorySource | None:
        """Return the node's history. It waits up to a second until the history includes everything that the engine has
        applied by now. Returns None if the node keeps no history. Raises ApiError 503 if the history cannot be read.
        """
        source = self.gateway.history
        if source is not None:
            now: NodeStatus = await self.read(StatusQuery())
            reached = await source.reach(now.applied_index, now.engine_start)
            if reached.log_index < now.applied_index:
                self.sequence = reached.sequence
        return source

    def command_id(self, part: str = "") -> str:
        """Derive a command id from the request's signature when the client gave none. Each further command of the
        request gets another id.

        A replay of the request must yield the same ids, even if the state has changed. If the body does not fix the
        order of the commands, the caller passes `part`, which names the object of the command.
        """
        if part:
            return signed_id(self.signed_id, part)
        return self.id_of_place(self.next_place())

    def next_place(self) -> int:
        """Count one more command of the request, and return its place. Every command has a place, even if its id comes
        from the client.
        """
        self._places += 1
        return self._places - 1

    def id_of_place(self, place: int) -> str:
        """Return the id of the request's command at a place."""
        return f"{self.signed_id}:{place}" if place else self.signed_id

    async def command(self, command: AnyCommand, begun: Outcomes | None = None) -> AnyOutcome:
        """Apply a command. The answer's sequence header will be its sequence."""
        return (await self.commands([command], begun))[0]

    async def commands(self, commands: Sequence[AnyCommand], begun: Outcomes | None = None) -> list[AnyOutcome]:
        """Apply commands in one entry of the log. The answer's sequence header will be the last one's. Each command
        counts towards the key's limit.

        Args:
            begun: the outcomes of a first attempt, which was already charged and recorded.

        Raises ApiError 400 if a command whose id comes from the signature was applied before.
        """
        if not commands:
            return []
        assert self.identity is not None, "only private routes send commands"
        of_operator = self.route.permission is not None and self.route.path.startswith("/admin/")
        if of_operator:
            commands = sent_by(self.identity.sender, commands)
        if begun is None:
            if len(commands) > 1:
                self.gateway.limits.keys.spend(self.identity.key_id, len(commands) - 1)
            behind = self.identity.sender == OPERATOR and of_operator and self.status is not None and self.status.role != "leader"
            if self.status is not None and (behind or not self.status.quorum):
                self.identity = await self._confirmed(self.identity)
        if not any(is_signed(command.command_id) for command in commands):
            outcomes = await self.gateway.backend.submit(commands, begun=begun)
        else:
            outcomes = await self._once(commands, begun)
        self.sequence = max(outcome.sequence for outcome in outcomes)
        if of_operator:
            waiting = [outcome for outcome in outcomes if isinstance(outcome, Proposed)]
            if waiting:
                raise ProposedError([each.proposal_id for each in waiting], iso(waiting[0].expires_at))
        return outcomes

    async def require_view_of_venue(self) -> None:
        """Raise ApiError 403 unless the caller may see the whole venue: by a user's role, or by a permission of the
        operator.
        """
        identity = self.caller
        if identity.user_id:
            await self.require(Permission.VIEW, Scope.VENUE, "")
        elif not widened(identity.permissions) & OF_OPERATOR:
            raise ApiError(403, "The API key needs one of the operator's permissions", reason="forbidden", detail="admin")

    async def require(self, permission: Permission, scope: Scope, name: str) -> None:
        """Raise ApiError 403 unless the caller has the permission for a scope: the caller's own account, or by the
        user's roles.
        """
        identity = self.caller
        if identity.permissions & Permission.ADMIN:
            return
        identity.require(permission)
        if scope is Scope.ACCOUNT and name == identity.account_id:
            return
        held: int = await self.gateway.backend.query(RightsQuery(identity.sender, scope, name)) if identity.user_id else 0
        if not held & permission:
            what = f"{permission.name.lower()} for {described(scope, name)}"
            raise ApiError(403, f"The API key does not have the permission {what}", reason="forbidden", detail=what)

    async def _confirmed(self, identity: Identity) -> Identity:
        """Look up the identity at the leader. An isolated node that can still forward commands does not learn of a
        revocation, and a follower may not know yet that the operator's key is switched off.
        """
        found = await self.gateway.auth.again(identity, at_leader=True)
        if found is None:
            raise unproven(ApiError)  # the leader has judged
        if self.route.permission is not None:
            found.require(self.route.permission)
        return found

    async def _once(self, commands: Sequence[AnyCommand], begun: Outcomes | None) -> list[AnyOutcome]:
        """Apply commands whose ids come from a signature, unless this request was applied before."""
        replays, resent = self.gateway.replays, Resent()
        if begun is None:
            status = self.gateway.monitor.status
            self.known = status.sequence if status is not None else 0
            try:
                replays.begin(self.signed_id)
            except ApiError:
                if not self._is_repeatable(commands):
                    raise
                return await self.gateway.backend.submit(with_new_ids(commands))
        try:
            outcomes = await self.gateway.backend.submit(commands, resent, begun)
        except BaseException:
            replays.undone(self.signed_id)
            raise
        carried_out(self.gateway, self.request, self.signed_id, outcomes)
        before = find(commands, outcomes, self.known, resent=resent.happened)
        if before and self._is_repeatable(commands):
            return await self.gateway.backend.submit(with_new_ids(commands))
        if before:
            raise replayed(summary(outcomes))
        return outcomes

    def _is_repeatable(self, commands: Sequence[AnyCommand]) -> bool:
        """Return whether an equal request is a new one and not a replay. That is so if its timestamp has whole seconds
        and is less than `REPEAT_SECONDS` away, and if the request either only cancels, or cannot be a repetition of the
        first one (ADR 0034) because that one was answered on this connection before this one began.
        """
        assert self.signed is not None, "only private routes send commands"
        timestamp = self.signed.timestamp
        if not timestamp.isdigit() or abs(self.gateway.auth.now() - int(timestamp)) >= REPEAT_SECONDS:
            return False
        if all(isinstance(command, CancelOrder | CancelAll) for command in commands):
            return True
        origin = self.request.origin
        distinct = origin.direct and not origin.shared and not self.request.early and self.signed_id in origin.answered
        return distinct and all(isinstance(command, PlaceOrder | CancelOrder | CancelAll) for command in commands)


def carried_out(gateway: Gateway, request: Request, signed_id: str, outcomes: Sequence[AnyOutcome]) -> None:
    """Record the effect of a request whose command ids come from its signature."""
    gateway.replays.done(signed_id, outcomes)
    request.origin.answered.append(signed_id)


Handler = Callable[[Call], Awaitable[Answer[Any]]]


@dataclass(frozen=True)
class Route:
    """A call of the API. `permission` None: public. `query` lists its parameters (see `openapi.QUERIES`), `body` is the
    shape of its JSON body; `repeats` are parameters that may come more than once."""

    method: str
    path: str
    handler: Handler
    permission: Permission | None = None
    query: tuple[str, ...] = ()
    body: type[msgspec.Struct] | None = None
    body_required: bool = True
    repeats: tuple[str, ...] = ()

    @property
    def strict(self) -> bool:
        """Whether an unlisted query parameter is refused. A read, or a DELETE whose path names its object, means the
        same without the parameter. `DELETE /orders` with a misspelt `product_id` would cancel everything.
        """
        return self.method != "GET" and not (self.method == "DELETE" and "{" in self.path)


async def answer(gateway: Gateway, route: Route, request: Request, names: Mapping[str, str]) -> Response:
    """Answer a request of a route. Raises the exceptions that `failure_response` converts to an answer."""
    encoded = request.header("content-encoding") not in (None, "identity")
    # A signature does not cover the border between target and body. A call without a body therefore accepts no body,
    # except one with which no target can end.
    surplus = bool(request.body) and route.body is None and request.body.strip() not in NOTHING
    if route.permission is None or encoded or surplus:
        charge_address(gateway, request)
    if encoded:
        raise ApiError(415, "Content-Encoding must be identity", "Content-Encoding")
    if surplus:
        raise ApiError(400, "This call takes no body")
    call = Call(gateway, route, request, names, gateway.monitor.status)
    return await finish(call, _served(call))


async def finish(call: Call, work: Awaitable[Answer[Any]]) -> Response:
    """Finish a call by its remaining coroutine. Raises as `answer`."""
    try:
        found = await _judged(call, work)
    except ApiError as error:
        error.headers = {**call.freshness(), **error.headers}
        raise
    if found.text is not None:
        return LongResponse(found.text, {**found.headers, **call.freshness()})
    return json_response(found.body, found.status, {**found.headers, **call.freshness()} if found.headers else call.freshness())


async def _served(call: Call) -> Answer[Any]:
    """Authenticate the request, and return the handler's answer."""
    route = call.route
    if route.permission is not None:
        call.signed = claim = _claim(call.gateway, call.request)
        call.identity = await _identify(call.gateway, call.request, claim)
        call.identity.require(route.permission)
    await call.begin()
    found = await route.handler(call)
    if isinstance(found.body, list):
        call.pay(Cost.shown(len(found.body)))
    return found


async def _judged(call: Call, work: Awaitable[Answer[Any]]) -> Answer[Any]:
    """Return the answer. A node that may be behind forwards requests that it cannot judge."""
    gateway, request, status = call.gateway, call.request, call.status
    try:
        return await work
    except NotLeaderError:
        # A node without a majority keeps naming its last known leader, which may be down.
        if status is not None and not status.quorum:
            raise UnavailableError("no majority of the nodes is reachable", outcome_unknown=False) from None
        raise
    except UnknownHereError:
        status = await gateway.monitor.recent()  # a node that has just caught up can judge
        if status is not None and not status.ready:
            raise UnavailableError("this node has not caught up", outcome_unknown=False) from None
        local = request.method == "GET" and not call.linearizable
        if local or status is None or status.role == "leader" or status.leader is None:
            raise
        raise NotLeaderError(status.leader) from None


def client_address(gateway: Gateway, peer: str, forwarded: Sequence[str]) -> str:
    """Return the address of a request's client by the peer's address and the headers of trusted proxies, or "" if it is
    unknown.

    Args:
        forwarded: the values of the request's X-Forwarded-For headers.
    """
    if not gateway.proxies:
        return peer_address(peer)
    return addresses.client_address(peer, forwarded, gateway.proxies)


def charge_address(gateway: Gateway, request: Request) -> None:
    """Charge a request to the address of its client. Raises ApiError 429."""
    gateway.limits.addresses.take(client_address(gateway, request.peer, request.headers(FORWARDED)))


@lru_cache(maxsize=4_096)
def peer_address(peer: str) -> str:
    """Return the address of a connection's peer. An IPv4-mapped IPv6 address becomes the IPv4 address."""
    return addresses.client_address(peer, (), ())


async def identify(gateway: Gateway, request: Request) -> Identity:
    """Identify the client of a request. Raises ApiError as `Authenticator.identify`, and 429."""
    return await _identify(gateway, request, _claim(gateway, request))


async def _identify(gateway: Gateway, request: Request, claim: Claim) -> Identity:
    """Identify the client of a request. The request counts towards the key's limit, and an unauthenticated one towards
    its address's limit.
    """
    address = client_address(gateway, request.peer, request.headers(FORWARDED))
    try:
        identity = await gateway.auth.identify(claim, address, request.method, request.target, request.body)
    except ApiError:
        gateway.limits.addresses.take(address)
        raise
    gateway.limits.keys.take(identity.key_id)
    request.origin.note(request, identity.key_id)
    return identity


def _claim(gateway: Gateway, request: Request) -> Claim:
    """Return the credentials in the CB-ACCESS headers. Raises ApiError 401 naming a missing header, or 429: nobody else
    pays for a request without them than its address.
    """
    key_id, signature, timestamp, passphrase = map(request.header, SIGNED_HEADERS)
    if key_id and signature and timestamp and passphrase:
        return Claim(key_id, signature, timestamp, passphrase)
    charge_address(gateway, request)
    name = next(name for name in SIGNED_HEADERS if not request.header(name)).upper()
    raise ApiError(401, f"{name} header is required", name, reason="unauthorized")


def failure_response(request: Request, error: Exception) -> Response:
    """Return the answer for an exception."""
    match error:
        case ApiError():
            return json_response(error.body(), error.status, error.headers)
        case NotLeaderError():
            return _redirect(request, error)
        case UnavailableError():
            return unavailable(error)
        case RequestFailed():
            return _failed(error)
        case _:
            raise AssertionError(f"no answer for {error!r}")


def _redirect(request: Request, error: NotLeaderError) -> Response:
    """Return a 307 to the same path and query at the leader. The signature does not cover the host, so it stays valid."""
    target = quote(in_origin_form(request.target), safe=_TARGET_SAFE, errors="surrogateescape")
    location = error.leader.http.rstrip("/") + target
    body = {
        "message": f"This node does not lead: repeat the request at {error.leader.http}",
        "leader": error.leader.http,
        "leader_id": error.leader.node_id,
    }
    return json_response(body, 307, {"Location": location})


def unavailable(error: UnavailableError) -> Response:
    """Return 503 if nothing was done, or 504 if the outcome is unknown."""
    if error.outcome_unknown:
        message = f"No answer in time ({error}). The outcome is unknown: repeat the request with the same client_oid or transfer_id, or signature"
        return json_response({"message": message, "reason": "outcome_unknown"}, 504, {"Retry-After": "1"})
    message = f"No leader at the moment ({error}). Nothing was done: repeat the request"
    return json_response({"message": message, "reason": "no_leader"}, 503, {"Retry-After": "1"})


def _failed(error: RequestFailed) -> Response:
    """Return the answer to a request that the engine's service refused. The exchange's rules did not reject it."""
    if error.code is FailCode.CONFLICT:
        return json_response({"message": error.message, "reason": "conflict"}, 503)
    status = {FailCode.NOT_FOUND: 404, FailCode.BAD_REQUEST: 400, FailCode.FORBIDDEN: 403, FailCode.UNAUTHORIZED: 403}
    if error.code in status:
        return json_response({"message": "NotFound" if error.code is FailCode.NOT_FOUND else error.message}, status[error.code])
    return unavailable(UnavailableError(error.message, outcome_unknown=error.code is FailCode.OUTCOME_UNKNOWN))
