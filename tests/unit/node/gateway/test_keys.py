"""API keys over REST and on open connections: they are made, listed without secrets, limited to addresses, and revoked
at once.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from node.errors import RequestFailed
from node.gateway.auth import Authenticator
from node.gateway.errors import ApiError, UnavailableError
from node.keys.credentials import Credentials, revocation
from node.keys.encryption import ClusterKeys, write_keys
from node.native.protocol import AnyQuery, ApiKeyQuery, FailCode
from statemachine.commands import PutApiKey
from statemachine.limits import ADDRESSES_MAX, OPERATOR
from tests.unit.node.gateway.harness import SECRET, Exchange, FakeBackend, config, headers, receive, running, subscribe
from tests.unit.node.gateway.test_auth import claim
from tests.waiting import until

KEY = {"account_id": "alice", "permissions": ["view", "trade"]}
PRIVATE: dict[str, object] = {"channels": ["user", "ticker"], "product_ids": ["BTC-USD"]}
PUT = KEY | {"secret": SECRET, "passphrase": "walrus"}


async def made(exchange: Exchange, **fields: object) -> Credentials:
    """Have the server make a key. From then on `exchange` can call by the name "made"."""
    status, answer = await exchange.call("admin", "POST", "/admin/keys", KEY | fields)
    assert status == 200, answer
    exchange.keys["made"] = Credentials(answer["id"], answer["secret"], answer["passphrase"])
    return exchange.keys["made"]


async def test_a_made_key_works_and_its_secret_is_shown_once(exchange: Exchange) -> None:
    key = await made(exchange)
    assert (await exchange.call("made", "GET", "/accounts"))[0] == 200
    status, listed = await exchange.call("admin", "GET", "/admin/keys")
    assert status == 200
    assert {
        "id": key.key_id,
        "account_id": "alice",
        "permissions": ["view", "trade"],
        "addresses": [],
        "encrypted": False,
    } in listed
    assert key.secret not in json.dumps(listed)
    assert key.passphrase not in json.dumps(listed)


async def test_two_made_keys_have_nothing_in_common(exchange: Exchange) -> None:
    one, other = await made(exchange), await made(exchange)
    assert not {one.key_id, one.secret, one.passphrase} & {other.key_id, other.secret, other.passphrase}


async def test_the_list_is_read_in_pages(exchange: Exchange) -> None:
    response = await exchange.send("admin", "GET", "/admin/keys?limit=1")
    assert [key["id"] for key in json.loads(await response.read())] == ["alice-key"]
    assert response.headers["cb-after"] == "alice-key"
    response = await exchange.send("admin", "GET", "/admin/keys?limit=5&after=alice-key")
    assert [key["id"] for key in json.loads(await response.read())] == ["bob-key"]
    assert "cb-after" not in response.headers


@pytest.mark.parametrize(
    ("method", "target", "body", "field", "message"),
    [
        ("POST", "/admin/keys", KEY | {"account_id": "no name"}, "account_id", "Invalid account_id"),
        (
            "POST",
            "/admin/keys",
            KEY | {"permissions": []},
            "permissions",
            "permissions must be some of view, trade, transfer, admin",
        ),
        ("POST", "/admin/keys", KEY | {"permissions": ["fly"]}, "permissions", "permissions must be some of"),
        ("POST", "/admin/keys", KEY | {"addresses": ["192.0.2.1/24"]}, "addresses[0]", "addresses[0] must be a network"),
        ("POST", "/admin/keys", KEY | {"addresses": ["::1", "home"]}, "addresses[1]", "addresses[1] must be a network"),
        ("POST", "/admin/keys", KEY | {"addresses": "::1"}, "addresses", "addresses: expected array"),
        ("POST", "/admin/keys", KEY | {"secret": SECRET}, "secret", "secret is not a field of this call"),
        ("PUT", "/admin/keys/k", PUT | {"secret": "no base64"}, "secret", "secret must be base64"),
        ("PUT", "/admin/keys/k", PUT | {"secret": "A" * 180}, "secret", "secret must be base64 of at most 176 characters"),
        ("PUT", "/admin/keys/k", PUT | {"passphrase": ""}, "passphrase", "passphrase must be 1 to 176 printable"),
        ("PUT", "/admin/keys/k", PUT | {"passphrase": "a\nb"}, "passphrase", "passphrase must be 1 to 176 printable"),
        ("PUT", "/admin/keys/k", PUT | {"passphrase": "é" * 100}, "passphrase", "passphrase must be at most 176 bytes"),
        ("PUT", "/admin/keys/k", PUT | {"addresses": ["10.0.0.0/33"]}, "addresses[0]", "addresses[0] must be a network"),
        ("GET", "/admin/keys?limit=0", None, "limit", "limit must be a whole number"),
        ("GET", "/admin/keys?after=a%20b", None, "after", "Invalid after"),
    ],
)
async def test_bad_input_is_named(exchange: Exchange, method: str, target: str, body: object, field: str, message: str) -> None:
    before = exchange.backend.engine.sequence
    status, answer = await exchange.call("admin", method, target, body)
    assert (status, answer["field"]) == (400, field)
    assert answer["message"].startswith(message)
    assert exchange.backend.engine.sequence == before


async def test_more_networks_than_a_key_may_have_are_refused(exchange: Exchange) -> None:
    limits = [f"192.0.2.{number}" for number in range(ADDRESSES_MAX + 1)]
    status, answer = await exchange.call("admin", "POST", "/admin/keys", KEY | {"addresses": limits})
    assert (status, answer["message"], answer["field"]) == (400, "Invalid addresses", "addresses")


async def test_only_the_operator_sees_and_puts_keys(exchange: Exchange) -> None:
    for method, target in (("GET", "/admin/keys"), ("POST", "/admin/keys"), ("DELETE", "/admin/keys/bob-key")):
        status, answer = await exchange.call("alice", method, target, None if method != "POST" else KEY)
        assert (status, answer["reason"]) == (403, "forbidden")


async def test_a_revoked_key_is_refused_at_once(exchange: Exchange) -> None:
    key = await made(exchange)
    assert (await exchange.call("made", "GET", "/accounts"))[0] == 200
    assert (await exchange.call("admin", "DELETE", f"/admin/keys/{key.key_id}"))[0] == 200
    status, answer = await exchange.call("made", "GET", "/accounts")
    assert (status, answer["message"]) == (401, "invalid signature")
    row = exchange.backend.engine.api_key(key.key_id)
    assert row is not None
    assert key.secret != row.secret


async def test_an_unknown_key_cannot_be_revoked(exchange: Exchange) -> None:
    status, answer = await exchange.call("admin", "DELETE", "/admin/keys/nobody")
    assert (status, answer["message"]) == (404, "NotFound")


async def test_a_limited_key_is_refused_from_elsewhere(exchange: Exchange) -> None:
    await made(exchange, addresses=["192.0.2.0/24"])
    status, answer = await exchange.call("made", "GET", "/accounts")
    assert (status, answer["message"]) == (401, "IP does not match IP whitelist")
    assert "127.0.0.1" in answer["detail"]
    await made(exchange, addresses=["192.0.2.0/24", "127.0.0.0/8"])
    assert (await exchange.call("made", "GET", "/accounts"))[0] == 200


async def test_the_forwarded_header_counts_only_from_a_proxy() -> None:
    node = config()
    trusting = msgspec.structs.replace(node, http=msgspec.structs.replace(node.http, trusted_proxies=("127.0.0.0/8",)))
    for each, status in ((node, 401), (trusting, 200)):
        async with running(node=each) as exchange:
            key = await made(exchange, addresses=["192.0.2.0/24"])
            signed = headers(key, "GET", "/accounts") | {"X-Forwarded-For": "203.0.113.1, 192.0.2.9"}
            response = await exchange.client.get("/accounts", headers=signed)
            assert response.status == status


async def test_metrics_are_for_the_networks_that_may_read_them() -> None:
    """Behind a proxy, the test's client has the address that the header says."""
    node = config()
    http = msgspec.structs.replace(node.http, trusted_proxies=("127.0.0.0/8",), metrics_from=("192.0.2.0/24",))
    async with running(node=msgspec.structs.replace(node, http=http)) as exchange:
        for address, status in (("192.0.2.9", 200), ("203.0.113.1", 403), ("nonsense", 200)):
            response = await exchange.client.get("/metrics", headers={"X-Forwarded-For": address})
            assert response.status == status, address
        assert (await exchange.client.get("/metrics")).status == 200, "this machine always may"


async def test_a_limited_key_opens_no_private_channel_from_elsewhere(exchange: Exchange) -> None:
    await made(exchange, addresses=["192.0.2.0/24"])
    socket = await exchange.socket()
    message = {"type": "subscribe", "channels": ["user"], "product_ids": ["BTC-USD"]}
    await socket.send_json(message | exchange.socket_signature("made"))
    assert "IP does not match IP whitelist" in (await receive(socket))["reason"]


class TestOpenConnections:
    async def test_the_private_channel_ends_with_the_key(self, exchange: Exchange) -> None:
        key = await made(exchange)
        socket = await subscribe(exchange, **PRIVATE, **exchange.socket_signature("made"))
        assert (await exchange.call("admin", "DELETE", f"/admin/keys/{key.key_id}"))[0] == 200
        error = await receive(socket)
        assert (error["type"], error["message"]) == ("error", "the API key is not valid any more")
        assert (await receive(socket))["channels"] == [{"name": "ticker", "product_ids": ["BTC-USD"]}]
        await exchange.order("alice", "buy", "100", "1")
        await exchange.order("bob", "sell", "100", "1")
        assert (await receive(socket))["type"] == "ticker"

    async def test_private_details_on_public_channels_end_with_the_key(self, exchange: Exchange) -> None:
        key = await made(exchange)
        socket = await subscribe(exchange, channels=["full"], product_ids=["BTC-USD"], **exchange.socket_signature("made"))
        await exchange.order("alice", "buy", "100", "1")
        assert (await receive(socket, "received"))["user_id"] == "alice"
        assert (await exchange.call("admin", "DELETE", f"/admin/keys/{key.key_id}"))[0] == 200
        await receive(socket, "error")
        await exchange.order("alice", "buy", "99", "1")
        assert "user_id" not in await receive(socket, "received")

    @pytest.mark.parametrize("change", [{"addresses": ["192.0.2.0/24"]}, {"secret": "bmV3"}, {"permissions": ["trade"]}])
    async def test_a_replaced_key_is_not_the_same(self, exchange: Exchange, change: dict[str, object]) -> None:
        assert (await exchange.call("admin", "PUT", "/admin/keys/mine", PUT))[0] == 200
        exchange.keys["mine"] = Credentials("mine", SECRET, "walrus")
        socket = await subscribe(exchange, **PRIVATE, **exchange.socket_signature("mine"))
        assert (await exchange.call("admin", "PUT", "/admin/keys/mine", PUT | change))[0] == 200
        assert (await receive(socket))["type"] == "error"

    async def test_fewer_permissions_take_no_more_than_they_say(self, exchange: Exchange) -> None:
        assert (await exchange.call("admin", "PUT", "/admin/keys/mine", PUT))[0] == 200
        exchange.keys["mine"] = Credentials("mine", SECRET, "walrus")
        socket = await subscribe(exchange, **PRIVATE, **exchange.socket_signature("mine"))
        assert (await exchange.call("admin", "PUT", "/admin/keys/mine", PUT | {"permissions": ["view"]}))[0] == 200
        await exchange.order("alice", "buy", "100", "1")
        assert (await receive(socket))["type"] == "received"

    async def test_guesses_of_keys_do_not_delay_a_revocation(self, exchange: Exchange) -> None:
        key = await made(exchange)
        socket = await subscribe(exchange, **PRIVATE, **exchange.socket_signature("made"))
        exchange.gateway.auth._unproven.spend("127.0.0.1", 1e6)
        assert (await exchange.call("admin", "DELETE", f"/admin/keys/{key.key_id}"))[0] == 200
        assert (await receive(socket))["message"] == "the API key is not valid any more"

    async def test_a_key_that_cannot_be_opened_here_any_more_may_be_another(self, exchange: Exchange, tmp_path: Path) -> None:
        key = await made(exchange)
        socket = await subscribe(exchange, **PRIVATE, **exchange.socket_signature("made"))
        write_keys(tmp_path / "elsewhere", {2: bytes(64)})
        other = PutApiKey(OPERATOR, "other", key.key_id, "bob", SECRET, "other", 1)
        exchange.backend.apply(ClusterKeys(tmp_path / "elsewhere").encrypt(other))
        assert (await receive(socket))["message"] == "the API key is not valid any more"

    async def test_a_key_without_view_sees_public_data(self, exchange: Exchange) -> None:
        await made(exchange, permissions=["trade"])
        socket = await subscribe(exchange, channels=["full"], product_ids=["BTC-USD"], **exchange.socket_signature("made"))
        await exchange.order("alice", "buy", "100", "1", client_oid="mine")
        received = await receive(socket, "received")
        assert not {"user_id", "client_oid"} & set(received)

    async def test_a_lost_engine_is_asked_again(self, exchange: Exchange) -> None:
        key = await made(exchange)
        socket = await subscribe(exchange, **PRIVATE, **exchange.socket_signature("made"))
        row = exchange.backend.engine.api_key(key.key_id)
        assert row is not None
        exchange.backend.down, callback = True, exchange.backend.on_keys
        exchange.backend.on_keys = lambda _key_ids: None
        exchange.backend.apply(PutApiKey(OPERATOR, "gone", key.key_id, "alice", SECRET, "", 0))
        callback([])
        exchange.backend.queried.clear()
        await until(lambda: ApiKeyQuery(key.key_id) in exchange.backend.queried)
        exchange.backend.down = False
        assert (await receive(socket))["message"] == "the API key is not valid any more"


async def test_a_node_that_is_cut_off_lets_the_leader_check_senders(exchange: Exchange) -> None:
    row = exchange.backend.engine.api_key("alice-key")
    assert row is not None
    await exchange.order("alice", "buy", "100", "1")
    exchange.backend.on_keys = lambda _key_ids: None
    exchange.backend.apply(revocation(row, "gone"))
    await exchange.order("alice", "buy", "100", "1")  # this node has not heard of it
    exchange.backend.status["quorum"] = False
    await exchange.gateway.monitor.poll()
    order = {"product_id": "BTC-USD", "side": "buy", "price": "100", "size": "1"}
    status, answer = await exchange.call("alice", "POST", "/orders", order)
    assert (status, answer["message"]) == (401, "invalid signature")
    assert (await exchange.call("alice", "GET", "/accounts"))[0] == 200
    assert (await exchange.call("bob", "POST", "/orders", order))[0] == 200
    assert (await exchange.call("admin", "PUT", "/admin/accounts/carol"))[0] == 200


async def test_the_answer_names_the_account_and_the_permissions_of_a_key(exchange: Exchange) -> None:
    assert await exchange.call("alice", "GET", "/users/self/verify") == (
        200,
        {"id": "alice", "permissions": ["view", "trade", "transfer", "deposit"]},
    )
    status, found = await exchange.call("admin", "GET", "/users/self/verify")
    assert (status, found["id"]) == (200, "operator")
    assert "admin" in found["permissions"]


class SlowBackend(FakeBackend):
    """Answers look-ups of keys with the state at the time of the request. `between` runs before the answer arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.between: list[PutApiKey] = []

    async def query(self, query: AnyQuery, linearizable: bool = False) -> object:
        answer = await super().query(query, linearizable)
        if isinstance(query, ApiKeyQuery) and self.between:
            self.apply(self.between.pop(0))
        return answer


def put(permissions: int, number: int, passphrase: str = "p") -> PutApiKey:
    return PutApiKey(OPERATOR, f"put-{number}", "key-1", OPERATOR, SECRET, passphrase, permissions)


class TestLookingUp:
    async def test_an_answer_that_a_change_has_overtaken_does_not_count(self, tmp_path: Path) -> None:
        backend = SlowBackend()
        backend.apply(put(1, 1))
        backend.between = [put(1, 2, "other"), put(0, 3)]
        authenticator = Authenticator(backend, config().admin, ClusterKeys(tmp_path / "none"), 30.0)
        for _ in range(2):
            with pytest.raises(ApiError, match="invalid signature"):
                await authenticator.identify(claim("key-1"), "127.0.0.1", "GET", "/", b"")
        assert backend.queried == [ApiKeyQuery("key-1")] * (3 + 1), "an answer that says that there is no key is not kept"

    async def test_a_key_is_queried_once_and_again_after_a_lost_connection(self, tmp_path: Path) -> None:
        backend = FakeBackend()
        backend.apply(put(1, 1))
        authenticator = Authenticator(backend, config().admin, ClusterKeys(tmp_path / "none"), 30.0)
        for asked in (1, 1, 2):
            assert (await authenticator.identify(claim("key-1"), "127.0.0.1", "GET", "/", b"")).key_id == "key-1"
            assert len(backend.queried) == asked
            if asked == 1 and len(backend.queried) == 1 and backend.follows_keys:
                backend.follows_keys = False
            else:
                backend.on_keys([])
        await authenticator.identify(claim("key-1"), "127.0.0.1", "GET", "/", b"")
        assert len(backend.queried) == 3, "keys are not cached while changes are not announced"

    async def test_an_encrypted_key_needs_the_cluster_key(self, tmp_path: Path) -> None:
        path = tmp_path / "cluster.key"
        write_keys(path, {1: bytes(64)})
        backend = FakeBackend()
        backend.apply(ClusterKeys(path).encrypt(put(1, 1)))
        authenticator = Authenticator(backend, config().admin, ClusterKeys(tmp_path / "elsewhere"), 30.0)
        with pytest.raises(ApiError, match="This node lacks the cluster key") as caught:
            await authenticator.identify(claim("key-1"), "127.0.0.1", "GET", "/", b"")
        assert caught.value.status == 503
        assert "cluster key 1, under which API key 'key-1' is encrypted, is not in" in caught.value.detail
        (tmp_path / "elsewhere").write_bytes(path.read_bytes())
        assert (await authenticator.identify(claim("key-1"), "127.0.0.1", "GET", "/", b"")).key_id == "key-1"

    async def test_an_engine_that_cannot_judge_a_key_does_not_count_as_a_wrong_key(self, tmp_path: Path) -> None:
        class Unready(FakeBackend):
            async def query(self, query: AnyQuery, linearizable: bool = False) -> object:
                raise UnavailableError("not caught up")

        authenticator = Authenticator(Unready(), config().admin, ClusterKeys(tmp_path / "none"), 30.0)
        with pytest.raises(UnavailableError):
            await authenticator.identify(claim("key-1"), "127.0.0.1", "GET", "/", b"")


async def test_without_a_cluster_key_a_put_is_answered_503(exchange: Exchange) -> None:
    exchange.backend.fail.append(RequestFailed(FailCode.CONFLICT, "there is no cluster key at /n1/cluster.key"))
    status, answer = await exchange.call("admin", "POST", "/admin/keys", KEY)
    assert (status, answer["message"]) == (503, "there is no cluster key at /n1/cluster.key")


async def test_a_missing_cluster_key_makes_a_node_unready(exchange: Exchange) -> None:
    exchange.backend.status["cluster_keys_missing"] = [2]
    response = await exchange.client.get("/readyz")
    assert response.status == 503
    assert json.loads(await response.read())["reasons"] == ["cluster key 2 is missing, and API keys are encrypted under it"]
