"""API keys in the engine: they are encrypted before they reach the log, encrypted again without the loss of a change,
and sent to the processes that follow them.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import msgspec
import pytest

from node.engine.principal import authenticate, refresh
from node.errors import RequestFailed
from node.keys import addresses
from node.keys.credentials import Credentials, revocation
from node.keys.encryption import ApiKey, ClusterKeys, read_keys, with_another, write_keys
from node.native.connection import NativeConnection, hello
from node.native.protocol import ApiKeyQuery, ApiKeysQuery, ControlAction, FailCode, StatusQuery
from statemachine.commands import PutApiKey, decode_batch
from statemachine.events import Done, Rejected
from statemachine.limits import OPERATOR
from statemachine.tables import ApiKeyRow
from tests.unit.node.fakes import ADMIN, WORLD, FakeNode, config_of, connected, running
from tests.waiting import until

SECRET = base64.b64encode(b"the secret of a trader").decode()


def put(number: int, key_id: str = "key-1", passphrase: str = "sesame", limits: str = "") -> PutApiKey:
    return PutApiKey(OPERATOR, f"put-{number}", key_id, "alice", SECRET, passphrase, 3, limits)


def row(node: FakeNode, key_id: str = "key-1") -> ApiKeyRow:
    found = node.machine.engine.api_key(key_id)
    assert found is not None
    return found


async def put_and_rotate(node: FakeNode, gateway: NativeConnection) -> None:
    """Put a key while the node commits nothing, and give it the next cluster key."""
    first = asyncio.ensure_future(gateway.submit([*WORLD, put(1)]))
    await until(lambda: node.raft.under_way == 1)
    node.raft.tick()
    await first
    rotate(node)


def rotate(node: FakeNode) -> None:
    path = node.config.cluster_key_path
    write_keys(path, with_another(read_keys(path)))


class TestEncryption:
    async def test_no_secret_reaches_the_log(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, put(1)])
        assert row(node).sealed_by == 1
        for entry in node.raft.entries:
            assert SECRET.encode() not in entry
            assert base64.b64decode(SECRET) not in entry
            assert b"sesame" not in entry

    async def test_a_command_sent_again_is_the_same(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, put(1)])
            (outcome,) = await gateway.submit([put(1)])
        assert isinstance(outcome, Done)
        assert outcome.duplicate

    async def test_without_a_cluster_key_nothing_is_put(self, node: FakeNode) -> None:
        write_keys(node.config.cluster_key_path, {})
        async with connected(node) as gateway:
            with pytest.raises(RequestFailed, match="there is no cluster key at") as caught:
                await gateway.submit([*WORLD, put(1)])
        assert caught.value.code is FailCode.CONFLICT
        assert node.machine.engine.sequence == 0

    async def test_without_a_cluster_key_a_key_can_be_revoked(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, put(1)])
            write_keys(node.config.cluster_key_path, {})
            await gateway.submit([revocation(row(node), "revoke")])
            assert node.service.keys.find("key-1") is None
            write_keys(node.config.cluster_key_path, {2: bytes(64)})
            await gateway.control(ControlAction.RESEAL)
        assert (row(node).sealed_by, row(node).permissions) == (2, 0)

    async def test_a_secret_that_cannot_be_one_is_refused(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            with pytest.raises(RequestFailed, match="secret: expected base64") as caught:
                await gateway.submit([msgspec.structs.replace(put(1), secret="my secret")])
        assert caught.value.code is FailCode.BAD_REQUEST

    @pytest.mark.parametrize("number", [1, 2, -1])
    async def test_a_key_that_comes_encrypted_must_open(self, node: FakeNode, number: int) -> None:
        async with connected(node) as gateway:
            await gateway.submit(WORLD)
            with pytest.raises(RequestFailed, match=f"cluster key {number}") as caught:
                await gateway.submit([msgspec.structs.replace(put(1), sealed_by=number, addresses="nowhere")])
            encrypted = ClusterKeys(node.config.cluster_key_path).encrypt(put(1))
            (outcome,) = await gateway.submit([encrypted])
        assert caught.value.code is FailCode.CONFLICT
        assert isinstance(outcome, Done)
        assert node.service.status().cluster_keys_missing == []

    async def test_the_list_shows_no_secrets(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, put(1, "a"), put(2, "b"), put(3, "c")])
            rows = await gateway.query(ApiKeysQuery("a", 1))
        assert [(each.key_id, each.secret, each.passphrase, each.sealed_by) for each in rows] == [("b", "", "", 1)]

    async def test_a_missing_cluster_key_is_reported(self, node: FakeNode, caplog: pytest.LogCaptureFixture) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, put(1)])
            assert (await gateway.query(StatusQuery())).cluster_keys_missing == []
            write_keys(node.config.cluster_key_path, {1: bytes(64)})
            await until(lambda: node.service.status().cluster_keys_missing == [1])
            assert caplog.text.count("API keys encrypted under it cannot be used here") == 1
        with pytest.raises(RequestFailed, match="is not the one under which") as caught:
            async with connected(node, Credentials("key-1", SECRET, "sesame")):
                pass
        assert caught.value.code is FailCode.CONFLICT


class TestReencryption:
    async def test_every_key_is_put_under_the_newest(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, *(put(number, f"key-{number}", limits="192.0.2.0/24") for number in range(450))])
            rotate(node)
            await gateway.control(ControlAction.RESEAL)
            rows = await gateway.query(ApiKeysQuery())
        assert {(each.sealed_by, each.permissions, each.owner_id, each.addresses) for each in rows} == {
            (2, 3, "alice", "192.0.2.0/24")
        }
        assert node.service.keys.open(row(node, "key-7")).secret == SECRET

    async def test_sessions_continue_during_a_reencryption(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, put(1)])
            async with connected(node, Credentials("key-1", SECRET, "sesame")) as trader:
                rotate(node)
                await gateway.control(ControlAction.RESEAL)
                assert (await trader.query(StatusQuery())).sequence > 0
                assert not trader.closed.is_set()

    async def test_a_change_in_progress_is_not_undone(self, tmp_path: Path) -> None:
        """The key is put again with another secret while the reseal begins. The reseal waits for that, and encrypts the
        new secret.
        """
        async with running(config_of(tmp_path), auto=False) as node, connected(node) as gateway:
            await put_and_rotate(node, gateway)
            change = asyncio.ensure_future(gateway.submit([msgspec.structs.replace(put(2), secret="bmV3")]))
            await until(lambda: node.raft.under_way == 1)
            reseal = asyncio.ensure_future(gateway.control(ControlAction.RESEAL))
            later = asyncio.ensure_future(gateway.submit([msgspec.structs.replace(put(3), passphrase="later")]))
            while not (reseal.done() and later.done() and change.done()):
                node.raft.tick()
                await asyncio.sleep(0.001)
            await asyncio.gather(reseal, later, change)
            key = node.service.keys.open(row(node))
            assert (row(node).sealed_by, key.passphrase) == (2, "later")
            kinds = [[type(command).__name__ for command in decode_batch(entry).commands] for entry in node.raft.entries]
            assert kinds[1] == ["PutApiKey"], "the change is in the log before the reseal looks"

    async def test_encryption_of_keys_proposes_nothing_during_a_transfer_of_leadership(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path), auto=False) as node, connected(node) as gateway:
            await put_and_rotate(node, gateway)
            reseal = asyncio.ensure_future(gateway.control(ControlAction.RESEAL))
            await until(lambda: node.raft.under_way == 1)
            transfer = asyncio.ensure_future(gateway.control(ControlAction.TRANSFER_LEADERSHIP))
            await until(lambda: node.raft.transfers > 0)
            command = asyncio.ensure_future(gateway.submit([put(2)]))
            await until(lambda: node.service.status().counters["commands_queued"] == 1)
            node.raft.tick()
            with pytest.raises(RequestFailed, match="leadership changes"):
                await reseal
            assert node.raft.under_way == 0, "the command waits for the next leader"
            node.raft.successor = "n2"
            assert await transfer
            with pytest.raises(RequestFailed) as caught:
                await command
            assert caught.value.code is FailCode.NOT_LEADER

    async def test_one_that_cannot_be_opened_keeps_no_other_back(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, put(1, "old")])
            write_keys(node.config.cluster_key_path, {2: bytes(range(64))})
            await gateway.submit([put(2, "new")])
            write_keys(node.config.cluster_key_path, {2: bytes(range(64)), 3: bytes(64)})
            with pytest.raises(RequestFailed, match="cluster key 1, under which API key 'old' is encrypted") as caught:
                await gateway.control(ControlAction.RESEAL)
        assert caught.value.code is FailCode.CONFLICT
        assert (row(node, "old").sealed_by, row(node, "new").sealed_by) == (1, 3)

    async def test_a_reencryption_needs_the_operator(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            await gateway.submit([*WORLD, put(1)])
        async with connected(node, Credentials("key-1", SECRET, "sesame")) as trader:
            with pytest.raises(RequestFailed, match="needs the permission CLUSTER"):
                await trader.control(ControlAction.RESEAL)
            with pytest.raises(RequestFailed, match="for gateways only"):
                await trader.follow_keys(lambda _key_ids: None)


class TestFollowing:
    async def test_a_change_comes_before_its_outcome(self, node: FakeNode) -> None:
        async with connected(node) as gateway:
            changed: list[list[str]] = []
            await gateway.follow_keys(changed.append)
            await gateway.submit([*WORLD, put(1), put(2, "key-2")])
            assert changed == [["key-1", "key-2"]]
            (refused,) = await gateway.submit([msgspec.structs.replace(put(3), owner_id="nobody")])
            assert isinstance(refused, Rejected)
            node.machine.replace(node.machine.engine)
            await until(lambda: len(changed) == 2)
            assert changed[-1] == [], "any may be another after a snapshot"
        assert changed[-1] == []
        assert len(changed) == 3, "a refused put changes nothing, and the end of the connection is reported once"

    async def test_a_node_that_has_not_caught_up_judges_no_key(self, tmp_path: Path) -> None:
        async with running(config_of(tmp_path), leader=False) as node, connected(node) as gateway:
            with pytest.raises(RequestFailed, match="has not caught up") as caught:
                await gateway.query(ApiKeyQuery("key-1"))
            assert caught.value.code is FailCode.NO_LEADER


class Keys:
    """One stored key. `key` is the same key decrypted."""

    bootstrap_off = False

    def __init__(self, limits: str) -> None:
        self.row = ApiKeyRow("key-1", "alice", SECRET, "sesame", 3, limits)

    def find(self, key_id: str) -> ApiKeyRow | None:
        return self.row

    def open(self, row: ApiKeyRow) -> ApiKey:
        return ApiKey(row.key_id, row.owner_id, row.secret, row.passphrase, row.permissions, addresses.of_key(row.addresses))


class TestAddresses:
    def test_a_greeting_from_elsewhere_is_refused(self) -> None:
        greeting = hello(Credentials("key-1", SECRET, "sesame"), "test", 100.0)
        assert authenticate(greeting, ADMIN, Keys("192.0.2.0/24"), 100.0, "192.0.2.9").name == "key key-1"
        with pytest.raises(RequestFailed, match=r"this key may not be used from 198\.51\.100\.1") as caught:
            authenticate(greeting, ADMIN, Keys("192.0.2.0/24"), 100.0, "198.51.100.1")
        assert caught.value.code is FailCode.UNAUTHORIZED

    def test_the_operators_key_can_be_limited_too(self) -> None:
        admin = msgspec.structs.replace(ADMIN, addresses=("10.0.0.0/8", "2001:db8::7"))
        greeting = hello(Credentials(ADMIN.key_id, ADMIN.secret, ADMIN.passphrase), "test", 100.0)
        assert authenticate(greeting, admin, Keys(""), 100.0, "2001:db8::7").operator
        with pytest.raises(RequestFailed, match=r"this key may not be used from 198\.51\.100\.1"):
            authenticate(greeting, admin, Keys(""), 100.0, "198.51.100.1")

    def test_a_session_from_where_the_key_may_no_more_be_used_has_nothing_left(self) -> None:
        keys = Keys("")
        greeting = hello(Credentials("key-1", SECRET, "sesame"), "test", 100.0)
        principal = authenticate(greeting, ADMIN, keys, 100.0, "192.0.2.9")
        keys.row = msgspec.structs.replace(keys.row, addresses="192.0.2.0/24")
        assert refresh(principal, keys).permissions == 3
        keys.row = msgspec.structs.replace(keys.row, addresses="198.51.100.0/24")
        assert refresh(principal, keys).permissions == 0
