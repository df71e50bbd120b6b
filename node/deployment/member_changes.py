"""The steps of `quorumbook cluster add | remove | replace`.

Each step first checks whether its result exists already. So a command that was killed, or whose answer was lost, can be
repeated. Only the cluster and the new node's directory keep state between two runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from node.config.settings import NodeAddress
from node.data_directory import identity
from node.deployment import joining
from node.deployment.local_cluster import LocalCluster
from node.engine.membership import address_of, removal_fault
from node.errors import DirectoryError, MembershipError, RequestFailed
from node.keys.credentials import Credentials
from node.native.client import ClusterClient
from node.native.protocol import ControlAction, FailCode, MemberStatus, NodeStatus, StatusQuery

POLL = 0.25
"""Seconds between two status requests to the leader."""

REPORT_SECONDS = 2.0
"""Seconds between two progress lines about a node that catches up."""

HANDOVER_SECONDS = 10.0
"""Seconds for another node to become leader before the present leader is removed."""

STOP_SECONDS = 15.0
"""Seconds for a removed node's processes to end."""

MIB = 1024 * 1024

Report = Callable[[str], None]


class Addition(msgspec.Struct, frozen=True):
    """A node to add. The command chooses addresses that are empty. `start`: run the node on this machine."""

    node_id: str
    raft: str = ""
    native: str = ""
    http: str = ""
    read_only: bool = False
    start: bool = True


class MemberChanges:
    """Changes the membership of the cluster in one directory. `report` gets each line for the operator. Requests are
    signed with `credentials`, or with the operator's key if they are None.

    Raises, all methods:
        RequestFailed: no leader answered in time, or the leader rejected the change.
        MembershipError: the change is not possible, or was not complete in time; the message says where to look.
    """

    def __init__(self, local: LocalCluster, report: Report, credentials: Credentials | None = None) -> None:
        self._local = local
        self._report = report
        self._client: ClusterClient = local.layout.client(credentials)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def status(self) -> NodeStatus:
        """Return the leader's status, which has the members. It is no older than this call."""
        return await self._client.query(StatusQuery(), linearizable=True)

    # ------------------------------------------------------------------ add

    async def add(self, wanted: Addition, seconds: float) -> None:
        """Make the node's directory, add it, start it, and wait at most `seconds` until it votes or, if it is
        read-only, has caught up.

        Raises:
            SetupError: an address or the directory cannot be.
            NodeStartError: it does not start.
        """
        status = await self.status()
        member = _find(status, wanted.node_id)
        if member is None:
            member = await self._join(wanted, status)
        else:
            self._check_same(member, wanted)
        self._start(wanted)
        await self._wait_level(member, status.commit_index, seconds)

    async def _join(self, wanted: Addition, status: NodeStatus) -> MemberStatus:
        """Make the directory and ask the leader. Returns the new member."""
        address = self._address(wanted, status)
        members = [address_of(member) for member in status.members]
        joining.check_new(address, members)
        layout = self._local.layout
        if wanted.start and self._known_pid(wanted.node_id) is None:
            joining.check_free(address)
        toml = joining.make_joiner(layout.directory, address, members, layout.like)
        self._report(f"{wanted.node_id}: its directory is {toml.parent}")
        self._local.reload()
        try:
            index = await self._client.add_member(address, read_only=wanted.read_only)
        except RequestFailed:
            # The answer to an earlier attempt may have been lost.
            member = _find(await self.status(), wanted.node_id)
            if member is None or address_of(member) != address:
                raise
        else:
            self._report(
                f"{wanted.node_id}: added with log entry {index:,}{', read-only' if wanted.read_only else ', without a vote yet'}"
            )
            member = _find(await self.status(), wanted.node_id)
        if member is None:
            raise MembershipError(f"{wanted.node_id} was added, and was removed again by somebody else")
        return member

    def _address(self, wanted: Addition, status: NodeStatus) -> NodeAddress:
        """Return the given addresses, those of a directory that an earlier run made, or the next free ones."""
        config = self._local.layout.configs.get(wanted.node_id)
        chosen = {name: value for name in ("raft", "native", "http") if (value := getattr(wanted, name))}
        if config is not None:
            base = config.address(config.node_id)
        elif len(chosen) == 3:
            base = NodeAddress(wanted.node_id, "", "", "")
        else:
            base = joining.next_address(wanted.node_id, [address_of(member) for member in status.members])
        return msgspec.structs.replace(base, **chosen)

    def _check_same(self, member: MemberStatus, wanted: Addition) -> None:
        """Check that an existing member is the same as the requested one."""
        if wanted.read_only != (member.role == "read_only"):
            text = f"is a member already, and {_words(member.role)}; a node's role does not change: remove it and add another one"
            raise MembershipError(f"{member.node_id} {text}")
        for name in ("raft", "native", "http"):
            address = getattr(wanted, name)
            if address and address != getattr(member, name):
                raise MembershipError(f"{member.node_id} is a member already, at --{name} {getattr(member, name)}, not {address}")
        self._report(f"{member.node_id} is a member already: {_words(member.role)}")

    def _known_pid(self, node_id: str) -> int | None:
        return self._local.pid(node_id) if node_id in self._local.layout.configs else None

    def _start(self, wanted: Addition) -> None:
        """Start a new node, or report how to start it. A node that runs, or is on another machine, is left alone."""
        if wanted.node_id not in self._local.layout.configs:
            return
        if self._local.pid(wanted.node_id) is not None:
            return
        if wanted.start:
            self._local.start([wanted.node_id])
            self._report(f"{wanted.node_id}: started, writes to {self._local.layout.log_file(wanted.node_id)}")
        else:
            home = self._local.layout.config_paths[wanted.node_id].parent
            self._report(f"{wanted.node_id}: move {home} to its machine and run there: quorumbook node start --config node.toml")

    async def _wait_level(self, member: MemberStatus, commit_index: int, seconds: float) -> None:
        """Wait until a learner votes, or until a read-only member has everything that was committed before."""
        node_id, last_line, reported_at = member.node_id, "", float("-inf")
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while True:
            status = await self._client.query(StatusQuery())
            if _level(_find(status, node_id), commit_index) or clock() >= end:
                status = await self.status()
            learner = _find(status, node_id)
            if learner is None and status.role == "leader":
                raise MembershipError(f"{node_id} was removed in the meantime")
            if learner is None:
                await asyncio.sleep(POLL)
                continue
            if _level(learner, commit_index):
                self._report(f"{node_id} is {_words(learner.role)} now")
                return
            line = f"{node_id}: {progress(learner, status)}"
            if line != last_line and clock() - reported_at >= REPORT_SECONDS:
                last_line, reported_at = line, clock()
                self._report(line)
            if clock() >= end:
                raise MembershipError(
                    f"{node_id} is {_words(learner.role)} after {seconds:g} s ({progress(learner, status)}). "
                    "The node continues to catch up: watch it with `quorumbook cluster members` and in its node.log, or repeat "
                    "the command to wait longer"
                )
            await asyncio.sleep(POLL)

    # ------------------------------------------------------------------ remove

    async def remove(self, node_id: str, *, force: bool = False) -> None:
        """Remove a node, after a leadership transfer if it leads, and wait until its processes on this machine have
        ended.
        """
        status = await self.status()
        if _find(status, node_id) is None:
            self._check_known(node_id, status)
            self._report(f"{node_id} is not a member of the cluster")
        else:
            fault = removal_fault(status.members, node_id, force=force)
            if fault:
                raise MembershipError(fault.replace("force it", "repeat with --force"))
            await self._hand_over(node_id, status)
            await self._ask_removal(node_id, force=force)
        await self._end(node_id)

    async def replace(self, old: str, wanted: Addition, seconds: float, *, force: bool = False) -> None:
        """`add` a node and `remove` another."""
        if old == wanted.node_id:
            raise MembershipError(f"{old} cannot replace itself: an id is used once, choose another one")
        status = await self.status()
        is_removed = _find(status, old) is None
        if is_removed and _find(status, wanted.node_id) is None:
            self._check_known(old, status)
        await self.add(wanted, seconds)
        if is_removed and old not in self._local.layout.configs:
            self._report(f"{old} is not a member of the cluster")
        else:
            await self.remove(old, force=force)

    def _check_known(self, node_id: str, status: NodeStatus) -> None:
        """Check that a node that is not a member was one before: its directory is here. Any other id is a mistake."""
        if node_id not in self._local.layout.configs:
            raise DirectoryError(f"no node {node_id!r}; members are: {', '.join(member.node_id for member in status.members)}")

    async def _hand_over(self, node_id: str, status: NodeStatus) -> None:
        """Transfer leadership away from a node that is to be removed."""
        if status.leader_id != node_id:
            return
        self._report(f"{node_id} leads; it transfers its leadership first")
        clock = asyncio.get_running_loop().time
        end = clock() + HANDOVER_SECONDS
        while (status := await self.status()).leader_id == node_id:
            if clock() >= end:
                raise MembershipError(
                    f"{node_id} leads, and no other voter took over within {HANDOVER_SECONDS:g} s; look with `quorumbook cluster status`"
                )
            await self._transfer(node_id)
            await asyncio.sleep(POLL)
        self._report(f"{status.leader_id} leads now")

    async def _transfer(self, node_id: str) -> None:
        """Ask a node to transfer its leadership. A node that does not lead is not an error."""
        try:
            await self._client.control(ControlAction.TRANSFER_LEADERSHIP, node_id)
        except RequestFailed as error:
            if error.code not in (FailCode.BAD_REQUEST, FailCode.NOT_LEADER, FailCode.NO_LEADER):
                raise

    async def _ask_removal(self, node_id: str, *, force: bool) -> None:
        """Remove a member from the cluster, or notice that it was removed before."""
        try:
            index = await self._client.remove_member(node_id, force=force)
        except RequestFailed:
            # The answer to an earlier attempt may have been lost.
            if _find(await self.status(), node_id) is not None:
                raise
            self._report(f"{node_id}: removed")
        else:
            self._report(f"{node_id}: removed with log entry {index:,}")

    async def _end(self, node_id: str) -> None:
        """Wait for a removed node's processes on this machine, and prevent their restart."""
        self._local.layout.note_removed(node_id)
        config = self._local.layout.configs.get(node_id)
        if config is None:
            self._report(f"{node_id} is not on this machine: if it runs, it stops")
            return
        if not await asyncio.to_thread(self._local.ended, node_id, STOP_SECONDS):
            await asyncio.to_thread(self._local.stop, [node_id])
        if identity.stage_of(config) is identity.Stage.STARTED:
            identity.mark_removed(config)
        self._report(f"{node_id} does not run, and does not start again; only an audit still needs {config.data_path.parent}")


def progress(member: MemberStatus, status: NodeStatus) -> str:
    """Return how far a member is, as the leader sees it."""
    if not member.connected:
        return "not connected"
    if member.snapshot_size:
        return f"snapshot {member.snapshot_sent / MIB:,.1f} of {member.snapshot_size / MIB:,.1f} MiB"
    behind = status.last_log_index - member.match_index
    return f"{member.match_index:,}" if not behind else f"{member.match_index:,} of {status.last_log_index:,}"


def _find(status: NodeStatus, node_id: str) -> MemberStatus | None:
    return next((member for member in status.members if member.node_id == node_id), None)


def _level(member: MemberStatus | None, commit_index: int) -> bool:
    """Return whether an added node has reached its purpose: a vote, or the end of the log."""
    return member is not None and (member.role == "voter" or (member.role == "read_only" and member.match_index >= commit_index))


def _words(role: str) -> str:
    return {"voter": "a voter", "learner": "a learner without a vote yet", "read_only": "read-only"}.get(role, role)
