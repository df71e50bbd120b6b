"""Changes the cluster's level. The request goes to the leader, which checks with every member and then proposes one
entry.

Every member must confirm that its software can run the new level, and must have applied all entries that the leader had
applied when the check began. A majority is not enough: a member without the new level would stop at the entry, and the
cluster would lose a node.

The way back to an earlier level is open while nothing is in use that the earlier level lacks. While new commands are
held back, an entry `CheckLevel` lets every node check its state, and keep it converted. Each node has converted most of
its state before that. The entry that changes the level is proposed only if the check found nothing and every member has
applied it. No entry with commands can lie between the two, so the check is final.

`LevelRequests` answers the requests for such a change, and those to prepare this node's own state for a new level
(`level_preparation`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from cluster.batcher import Refusal
from cluster.membership import Role
from cluster.raft import ProposeResult
from node.config.settings import NodeConfig
from node.engine.leadership import Leader, ProposalQueue
from node.engine.level_preparation import Preparation
from node.engine.principal import Principal
from node.errors import ConnectionLost, QuorumbookError, RequestFailed
from node.native.connection import NativeConnection
from node.native.protocol import (
    TRUE,
    Answer,
    ChangeLevel,
    FailCode,
    Failed,
    LevelMember,
    LevelReport,
    MemberStatus,
    NodeStatus,
    PrepareLevel,
    StatusQuery,
)
from node.system import tasks as background
from node.tls.pki import client_context
from snapshots.levels.level import (
    OWN,
    SUPPORTED,
    CheckLevel,
    Level,
    LevelEntry,
    SetLevel,
    by_version,
    encode_level_entry,
    is_earlier,
)

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
"""Seconds for a member to answer with its status."""

CAUGHT_UP_SECONDS = 5.0
"""Seconds for a member to apply what the leader had applied when the check began."""

PREPARE_SECONDS = 600.0
"""Seconds for a member to prepare its state at the new level beside its normal work. A million orders take about a
minute.
"""

READY_SECONDS = 1.0
"""Seconds in which all members answer that their states are ready, after they were prepared."""

READY_ROUNDS = 5
"""How often the members are asked, the first time included."""

CONVERTED_SECONDS = 180.0
"""Seconds for a member to convert its state to an earlier level, while commands are held back."""

DRAIN_SECONDS = 2.0
"""Seconds for pending entries to be applied before the level entry is proposed."""

POLL = 0.01


Ask = Callable[[MemberStatus], Awaitable[NodeStatus]]
"""Asks a member for its status. Raises ConnectionLost, RequestFailed, TimeoutError."""

Prepare = Callable[[MemberStatus, str], Awaitable[None]]
"""Asks a member to prepare its state at the level with this ABI, and returns when it is ready. For an earlier level it
is ready when few changed rows are left to be converted. Raises as `Ask`.
"""


class FindObstacles(Protocol):
    """What prevents the return of this node's state to the earlier level with this ABI. Raises RequestFailed. `keep`:
    keep the converted state ready.
    """

    async def __call__(self, abi: str, *, keep: bool) -> list[str]: ...


class LevelChange:
    """Runs at most one change of the level at a time.

    Args:
        level: the level of this node's state.
        members: the members of the cluster, including this node.
        busy: a description of the other operation that stops proposing now, or "".
        ask, prepare: see `Ask`, `Prepare`; not used for this node itself.
        own: this node's status.
        prepare_own: as `prepare`, for this node.
        obstacles: see `FindObstacles`.
    """

    def __init__(
        self,
        node_id: str,
        raft: Leader,
        queue: ProposalQueue,
        *,
        level: Callable[[], Level],
        members: Callable[[], list[MemberStatus]],
        busy: Callable[[], str],
        ask: Ask,
        prepare: Prepare,
        own: Callable[[], NodeStatus],
        prepare_own: Callable[[str], Awaitable[None]],
        obstacles: FindObstacles,
    ) -> None:
        self._node_id = node_id
        self._raft = raft
        self._queue = queue
        self._level = level
        self._members = members
        self._busy = busy
        self._ask = ask
        self._prepare = prepare
        self._own = own
        self._prepare_own = prepare_own
        self._obstacles = obstacles
        self._running = False
        self.under_way = False
        """Whether the entry has been proposed but not applied. Nothing else may be proposed until then, because it
        would have the wrong level.
        """

    async def change(self, version: str, *, check: bool, earlier: bool | None = None) -> LevelReport:
        """Change the level to that of a version, or with `check` only report the obstacles.

        Args:
            earlier: whether it must be an earlier level, or a later one; None allows both.

        Raises:
            RequestFailed: CONFLICT: the level cannot change now; the text names each member and the remedy, and nothing
                was changed. BAD_REQUEST: this node does not know the level, or `earlier` does not hold.
                OUTCOME_UNKNOWN.
        """
        if self._running:
            raise RequestFailed(FailCode.CONFLICT, "a change of the level is under way already; see: quorumbook cluster status")
        self._running = True
        try:
            return await self._change(version, check=check, earlier=earlier)
        finally:
            self._running = False

    async def _change(self, version: str, *, check: bool, earlier: bool | None) -> LevelReport:
        """Change the level, or check whether it can be changed. Returns the report."""
        now, to = self._level(), self._wanted(version)
        if to.abi == now.abi:
            return LevelReport(now.version, to.version, [], [], 0)
        if earlier not in (None, is_earlier(to, now)):
            kind, command = ("a later", "upgrade") if earlier else ("an earlier", "downgrade")
            raise RequestFailed(
                FailCode.BAD_REQUEST,
                f"to: {to.version} is {kind} level than {now.version}, which is in force: use quorumbook cluster {command}",
            )
        members_index = self._raft.status().members_index
        members = await self._look(to)
        problems = [f"{member.node_id}: {member.problem}" for member in members if member.problem]
        problems += self._of_the_cluster(members_index)
        if not problems and is_earlier(to, now):
            problems = _in_use(await self._obstacles(to.abi, keep=not check), now, to)
        if check or problems:
            if not check:
                raise RequestFailed(FailCode.CONFLICT, "the level stays " + now.version + ": " + "; ".join(problems))
            return LevelReport(now.version, to.version, members, problems, 0)
        await self._make_ready(to, earlier=is_earlier(to, now))
        index = await self._propose(SetLevel(now, to), members_index)
        return LevelReport(now.version, to.version, members, [], index)

    def _wanted(self, version: str) -> Level:
        """Return the level with a version. Raises RequestFailed."""
        found = by_version(version)
        if found is None:
            known = ", ".join(level.version for level in SUPPORTED)
            raise RequestFailed(
                FailCode.BAD_REQUEST,
                f"to: {version!r} is not a level that this leader (version {OWN.version}) knows: expected one of {known}",
            )
        return found

    def _of_the_cluster(self, members_index: int) -> list[str]:
        """Return what prevents the change in the cluster as a whole."""
        status = self._raft.status()
        problems = []
        if status.change_under_way:
            problems.append("a change of the membership is under way: wait until it is done (quorumbook cluster members)")
        elif status.members_index != members_index:
            problems.append("the members have changed meanwhile: try again")
        if status.digests_differing:
            problems.append("the states of nodes differ: see the nodes' logs, and run an audit first")
        if busy := self._busy():
            problems.append(busy)
        return problems

    # ------------------------------------------------------------------ the members

    async def _look(self, to: Level, seconds: float = CAUGHT_UP_SECONDS) -> list[LevelMember]:
        target = self._raft.status().applied_index
        return list(await asyncio.gather(*(self._look_at(member, to, target, seconds) for member in self._members())))

    async def _look_at(self, member: MemberStatus, to: Level, target: int, seconds: float) -> LevelMember:
        """Return what a member runs, and why it could not follow the change, if so."""
        node_id = member.node_id
        if member.role == Role.LEARNER.value:
            return LevelMember(
                node_id, "", "", [], "is a learner that has not caught up yet: wait until it is a voter, or remove it"
            )
        end = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    status = self._own() if node_id == self._node_id else await self._ask(member)
            except (ConnectionLost, RequestFailed, TimeoutError) as error:
                reason = str(error) or f"no answer within {ANSWER_SECONDS:g} s"
                return LevelMember(node_id, "", "", [], f"does not answer ({reason}): start it, or remove it from the cluster")
            if not self._raft.is_leader:
                raise _leadership_lost()
            problem = _problem(status, to, self._level())
            if not problem and (status.applied_index < target or not status.ready):
                problem = f"lags behind: it has applied entry {status.applied_index:,} of {target:,}: wait until it has caught up"
                if asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(POLL)
                    continue
            software = status.software.partition(" ")[0]
            return LevelMember(node_id, software, status.level or software, status.levels, problem)

    async def _make_ready(self, to: Level, *, earlier: bool) -> None:
        """Ask every member to prepare its state at the new level, until all members report at the same time that they
        are ready. A member that restarts in the meantime must prepare again. For an earlier level each is asked twice:
        the second time it takes over what changed while others prepared theirs.

        Raises:
            RequestFailed: CONFLICT if a member cannot prepare. Nothing was changed.
        """

        async def one(member: MemberStatus) -> str:
            try:
                async with asyncio.timeout(PREPARE_SECONDS):
                    await (self._prepare_own(to.abi) if member.node_id == self._node_id else self._prepare(member, to.abi))
            except (ConnectionLost, RequestFailed, TimeoutError) as error:
                return f"{member.node_id}: cannot convert its state: {str(error) or 'not in time'}"
            return ""

        for number in range(READY_ROUNDS):
            began = asyncio.get_running_loop().time()
            problems = [text for text in await asyncio.gather(*map(one, self._members())) if text]
            if problems:
                raise RequestFailed(FailCode.CONFLICT, "nothing was changed: " + "; ".join(problems))
            if number == 1 if earlier else asyncio.get_running_loop().time() - began < READY_SECONDS:
                return
        raise RequestFailed(FailCode.CONFLICT, "nothing was changed: the members were not ready at the same time: try again")

    # ------------------------------------------------------------------ the entry

    async def _propose(self, entry: SetLevel, members_index: int) -> int:
        """Propose the entry while nothing else is pending. Returns its index when this node has applied it."""
        release = self._queue.hold()
        earlier = is_earlier(entry.to, entry.old)
        try:
            end = asyncio.get_running_loop().time() + DRAIN_SECONDS
            while self._queue.in_flight and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110  # its end has no event of its own
                await asyncio.sleep(0.001)
            self._check_held(members_index)
            self.under_way = True
            if earlier:
                await self._check_states(entry)
                self._check_held(members_index)
            log.warning("proposing the change of the level from %s to %s", entry.old, entry.to)
            result = await self._applied(entry)
            if earlier:
                # They were checked at the former level. Their clients send them again, and they are checked at this one.
                self._queue.fail_queued(Refusal.NOT_LEADER)
        finally:
            self.under_way = False
            release()
        if result.error is not None:
            raise RequestFailed(
                FailCode.OUTCOME_UNKNOWN, "leadership was lost under way; the result is shown by: quorumbook cluster status"
            )
        return result.index

    def _check_held(self, members_index: int) -> None:
        """Check that the entry can be proposed now, while commands are held back.

        Raises:
            RequestFailed: CONFLICT.
        """
        if not self._raft.is_leader:
            raise _leadership_lost()
        problems = ["too much was under way: try again"] if self._queue.in_flight else self._of_the_cluster(members_index)
        if problems:
            raise RequestFailed(FailCode.CONFLICT, "nothing was changed: " + "; ".join(problems))

    async def _check_states(self, entry: SetLevel) -> None:
        """Let every node check whether its state can return to an earlier level, and convert it.

        Raises:
            RequestFailed: CONFLICT: something is in use that the level lacks, or a member did not follow in time.
        """
        result = await self._applied(CheckLevel(entry.old, entry.to))
        if result.error is not None:
            raise _leadership_lost()
        problems = _in_use(result.value if isinstance(result.value, list) else [], entry.old, entry.to)
        if not problems:
            members = await self._look(entry.to, CONVERTED_SECONDS)
            problems = [f"{member.node_id}: {member.problem}" for member in members if member.problem]
        if problems:
            raise RequestFailed(FailCode.CONFLICT, "nothing was changed: " + "; ".join(problems))

    async def _applied(self, entry: LevelEntry) -> ProposeResult:
        done: asyncio.Future[ProposeResult] = asyncio.get_running_loop().create_future()
        self._raft.propose(encode_level_entry(entry), done.set_result)
        return await asyncio.shield(done)


def _leadership_lost() -> RequestFailed:
    return RequestFailed(FailCode.CONFLICT, "nothing was changed: leadership has changed: try again")


def _problem(status: NodeStatus, to: Level, now: Level) -> str:
    """Return the reason why a member cannot change to the level."""
    software = status.software.partition(" ")[0]
    if to.version not in status.levels:
        needed = now if is_earlier(to, now) else to
        return (
            f"runs version {software}, which cannot change to level {to.version}: install {needed.version} or later, and start it "
            "again"
        )
    if status.level_abi != now.abi:
        return f"is at level {status.level} and not at {now.version}: wait until it has caught up"
    return ""


def _in_use(obstacles: list[str], now: Level, to: Level) -> list[str]:
    """Return the message about what prevents the return to an earlier level, which also names the other way back."""
    if not obstacles:
        return []
    advice = (
        f"{now.version} has in use what {to.version} has no place for: remove it, or stop all nodes and return to the state "
        "before the upgrade, with an export of what that undoes: quorumbook rollback --export DIR"
    )
    return [*obstacles, advice]


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
