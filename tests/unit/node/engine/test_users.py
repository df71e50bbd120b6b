"""Users over the native protocol: the node adds the sender of a command of the operator, and shows what a user may see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.errors import RequestFailed
from node.keys.credentials import Credentials
from node.native.protocol import (
    ApiKeysQuery,
    BalancesQuery,
    ControlAction,
    ControlsQuery,
    FailCode,
    RightsQuery,
    StatusQuery,
    TradesQuery,
)
from statemachine.commands import (
    AmendOrder,
    AnyCommand,
    DecideProposal,
    Deposit,
    Grant,
    OpenAccount,
    PutApiKey,
    PutCurrency,
    PutFeeOverride,
    PutFirm,
    PutMember,
    PutProduct,
    PutRiskLimits,
    PutUser,
    SetAccess,
    SetSwitches,
)
from statemachine.events import Rejected, Switched
from statemachine.limits import OPERATOR
from statemachine.types import Decision, Permission, Reason, Role, Scope
from tests.unit.node.fakes import ADMIN, SECRET, WORLD, FakeNode, buy, config_of, connected, running, sell

RITA, ADA, ALICE = (Credentials(key_id, SECRET, "pass") for key_id in ("k-rita", "k-ada", "k-alice"))
ALL = sum(Permission)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[FakeNode]:
    """Alice belongs to the firm acme, Rita is its risk officer, Ada administers, and Alice has a key of a trader."""
    async with running(config_of(tmp_path)) as made, connected(made) as gateway:
        users = [
            PutUser(OPERATOR, "rita", "rita", [Grant(Role.RISK_OFFICER, Scope.FIRM, "acme")]),
            PutUser(OPERATOR, "ada", "ada", [Grant(Role.ADMINISTRATOR, Scope.VENUE)]),
        ]
        keys = [
            PutApiKey(OPERATOR, f"key-{name}", f"k-{name}", OPERATOR, SECRET, "pass", ALL, user_id=name)
            for name in ("rita", "ada")
        ]
        traders = PutApiKey(OPERATOR, "key-alice", "k-alice", "alice", SECRET, "pass", Permission.TRADE + Permission.TRANSFER)
        firm: list[AnyCommand] = [PutFirm(OPERATOR, "firm", "acme"), PutMember(OPERATOR, "member", "alice", "acme")]
        risk = [PutRiskLimits(OPERATOR, f"risk-{name}", Scope.ACCOUNT, name, "", 9) for name in ("alice", "bob")]
        outcomes = await gateway.submit([*WORLD, *firm, *users, *keys, traders, *risk])
        assert not any(isinstance(outcome, Rejected) for outcome in outcomes)
        yield made


async def test_a_users_command_has_its_sender(node: FakeNode) -> None:
    async with connected(node, RITA) as rita:
        done, refused = await rita.submit(
            [
                SetSwitches(OPERATOR, "one", Scope.FIRM, "acme", 1),
                SetSwitches(OPERATOR, "two", Scope.ACCOUNT, "bob", 1),
            ]
        )
        assert isinstance(done, Switched)
        assert isinstance(refused, Rejected)
        assert refused.reason is Reason.NOT_PERMITTED
        with pytest.raises(RequestFailed, match="OpenAccount needs the permission ACCOUNTS"):
            await rita.submit([OpenAccount(OPERATOR, "three", "zoe")])
        with pytest.raises(RequestFailed, match="as 'operator/rita' only"):
            await rita.submit([SetSwitches("operator/ada", "four", Scope.VENUE, "", 1)])
        view = await rita.query(ControlsQuery("switch"))
    assert [(row.name, row.set_by, row.by_venue) for row in view.switch] == [("acme", "operator/rita", False)]


async def test_a_user_sees_only_their_own_firm(node: FakeNode) -> None:
    async with connected(node, RITA) as rita:
        assert [row.name for row in (await rita.query(ControlsQuery("risk"))).risk] == ["alice"]
        assert await rita.query(BalancesQuery("alice"))
        with pytest.raises(RequestFailed, match="this key acts for 'operator' only"):
            await rita.query(BalancesQuery("bob"))
        with pytest.raises(RequestFailed, match="needs the permission ACCESS"):
            await rita.query(ApiKeysQuery())
        with pytest.raises(RequestFailed, match="for gateways only"):
            await rita.query(RightsQuery("operator/ada", Scope.VENUE))
        with pytest.raises(RequestFailed, match="control needs the permission CLUSTER"):
            await rita.control(ControlAction.SNAPSHOT)
    async with connected(node, ADA) as ada:
        assert [row.key_id for row in await ada.query(ApiKeysQuery())] == ["k-ada", "k-alice", "k-rita"]
        assert len((await ada.query(ControlsQuery("risk"))).risk) == 2


async def test_own_fee_rates_are_shown_to_users_who_may_see_the_venue(node: FakeNode) -> None:
    async with connected(node) as gateway:
        await gateway.submit([PutFeeOverride(OPERATOR, f"fee-{name}", name, "", 1, 2) for name in ("alice", "bob")])
        assert len((await gateway.query(ControlsQuery("fee_override"))).fee_override) == 2
        assert not (await gateway.query(ControlsQuery("fee_override", sender="operator/rita"))).fee_override
    for who, count in ((RITA, 0), (ADA, 2)):
        async with connected(node, who) as user:
            assert len((await user.query(ControlsQuery("fee_override"))).fee_override) == count


async def test_the_operators_key_is_switched_off_on_open_sessions_too(node: FakeNode) -> None:
    async with connected(node, Credentials(ADMIN.key_id, ADMIN.secret, ADMIN.passphrase)) as operator:
        await operator.submit([OpenAccount(OPERATOR, "zoe", "zoe")])
        with pytest.raises(RequestFailed, match="as 'operator' only"):
            await operator.submit([OpenAccount("operator/ada", "forged", "yann")])
        async with connected(node, ADA) as ada:
            await ada.submit([SetAccess(OPERATOR, "off", True)])
        with pytest.raises(RequestFailed, match="OpenAccount needs the permission ACCOUNTS"):
            await operator.submit([OpenAccount(OPERATOR, "yann", "yann")])
    with pytest.raises(RequestFailed, match="is switched off"):
        async with connected(node, Credentials(ADMIN.key_id, ADMIN.secret, ADMIN.passphrase)):
            pass


async def test_a_traders_key_amends_and_books_no_deposit(node: FakeNode) -> None:
    async with connected(node, ALICE) as alice:
        (outcome,) = await alice.submit([AmendOrder("alice", "amend", 1, size=1)])
        assert isinstance(outcome, Rejected), "there is no such order"
        with pytest.raises(RequestFailed, match="Deposit needs the permission DEPOSIT"):
            await alice.submit([Deposit("alice", "money", "USD", 1)])


async def test_a_decision_waits_for_its_proposal(node: FakeNode) -> None:
    """The node must know the proposal's permission. Otherwise a key that may only read could decide on what arrives."""
    eve = Credentials("k-eve", SECRET, "pass")
    async with connected(node) as gateway:
        put = PutApiKey(OPERATOR, "key-eve", "k-eve", OPERATOR, SECRET, "pass", Permission.VIEW, user_id="ada")
        (done,) = await gateway.submit([put])
        assert not isinstance(done, Rejected)
    async with connected(node, eve) as client:
        for decision in Decision:
            with pytest.raises(RequestFailed, match="has not applied command 1000000 yet") as failed:
                await client.submit([DecideProposal(OPERATOR, f"d{decision}", 10**6, decision)])
            assert failed.value.code is FailCode.NO_LEADER
        (refused,) = await client.submit([DecideProposal(OPERATOR, "past", 1, Decision.APPROVE)])
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.UNKNOWN_PROPOSAL


async def test_a_key_that_may_correct_trades_sees_their_parties(node: FakeNode) -> None:
    """A correction names them. Nobody else sees them in a list of trades."""
    olga, otto = (Credentials(f"k-{name}", SECRET, "pass") for name in ("olga", "otto"))
    async with connected(node) as gateway:
        setup: list[AnyCommand] = [
            PutCurrency(OPERATOR, "eth", "ETH", 8),
            PutProduct(OPERATOR, "eth-usd", "ETH-USD", "ETH", "USD", 1, 10**8, 10**8, 10**15, 0, 0),
        ]
        for name, product_id in (("olga", "BTC-USD"), ("otto", "ETH-USD")):
            setup.append(PutUser(OPERATOR, name, name, [Grant(Role.MARKET_OPERATOR, Scope.PRODUCT, product_id)]))
            setup.append(PutApiKey(OPERATOR, f"key-{name}", f"k-{name}", OPERATOR, SECRET, "pass", ALL, user_id=name))
        outcomes = await gateway.submit([*setup, buy(1), sell(2)])
        assert not any(isinstance(outcome, Rejected) for outcome in outcomes)
    parties = {}
    for credentials in (olga, otto, ALICE):
        async with connected(node, credentials) as client:
            (trade,) = await client.query(TradesQuery("BTC-USD"))
            parties[credentials.key_id] = trade.maker_account_id, trade.taker_account_id
    assert parties == {"k-olga": ("alice", "bob"), "k-otto": ("", ""), "k-alice": ("", "")}


@pytest.mark.parametrize("owner", [OPERATOR, "alice"])
async def test_an_administrator_of_a_firm_does_not_operate_the_cluster(node: FakeNode, owner: str) -> None:
    """The same role for the whole venue does, and sees the whole status."""
    async with connected(node) as gateway:
        fred: list[AnyCommand] = [
            PutUser(OPERATOR, "fred", "fred", [Grant(Role.ADMINISTRATOR, Scope.FIRM, "acme")]),
            PutApiKey(OPERATOR, "key-fred", "k-fred", owner, SECRET, "pass", ALL, user_id="fred"),
        ]
        assert not any(isinstance(outcome, Rejected) for outcome in await gateway.submit(fred))
    async with connected(node, Credentials("k-fred", SECRET, "pass")) as client:
        for refused in (client.control(ControlAction.TRANSFER_LEADERSHIP), client.remove_member("n1")):
            with pytest.raises(RequestFailed, match="needs the permission CLUSTER"):
                await refused
        assert not (await client.query(StatusQuery())).state_hash
    async with connected(node, ADA) as ada:
        assert await ada.control(ControlAction.SNAPSHOT)
        assert (await ada.query(StatusQuery())).state_hash
