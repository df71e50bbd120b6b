"""The API keys of a node's engine: it encrypts them before they enter the log, finds and decrypts them, reports
changes, and re-encrypts them under a new cluster key.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence

import msgspec

from cluster.raft import ProposeResult
from node.engine.entries import Encode, Entries
from node.engine.leadership import After, Leader, ProposalQueue
from node.engine.replicated_engine import ReplicatedEngine
from node.errors import ClusterKeyError, RequestFailed, UnfitSecretError
from node.keys.credentials import is_revocation
from node.keys.encryption import ApiKey, ClusterKeys
from node.native.protocol import FailCode
from statemachine.commands import AnyCommand, DecideProposal, PutApiKey, command_decoder
from statemachine.events import AnyOutcome, Rejected
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow
from statemachine.types import Decision

_outcome: msgspec.msgpack.Decoder[AnyOutcome] = msgspec.msgpack.Decoder(AnyOutcome)

log = logging.getLogger(__name__)

REENCRYPT_CHUNK = 200
"""Keys that one log entry re-encrypts; such an entry stays well below the size limit."""
MISSING_AGE_MAX_S = 1.0
"""Seconds for which the count of missing cluster keys is cached. Every status reports the count."""
POLL_S = 0.002
"""Seconds between checks whether all pending entries have been applied."""


class EngineKeys:
    """The API keys of the replicated state, and this node's cluster keys.

    Attributes:
        on_change: called with the ids of keys that were put, replaced or revoked. An empty list means that any key may
            have changed.
    """

    def __init__(self, machine: ReplicatedEngine, cluster_keys: ClusterKeys, *, clock: Callable[[], float]) -> None:
        self.on_change: list[Callable[[list[str]], None]] = []
        self._machine = machine
        self._cluster_keys = cluster_keys
        self._clock = clock
        self._samples: dict[int, ApiKeyRow] | None = None
        self._missing: list[int] = []
        self._looked_at = float("-inf")
        machine.keys_changed = self._changed
        if not cluster_keys.numbers:
            log.warning("there is no cluster key at %s: no API key can be put until there is one", cluster_keys.path)

    def encrypt(self, commands: Sequence[AnyCommand]) -> tuple[Sequence[AnyCommand], int]:
        """Encrypt the keys in commands. Returns the commands as they enter the log, and by how many bytes they grew.

        Raises:
            RequestFailed: CONFLICT without a cluster key, or for an encrypted key that this node cannot decrypt;
                BAD_REQUEST for a secret or passphrase that no key can have.
        """
        kinds = set(map(type, commands)) if len(commands) > 1 else (type(commands[0]),)
        if DecideProposal in kinds:
            self._check_approvals(commands)
        if PutApiKey not in kinds:
            return commands, 0
        try:
            encrypted = [self._encrypted(command) if isinstance(command, PutApiKey) else command for command in commands]
        except ClusterKeyError as error:
            raise RequestFailed(FailCode.CONFLICT, str(error)) from error
        except UnfitSecretError as error:
            raise RequestFailed(FailCode.BAD_REQUEST, f"commands: {error}") from error
        return encrypted, sum(map(_length, encrypted)) - sum(map(_length, commands))

    def _check_approvals(self, commands: Sequence[AnyCommand]) -> None:
        """Raises RequestFailed (CONFLICT) if a proposed API key that is approved can no longer be decrypted: it was
        proposed under a cluster key that was replaced and removed.
        """
        wanted = [each.proposal_id for each in commands if type(each) is DecideProposal and each.decision is Decision.APPROVE]
        for row in self._machine.engine.records("proposal") if wanted else ():
            proposed = command_decoder.decode(row.command)
            if row.proposal_id in wanted and isinstance(proposed, PutApiKey) and not is_revocation(proposed):
                try:
                    self._encrypted(proposed)
                except ClusterKeyError as error:
                    text = f"proposal {row.proposal_id}: {error}. Withdraw it, and propose the key again"
                    raise RequestFailed(FailCode.CONFLICT, text) from error

    def _encrypted(self, command: PutApiKey) -> PutApiKey:
        """Return the command with its key encrypted. A key that arrives encrypted must be decryptable: one key that is
        not makes every node unready.
        """
        if command.sealed_by:
            texts = (command.secret, command.passphrase)
            self._cluster_keys.open(
                ApiKeyRow(command.key_id, command.owner_id, *texts, command.permissions, "", command.sealed_by)
            )
        return self._cluster_keys.encrypt(command)

    @property
    def bootstrap_off(self) -> bool:
        """Whether the operator's key of the configuration file is switched off."""
        return self._machine.engine.access.bootstrap_off

    def find(self, key_id: str) -> ApiKeyRow | None:
        """Return the key as stored, or None if it does not exist or was revoked."""
        row = self._machine.engine.usable_key(key_id)
        return row if row is not None and row.permissions else None

    def open(self, row: ApiKeyRow) -> ApiKey:
        """Return the decrypted key. Raises RequestFailed (CONFLICT) if this node lacks the cluster key."""
        try:
            return self._cluster_keys.open(row)
        except ClusterKeyError as error:
            raise RequestFailed(FailCode.CONFLICT, str(error)) from error

    @property
    def missing(self) -> list[int]:
        """Numbers of cluster keys that API keys are encrypted under and that this node lacks or has with other
        contents.
        """
        if self._samples is not None and self._clock() - self._looked_at < MISSING_AGE_MAX_S:
            return self._missing
        if self._samples is None:
            self._samples = {row.sealed_by: row for row in self._machine.engine.api_keys()}
        before, self._looked_at = self._missing, self._clock()
        self._missing = [number for number, row in sorted(self._samples.items()) if not self._cluster_keys.opens(row)]
        if self._missing and self._missing != before:
            numbers = ", ".join(map(str, self._missing))
            log.warning(
                "cluster key %s is not in %s: API keys encrypted under it cannot be used here", numbers, self._cluster_keys.path
            )
        return self._missing

    def to_encrypt(self, most: int) -> tuple[list[PutApiKey], list[str]]:
        """Return commands that re-encrypt up to `most` keys under the newest cluster key, and the reasons why other
        keys cannot be re-encrypted: this node lacks their cluster key, or they are too long (possible only for keys of
        version 0.1.0).

        Raises:
            ClusterKeyError: there is no cluster key.
        """
        newest = self._cluster_keys.newest
        commands: list[PutApiKey] = []
        faults: list[str] = []
        for row in self._machine.engine.api_keys():
            if row.sealed_by != newest and len(commands) < most:
                try:
                    commands.append(self._reencrypted(row))
                except ClusterKeyError as error:
                    faults.append(str(error))
                except UnfitSecretError as error:
                    faults.append(f"API key {row.key_id}: {error}")
        return commands, faults

    def _reencrypted(self, row: ApiKeyRow) -> PutApiKey:
        """Return the command that stores a key under the newest cluster key."""
        key = self._cluster_keys.open(row)
        texts = (key.secret, key.passphrase)
        command_id = f"reseal:{uuid.uuid4()}"
        return self._cluster_keys.encrypt(
            PutApiKey(OPERATOR, command_id, row.key_id, row.owner_id, *texts, row.permissions, row.addresses, user_id=row.user_id)
        )

    def _changed(self, key_ids: list[str]) -> None:
        self._samples = None
        for notify in self.on_change:
            notify(key_ids)


def _length(command: AnyCommand) -> int:
    return len(command.secret) + len(command.passphrase) if isinstance(command, PutApiKey) else 0


class Reencryption:
    """Encrypts every API key under the newest cluster key.

    A run writes each key as it reads it from the state, so no command may change a key between the read and the entry.
    New commands therefore wait until all pending entries have been applied, and the entry is proposed in the same turn.
    At most one run is active at a time.
    """

    def __init__(
        self,
        keys: EngineKeys,
        raft: Leader,
        queue: ProposalQueue,
        *,
        after: After,
        time_ns: Callable[[], int],
        held: Callable[[], bool],
        encode: Encode | None = None,
    ) -> None:
        self._encode = encode or Entries().encode
        self._keys = keys
        self._raft = raft
        self._queue = queue
        self._after = after
        self._time_ns = time_ns
        self._held = held
        self._waiting: list[Callable[[RequestFailed | None], None]] = []
        self._release: Callable[[], None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a run is active."""
        return bool(self._waiting)

    def begin(self, done: Callable[[RequestFailed | None], None]) -> None:
        """Begin a run, or join the active one. `done` gets None, or the reason why some keys are not re-encrypted."""
        self._waiting.append(done)
        if len(self._waiting) == 1:
            self._step()

    def _step(self) -> None:
        """Encrypt the next keys, once earlier proposals are applied."""
        if not self._raft.is_leader or self._held():
            self._end(RequestFailed(FailCode.BUSY, "leadership changes; begin again at the next leader"))
            return
        if self._release is None:
            self._release = self._queue.hold()
        if self._queue.in_flight or not self._raft.status().ready:
            self._after(POLL_S, self._step)
            return
        try:
            commands, faults = self._keys.to_encrypt(REENCRYPT_CHUNK)
        except ClusterKeyError as error:
            self._end(RequestFailed(FailCode.CONFLICT, str(error)))
            return
        if commands:
            self._raft.propose(self._encode(self._time_ns(), commands), self._applied)
        elif faults:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            self._end(RequestFailed(FailCode.CONFLICT, f"{faults[0]}{more}"))
        else:
            self._end(None)

    def _applied(self, result: ProposeResult) -> None:
        """Continue after a step, or end with its error."""
        if result.error is not None:
            self._end(RequestFailed(FailCode.BUSY, "leadership was lost before the end; begin again at the next leader"))
            return
        outcomes = result.value
        assert isinstance(outcomes, list), "the state machine returns a list"
        for outcome in map(_outcome.decode, outcomes):
            if isinstance(outcome, Rejected):
                self._end(RequestFailed(FailCode.CONFLICT, f"{outcome.field}: {outcome.detail}"))
                return
        # Let waiting commands go first: a long table must not block other clients.
        self._release_queue()
        self._after(POLL_S, self._step)

    def _release_queue(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None

    def _end(self, failure: RequestFailed | None) -> None:
        self._release_queue()
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(failure)
