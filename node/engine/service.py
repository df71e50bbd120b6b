"""The services of a node to its clients: commands through the log, reads, subscriptions, control.

A command on the leader takes these steps: `submit` checks the permissions, the batcher collects queued commands, Raft
makes them durable on a quorum, the engine applies them, and `send` gets the outcomes. No call here blocks. All code
runs in the engine's event loop, in the thread of Raft.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from cluster.batcher import Batcher, Refusal
from cluster.membership import Change, ChangeResult
from cluster.raft import Done, ProposeResult
from cluster.settings import ENTRY_BYTES_MAX
from cluster.status import RaftStatus
from node.budget import Cost, Shares
from node.config.settings import NodeConfig
from node.engine import membership
from node.engine.api_keys import EngineKeys, Reencryption
from node.engine.book_copy import BookCopies, Chunks, LongAnswer, is_large
from node.engine.entries import Entries
from node.engine.feed import Audience, Feed, FeedError, Subscriber, Subscription, TooOldError, is_stream
from node.engine.leadership import After, Barriers, Leadership, LeadershipTransfer, PendingQueue
from node.engine.modes import Mode, Modes
from node.engine.principal import Gate, Principal
from node.engine.queries import BadQueryError, LogChunks, NotFoundError, Views, rows_of
from node.engine.replicated_engine import ReplicatedEngine
from node.engine.submissions import CHUNK, commands_cost, queue_chunks, rate_limited, share_of
from node.errors import RequestFailed
from node.keys.encryption import ClusterKeys
from node.native.protocol import (
    TRUE,
    AddMember,
    Answer,
    ApiKeyQuery,
    BookQuery,
    ChangeLevel,
    Control,
    ControlAction,
    FailCode,
    Failed,
    LeaderHint,
    LogChunk,
    LogQuery,
    MemberStatus,
    NodeStatus,
    OrdersQuery,
    PrepareLevel,
    Query,
    RemoveMember,
    Results,
    StatusQuery,
    Submit,
    Subscribe,
)
from node.records.datasets import Seeding
from snapshots.levels.level import SUPPORTED
from statemachine.commands import AnyCommand
from statemachine.types import Permission

BATCH_BYTES_MAX = ENTRY_BYTES_MAX - 64 * 1024
"""Bytes of commands in one entry. The rest of the entry is reserved for fields that a client omitted and the log writes
in full.
"""

UNIT_BYTES = 16
"""Bytes by which a command may be longer in the log than in its request."""

READY_LAG_S = 1.0
"""Seconds by which a follower that serves may be behind its leader. Readers see the sequence of each answer."""

Send = Callable[[msgspec.Struct], None]
"""Sends one answer to the client, or drops it if the client has disconnected."""

Charge = Callable[[float], None]
"""Receives the cost of a request beyond its price, in units of `node.budget`."""

_encode = msgspec.msgpack.Encoder().encode


class NodeIdentity(msgspec.Struct, frozen=True):
    """The identity of a node in greetings and status. `start` is random at each start of the engine process."""

    software: str
    abi: str
    start: str = ""


class Answered(Protocol):
    """A client that got outcomes."""

    def flush(self) -> None:
        """Write them now."""


class LevelRequests(Protocol):
    """The part of `level_change.LevelRequests` that is used here."""

    @property
    def under_way(self) -> bool: ...
    def change(self, principal: Principal, request: ChangeLevel, send: Send) -> None: ...
    def prepare(self, principal: Principal, request: PrepareLevel, send: Send) -> None: ...


class EngineService:
    """One node's services.

    Commands:       submit, expire
    Reads:          query, status
    Feed:           subscribe (and `feed`)
    Operation:      control, change_members, begin_stop, idle, counters
    Authorisation:  gate, keys

    Attributes:
        answered: clients with outcomes of the entry that is being answered. Each adds itself when it gets outcomes, and
            is flushed when all outcomes of the entry are given. Without this the outcomes would wait for the next turn
            of the loop, and for the messages that arrive before it.
        on_answered: called when an entry of this leader is applied and answered.

    Args:
        later: `loop.call_soon`.
        ahead_of_tick: `leadership.ahead_of_tick`, for work that proposes; without it `later`.
        after: `loop.call_later`.
        time_ns: nanoseconds since the Unix epoch, for stamping batches.
        clock: monotonic seconds.
        more_counters: the counters of the rest of the process, for the status.
        modes: the mode of the engine.
        entries: encodes commands for the log.
        certificate_expires: when the node's certificate expires, in seconds since the epoch.
        seeding: the first dataset of a cluster that has never run. No other command is accepted before it.
        doubt: why no command may be applied yet, or "".
        trace: called for commands that were answered, with the times of arrival, of the begin of apply, and of the
            answer (nanoseconds since the epoch), and the reject reasons.
        warnings: returns what an operator should correct. Its argument is the index of the log entry that defines the
            members.
    """

    def __init__(
        self,
        config: NodeConfig,
        identity: NodeIdentity,
        machine: ReplicatedEngine,
        feed: Feed,
        raft: Leadership,
        *,
        later: Callable[[Callable[[], None]], object],
        after: After,
        ahead_of_tick: Callable[[Callable[[], None]], object] | None = None,
        time_ns: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
        more_counters: Callable[[], Mapping[str, int]] = dict,
        modes: Modes | None = None,
        seeding: Seeding | None = None,
        doubt: Callable[[], str] = str,
        warnings: Callable[[int], list[str]] = lambda _members_index: [],
        certificate_expires: Callable[[], int] = int,
        trace: Callable[[Sequence[AnyCommand], int, int, int, str], None] | None = None,
        entries: Entries | None = None,
    ) -> None:
        self._trace = trace
        self.config = config
        self.identity = identity
        self.feed = feed
        self.refused: Counter[str] = Counter()
        self.stopping = False
        self.answered: dict[Answered, None] = {}
        self.on_answered: Callable[[], None] = lambda: None
        self._machine = machine
        self._raft = raft
        self._views = Views(feed)
        self._log_chunks = LogChunks(config)
        self._books = BookCopies(lambda: machine.engine, feed, after)
        self._time_ns = time_ns
        self._clock = clock
        self._more_counters = more_counters
        self._certificate_expires = certificate_expires
        self.modes = modes or Modes(config.node_id)
        self._seeding = seeding
        self._doubt = doubt
        self._entries = entries or Entries()
        self.levels: LevelRequests | None = None
        self._warnings = warnings
        self.keys = EngineKeys(machine, ClusterKeys(config.cluster_key_path), clock=clock)
        self.gate = Gate(
            config.admin,
            self.keys,
            ready=lambda: raft.status().ready,
            caught_up=lambda: self.modes.current is Mode.READY or raft.status().ready,
            elsewhere=lambda: None if raft.is_leader else self._hint(),
        )
        self._started = clock()
        self._caught_up_s = float("-inf")
        self.account_rates: Shares[str] = Shares(config.native.account_rate, config.native.account_rate, clock=clock)
        self._expiring = False
        self._later = later
        self._pending = PendingQueue(after, config.native.queue_max)
        self._batcher: Batcher[Sequence[AnyCommand]] = Batcher(
            self._propose,
            self._encode_batch,
            later=ahead_of_tick or later,
            units_max=config.native.batch_commands_max,
            bytes_max=BATCH_BYTES_MAX,
            queue_max=config.native.queue_max,
        )
        self._transfer = LeadershipTransfer(raft, hold=self._batcher.hold, ended=self._go_on, after=after, clock=clock)
        self._barriers = Barriers(raft, later=later, after=after, clock=clock, held=lambda: self._transfer.under_way)
        self._reencryption = Reencryption(
            self.keys,
            raft,
            self._batcher,
            after=after,
            time_ns=time_ns,
            held=self._held,
            encode=self._entries.encode,
        )
        raft.on_role_change.append(self._role_changed)

    # ------------------------------------------------------------------ commands

    def submit(self, principal: Principal, request: Submit, size: int, send: Send) -> None:
        """Apply commands; `send` gets `Results` or `Failed`, exactly once, perhaps at once. `size` is the request's
        bytes.
        """
        commands = request.commands
        if not commands:
            send(Results(request.request_id, []))
            return
        if not principal.node:
            try:
                commands = principal.own(commands, self._permission_of_decision)
            except RequestFailed as error:
                send(self._failure(request.request_id, error))
                return
            if commands is not request.commands:
                request = msgspec.structs.replace(request, commands=commands)
        share = share_of(principal, commands)
        if self.account_rates.rate and (principal.node or not principal.operator) and share != principal.name:
            seconds = self.account_rates.overdraw(share, commands_cost(commands))
            if seconds:
                send(self._overdrawn(request.request_id, share, seconds))
                return
        if not self._raft.is_leader:
            if not self._waits_for_leader(share, len(commands), lambda: self._submit_later(request, share, size, send)):
                send(self._not_here(request.request_id))
        else:
            self._submit(request, share, size, send)

    def _submit_later(self, request: Submit, share: str, size: int, send: Send) -> None:
        """Queue commands that have waited for a leader, if this node leads."""
        if self._raft.is_leader:
            self._submit(request, share, size, send)
        else:
            send(self._not_here(request.request_id))

    def _overdrawn(self, request_id: int, account_id: str, seconds: float) -> Failed:
        """Return the answer to a request of an account whose share is used up for so many seconds."""
        text = f"account {account_id!r} has used up its share of {self.account_rates.rate:g} units a second"
        return self._failure(request_id, rate_limited(text, seconds))

    def _permission_of_decision(self, proposal_id: int) -> Permission | None:
        """Return the permission that a decision about a proposal needs: VIEW if it does not wait any more, which the
        exchange then says, and None if it may be applied later.
        """
        engine = self._machine.engine
        needed = engine.proposed_permission(proposal_id)
        return Permission.VIEW if needed is None and proposal_id <= engine.sequence else needed

    def _propose(self, payload: bytes, done: Done) -> None:
        """`Raft.propose`, timed up to the moment when the entry begins to be applied."""
        begun = time.perf_counter()

        def timed(result: ProposeResult) -> None:
            if result.error is None:
                self._machine.durations.commit.observe(max(0.0, self._machine.apply_began - begun))
            done(result)
            answered, self.answered = self.answered, {}
            for client in answered:
                client.flush()
            self.on_answered()

        self._raft.propose(payload, timed)

    @property
    def seeding(self) -> Seeding | None:
        """The first dataset of the cluster, while this node still waits for it."""
        return self._seeding if self._seeding is not None and not self._seeding.finished else None

    def _submit(self, request: Submit, share: str, size: int, send: Send) -> None:
        """Queue commands for the log, or send why not. This node leads."""
        commands = request.commands
        if self.stopping:
            send(self._not_here(request.request_id))
            return
        if self.seeding is not None:
            send(Failed(request.request_id, FailCode.NO_LEADER, "the dataset is being loaded"))
            return
        if doubt := self._doubt():
            send(Failed(request.request_id, FailCode.NO_LEADER, doubt))
            return
        try:
            encrypted, growth = self.keys.encrypt(commands)
            self._entries.check(encrypted)
        except RequestFailed as error:
            send(self._failure(request.request_id, error))
            return

        begun = time.perf_counter()

        def done(refusal: Refusal | None, outcomes: Sequence[object]) -> None:
            now = time.perf_counter()
            self._machine.durations.request.observe(now - begun)
            if self._trace is not None:
                ended_ns, applied = time.time_ns(), now - self._machine.apply_began
                refused = "" if refusal is None else refusal.name
                self._trace(commands, ended_ns - int((now - begun) * 1e9), ended_ns - int(applied * 1e9), ended_ns, refused)
            if refusal is None:
                send(Results(request.request_id, outcomes))  # type: ignore[arg-type]  # the batcher does not know what it carries
            else:
                send(self._refusal(request.request_id, refusal))

        count = len(encrypted)
        size += growth + UNIT_BYTES * count
        if count <= CHUNK:
            self._batcher.submit(encrypted, count, size, done, share)
        else:
            queue_chunks(self._batcher, encrypted, size, done, share)

    def _encode_batch(self, requests: list[Sequence[AnyCommand]]) -> bytes:
        commands = [command for request in requests for command in request]
        return self._entries.encode(self._time_ns(), commands)

    def expires_within(self, seconds: float) -> bool:
        """Return whether orders or timers expire within so many seconds, or work is unfinished now. O(products)."""
        engine = self._machine.engine
        return engine.has_pending_work or 0 < engine.next_expiry <= self._time_ns() + int(seconds * 1e9)

    def expire(self) -> None:
        """Expire orders and continue unfinished work, if this node leads and no command is pending (a command would do
        the same). The caller calls it periodically.

        This proposes a log entry without commands, so the clocks of followers do not matter. While work is unfinished,
        each entry is followed by another.
        """
        engine, now = self._machine.engine, self._time_ns()
        due = engine.next_expiry
        unfinished = engine.has_pending_work and now > engine.time  # an entry that does not advance the time changes nothing
        if not (unfinished or 0 < due <= now) or not self._raft.is_leader:
            return
        if self.stopping or self.seeding is not None or self._doubt() or self._held() or self._expiring or not self._batcher.idle:
            return

        def done(result: ProposeResult) -> None:
            self._expiring = False
            if result.error is None and self._machine.engine.has_pending_work:
                self._later(self.expire)

        self._expiring = True
        self._raft.propose(self._entries.encode(self._time_ns(), []), done)

    def _role_changed(self, role: str, leader_id: str) -> None:
        if role != "leader":
            self._batcher.fail_queued(Refusal.NOT_LEADER)
        if leader_id:
            self._pending.release()

    def _waits_for_leader(self, share: str, units: int, again: Callable[[], None]) -> bool:
        """Return whether a request waits for the next leader. Its client then need not search the nodes for the leader."""
        return self._raft.election_in_progress and not self.stopping and self._pending.admit(units, again, share)

    # ------------------------------------------------------------------ reads

    def query(self, principal: Principal, request: Query, send: Send, charge: Charge = lambda _cost: None) -> None:
        """Answer a query. `send` gets `Answer` or `Failed`, and `charge` gets the cost beyond that of a request.
        Linearizable reads that arrive during a barrier share the next one.
        """
        try:
            request = principal.own_query(request, self._machine.engine.held_by)
        except RequestFailed as error:
            send(self._failure(request.request_id, error))
            return
        cost = Cost.rows(rows_of(self._machine.engine, request.query))
        charge(cost)
        if principal.node and isinstance(request.query, OrdersQuery):
            # A gateway does not know how many orders the engine reads for a list, so their account pays for them here.
            seconds = self.account_rates.overdraw(request.query.account_id, cost)
            if seconds:
                send(self._overdrawn(request.request_id, request.query.account_id, seconds))
                return
        if isinstance(request.query, ApiKeyQuery) and not self.gate.caught_up():
            send(Failed(request.request_id, FailCode.NO_LEADER, "this node has not caught up, and cannot judge API keys yet"))
        elif isinstance(request.query, LogQuery):
            self._log_chunks.read(
                request.query, self._raft.status().applied_index, lambda found: send(self._chunk(request, found))
            )
        elif not request.linearizable:
            self._respond(principal, request, send, charge)
        elif not self._waits_for_leader(principal.name, 1, lambda: self._read(principal, request, send, charge)):
            self._read(principal, request, send, charge)

    def _read(self, principal: Principal, request: Query, send: Send, charge: Charge) -> None:
        """Answer a query after a barrier, as the leader."""
        if self.stopping or not self._raft.is_leader:
            send(self._not_here(request.request_id))
            return

        def answered(passed: bool) -> None:
            if passed:
                self._respond(principal, request, send, charge)
            else:
                send(self._not_here(request.request_id))

        if not self._barriers.join(answered):
            send(Failed(request.request_id, FailCode.OVERLOADED, "too many linearizable reads are waiting"))

    def _go_on(self) -> None:
        """Called when a transfer of leadership has ended, whichever node leads now."""
        self._barriers.go_on()

    def _respond(self, principal: Principal, request: Query, send: Send, charge: Charge) -> None:
        """Answer a read from the state of this node. A large book is answered later."""
        wanted = request.query
        if not (isinstance(wanted, BookQuery) and wanted.level == 3 and is_large(self._machine.engine, wanted.product_id)):
            send(self._answer(principal, request))
            return

        def done(result: Chunks | RequestFailed, orders: int) -> None:
            charge(Cost.rows(orders))
            if isinstance(result, RequestFailed):
                send(self._failure(request.request_id, result))
            else:
                send(LongAnswer(request.request_id, result))

        self._books.ask(wanted.product_id, done)

    def _answer(self, principal: Principal, request: Query) -> Answer | Failed:
        """Answer a query from the present state."""
        if isinstance(request.query, StatusQuery):
            status = self.status()
            seen = status if principal.operates_cluster else membership.public(status)
            return Answer(request.request_id, msgspec.Raw(_encode(seen)))
        try:
            engine = self._machine.engine
            body = self._views.answer(engine, request.query, principal.audience_of(request.query, engine.held_by))
        except NotFoundError as error:
            return Failed(request.request_id, FailCode.NOT_FOUND, str(error))
        except BadQueryError as error:
            return Failed(request.request_id, FailCode.BAD_REQUEST, f"query.{error}")
        return Answer(request.request_id, msgspec.Raw(body))

    def _chunk(self, request: Query, found: LogChunk | RequestFailed) -> Answer | Failed:
        if isinstance(found, RequestFailed):
            return self._failure(request.request_id, found)
        return Answer(request.request_id, msgspec.Raw(_encode(found)))

    def _is_ready(self, raft: RaftStatus) -> bool:
        """Return whether this node has applied what its leader has committed. A follower that did so before may be
        behind for `READY_LAG_S`: under load it nearly always is, by an entry or two. It may be without a connection to
        its leader for as long, because another leader is elected in less.
        """
        reached = raft.role == "leader" or any(each.connected for each in raft.members if each.member.node_id == raft.leader_id)
        if raft.ready and reached:
            self._caught_up_s = self._clock()
            return True
        if raft.role != "follower" or not raft.leader_id or self.modes.current is not Mode.READY:
            return False
        if not reached:
            return self._clock() - self._caught_up_s <= READY_LAG_S
        newest_entry_age_s = (self._time_ns() - self._machine.engine.time) / 1e9
        return min(self._clock() - self._caught_up_s, newest_entry_age_s) <= READY_LAG_S

    def status(self) -> NodeStatus:
        """Return the present status of this node, for operators and tests."""
        raft, engine, config = self._raft.status(), self._machine.engine, self.config
        return NodeStatus(
            node_id=config.node_id,
            cluster_id=config.cluster_id,
            role=raft.role,
            leader_id=raft.leader_id,
            term=raft.term,
            commit_index=raft.commit_index,
            applied_index=raft.applied_index,
            last_log_index=raft.last_log_index,
            first_log_index=raft.first_log_index,
            snapshot_index=raft.snapshot_index,
            sequence=engine.sequence,
            state_hash=engine.state_hash.hex(),
            voter=raft.voter,
            ready=self._is_ready(raft) and not self.stopping and self.seeding is None and not self._doubt(),
            quorum=raft.quorum,
            uptime=self._clock() - self._started,
            software=self.identity.software,
            abi=self.identity.abi,
            members=membership.member_status(raft.members, config.node_id),
            leader=self._hint(),
            counters=self._counters(raft),
            members_index=raft.members_index,
            change_under_way=raft.change_under_way,
            mode=self.modes.current,
            cluster_keys_missing=self.keys.missing,
            engine_start=self.identity.start,
            warnings=self._warnings(raft.members_index),
            certificate_expires=self._certificate_expires(),
            durations=self._machine.durations.freeze(),
            level=self._machine.level.version,
            level_abi=self._machine.level.abi,
            level_rules=self._machine.level.rules,
            levels=[level.version for level in SUPPORTED],
        )

    @property
    def sequence(self) -> int:
        """Number of commands that this node has applied."""
        return self._machine.engine.sequence

    def _counters(self, raft: RaftStatus) -> dict[str, int]:
        """Return the counters of the status."""
        counts = self._batcher.counts
        counters = {
            "commands_proposed": counts.units,
            "entries_proposed": counts.proposals,
            "commands_queued": self._batcher.queued,
            "entries_applied": self._machine.applied_entries,
        }
        counters.update((f"native_refused_{kind}", number) for kind, number in sorted(self.refused.items()))
        counters.update(self._more_counters())
        counters["raft_refused_snapshot"] = raft.snapshots_refused
        counters["snapshots_not_taken"] = raft.snapshots_not_taken
        counters["entries_from_future"] = raft.entries_from_future
        counters["state_digests_compared"] = raft.digests_compared
        counters["state_digests_differing"] = raft.digests_differing
        counters["state_digests_undecided"] = raft.digests_undecided
        return counters

    # ------------------------------------------------------------------ feed and control

    def subscribe(self, subscriber: Subscriber, request: Subscribe) -> Subscription:
        """Begin a subscription. The caller answers with its `next_sequence`, then calls `feed.resume`.

        Raises:
            RequestFailed: NOT_FOUND, TOO_OLD, BAD_REQUEST.
        """
        if is_stream(request.product_id):
            if subscriber.audience is not Audience.FULL or self._machine.engine.stream(request.product_id) is None:
                raise RequestFailed(FailCode.NOT_FOUND, f"report stream {request.product_id!r} does not exist")
        elif self._machine.engine.product(request.product_id) is None:
            raise RequestFailed(FailCode.NOT_FOUND, f"product {request.product_id!r} does not exist")
        try:
            return self.feed.subscribe(subscriber, request.request_id, request.product_id, request.from_sequence)
        except TooOldError as error:
            raise RequestFailed(FailCode.TOO_OLD, str(error)) from error
        except FeedError as error:
            raise RequestFailed(FailCode.BAD_REQUEST, str(error)) from error

    def control(self, principal: Principal, request: Control, send: Send) -> None:
        """Begin an operation that an operator requests. `send` gets `Answer` or `Failed`, exactly once, when it has
        begun.
        """
        try:
            principal.check_cluster("control")
        except RequestFailed as error:
            send(self._failure(request.request_id, error))
            return
        if request.action is ControlAction.SNAPSHOT:
            self._raft.request_snapshot()
            send(Answer(request.request_id, TRUE))
        elif not self._raft.is_leader:
            send(self._not_here(request.request_id))
        elif request.action is ControlAction.RESEAL:
            self._reencryption.begin(
                lambda failure: send(
                    Answer(request.request_id, TRUE) if failure is None else self._failure(request.request_id, failure)
                )
            )
        else:
            who = f"{request.node_id} is not a voter that" if request.node_id else "no other node"
            refusal = Failed(request.request_id, FailCode.BAD_REQUEST, f"{who} is up to date and reachable")
            self._transfer.begin(
                lambda asked: send(Answer(request.request_id, TRUE) if asked else refusal), successor=request.node_id
            )

    def change_members(self, principal: Principal, request: AddMember | RemoveMember, send: Send) -> None:
        """Add or remove a member, on the leader. `send` gets `Answer` or `Failed`, exactly once, perhaps at once."""
        try:
            principal.check_cluster("a change of the membership")
            if self.stopping or not self._raft.is_leader:
                send(self._not_here(request.request_id))
                return
            change: Change
            if isinstance(request, AddMember):
                change = membership.addition(request)
            else:
                change = membership.removal(request, self.members())
        except RequestFailed as error:
            send(self._failure(request.request_id, error))
            return

        def done(result: ChangeResult) -> None:
            if result.error is None:
                send(Answer(request.request_id, msgspec.Raw(_encode(result.index))))
            elif (error := membership.failure(result)).code is FailCode.NOT_LEADER:
                send(self._not_here(request.request_id))
            else:
                send(self._failure(request.request_id, error))

        self._raft.change_members(change, done)

    def change_level(self, principal: Principal, request: ChangeLevel, send: Send) -> None:
        """Change the cluster's level, on the leader. `send` gets `Answer` or `Failed`, exactly once."""
        if self.stopping or not self._raft.is_leader or self.levels is None:
            send(self._not_here(request.request_id))
        else:
            self.levels.change(principal, request, send)

    def prepare_level(self, principal: Principal, request: PrepareLevel, send: Send) -> None:
        """Prepare this node's state for another level. `send` gets `Answer` or `Failed`, exactly once."""
        if self.stopping or self.levels is None:
            send(Failed(request.request_id, FailCode.STOPPING, "this node is stopping"))
        else:
            self.levels.prepare(principal, request, send)

    @property
    def queue(self) -> Batcher[Sequence[AnyCommand]]:
        """The commands that wait to be proposed."""
        return self._batcher

    def holds_log_up(self) -> str:
        """Return a description of the operation that stops proposing now, or ""."""
        if self.seeding is not None:
            return "the dataset is being loaded: wait until it is"
        if self._transfer.under_way:
            return "leadership is being handed over: try again at the next leader"
        if self._reencryption.under_way:
            return "API keys are being encrypted again: wait until that is done"
        return self._doubt()

    def _held(self) -> bool:
        """Return whether proposing is stopped now, except for the operation that stopped it."""
        return self._transfer.under_way or (self.levels is not None and self.levels.under_way)

    def members(self) -> list[MemberStatus]:
        """Return the members of the cluster by this node's log."""
        return membership.member_status(self._raft.status().members, self.config.node_id)

    def begin_stop(self) -> None:
        """Refuse new commands. Pending commands continue."""
        self.stopping = True
        self._pending.release()

    @property
    def idle(self) -> bool:
        """Whether every accepted command has been answered."""
        return self._batcher.idle

    # ------------------------------------------------------------------ failures

    def _hint(self) -> LeaderHint | None:
        """Return the address of the leader. None if there is no leader, or if this node's log does not hold its address
        yet because the leader joined while this node was disconnected.
        """
        leader_id = self._raft.leader_id
        for member in self.members() if leader_id else ():
            if member.node_id == leader_id:
                return LeaderHint(leader_id, member.native, member.http)
        return None

    def _not_here(self, request_id: int) -> Failed:
        """Return the error of a node that does not lead, with the leader if it is known."""
        hint = self._hint()
        if hint is not None and hint.node_id != self.config.node_id:
            self.refused["not_leader"] += 1
            return Failed(request_id, FailCode.NOT_LEADER, f"{hint.node_id} leads", hint)
        if self.stopping:
            return Failed(request_id, FailCode.STOPPING, "this node is stopping")
        self.refused["no_leader"] += 1
        return Failed(request_id, FailCode.NO_LEADER, "no leader is known at the moment")

    def _refusal(self, request_id: int, refusal: Refusal) -> Failed:
        """Return the error for a refusal of the batcher."""
        if refusal is Refusal.NOT_LEADER:
            return self._not_here(request_id)
        self.refused[refusal.value] += 1
        if refusal is Refusal.OVERLOADED:
            text = f"{self._batcher.queued} commands are waiting already, and this account has its share of the queue"
            return Failed(request_id, FailCode.OVERLOADED, text)
        if refusal is Refusal.TOO_LARGE:
            text = f"commands: more than {BATCH_BYTES_MAX} bytes in one request; send fewer at a time"
            return Failed(request_id, FailCode.BAD_REQUEST, text)
        text = "leadership was lost under way; send the same commands, with the same ids, again"
        hint = self._hint()
        other = hint if hint is not None and hint.node_id != self.config.node_id else None
        return Failed(request_id, FailCode.OUTCOME_UNKNOWN, text, other)

    def _failure(self, request_id: int, error: RequestFailed) -> Failed:
        self.refused[error.code.name.lower()] += 1
        return Failed(request_id, error.code, error.message, error.leader)
