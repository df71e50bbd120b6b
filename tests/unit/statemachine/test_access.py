"""Users and proposals beyond the scripts: the bounds on their numbers, and the permissions of a key of a user."""

from __future__ import annotations

from statemachine import access
from statemachine.commands import (
    AnyCommand,
    Batch,
    DecideProposal,
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
from statemachine.engine import Engine
from statemachine.events import AnyOutcome, Done, Proposed, Rejected
from statemachine.limits import GRANTS_PER_USER, KEYS_PER_USER, OPERATOR, PROPOSALS_MAX, PROPOSALS_PER_SENDER, USERS_MAX
from statemachine.tables import KEPT, FeeOverrideRow, FeeVolumeRow
from statemachine.types import Decision, Permission, Reason, Role, Scope

MINUTE = 60 * 10**9
ADMINISTRATOR = [Grant(Role.ADMINISTRATOR, Scope.VENUE)]
ADMIN = int(Permission.ADMIN)


def apply(engine: Engine, *commands: AnyCommand) -> list[AnyOutcome]:
    outcomes = engine.apply(Batch(engine.time + 1, list(commands))).outcomes
    engine.check()
    return list(outcomes)


def user(user_id: str, grants: list[Grant] = ADMINISTRATOR, sender: str = OPERATOR) -> PutUser:
    return PutUser(sender, f"user-{user_id}-{len(grants)}", user_id, grants)


def key(key_id: str, user_id: str = "", permissions: int = ADMIN, owner: str = OPERATOR) -> PutApiKey:
    return PutApiKey(
        OPERATOR, f"key-{key_id}-{permissions}-{user_id}", key_id, owner, "c2VjcmV0", "", permissions, user_id=user_id
    )


def reason(outcome: AnyOutcome) -> Reason | None:
    return outcome.reason if isinstance(outcome, Rejected) else None


def with_two_administrators(consent: int = 0) -> Engine:
    engine = Engine()
    commands: list[AnyCommand] = [user("ada"), user("eva"), key("k-ada", "ada"), key("k-eva", "eva")]
    assert all(isinstance(outcome, Done) for outcome in apply(engine, *commands))
    settings = SetAccess(OPERATOR, "settings", True, consent, MINUTE if consent else 0)
    assert all(isinstance(outcome, Done) for outcome in apply(engine, settings))
    return engine


def test_users_their_grants_and_their_keys_are_bounded() -> None:
    engine = Engine()
    apply(engine, *[user(f"u{number}", []) for number in range(USERS_MAX)])
    assert reason(apply(engine, user("one-more"))[0]) is Reason.TOO_MANY_USERS
    assert reason(apply(engine, user("u1", ADMINISTRATOR * (GRANTS_PER_USER + 1)))[0]) is Reason.INVALID_GRANTS
    apply(engine, *[key(f"k{number}", "u1") for number in range(KEYS_PER_USER)])
    assert reason(apply(engine, key("one-more", "u1"))[0]) is Reason.TOO_MANY_USERS
    assert isinstance(apply(engine, key("k3", "u1", 0))[0], Done)
    assert isinstance(apply(engine, key("another", "u1"))[0], Done)


def test_the_number_of_proposals_is_bounded_for_each_sender_and_for_all() -> None:
    engine = with_two_administrators(int(Permission.ACCOUNTS))

    def open_by(sender: str, number: int) -> AnyOutcome:
        return apply(engine, OpenAccount(sender, f"{sender.replace('/', '.')}-{number}", f"account-{number}"))[0]

    ada = access.sender_of_user("ada")
    assert all(isinstance(open_by(ada, number), Proposed) for number in range(PROPOSALS_PER_SENDER))
    assert reason(open_by(ada, 10**6)) is Reason.TOO_MANY_PROPOSALS
    for number in range((PROPOSALS_MAX - PROPOSALS_PER_SENDER) // PROPOSALS_PER_SENDER):
        apply(engine, key(f"bare-{number}"))
        for each in range(PROPOSALS_PER_SENDER):
            open_by(access.sender_of_key(f"bare-{number}"), each)
    assert len(engine.records("proposal")) == PROPOSALS_MAX
    assert reason(open_by(access.sender_of_user("eva"), 1)) is Reason.TOO_MANY_PROPOSALS
    engine.apply(Batch(engine.time + MINUTE, []))
    engine.apply(Batch(engine.time + 1, []))
    engine.check()
    assert engine.records("proposal") == []


def test_the_same_command_again_is_the_same_proposal() -> None:
    engine = with_two_administrators(int(Permission.ACCOUNTS))
    command = OpenAccount(access.sender_of_user("ada"), "open", "ann")
    first, again = apply(engine, command, command)
    assert isinstance(first, Proposed)
    assert isinstance(again, Proposed)
    assert (again.duplicate, again.proposal_id) == (True, first.proposal_id)
    approval = DecideProposal(access.sender_of_user("eva"), "yes", first.proposal_id, Decision.APPROVE)
    assert isinstance(apply(engine, approval)[0], Done)
    assert engine.account_exists("ann")
    assert Engine.restore(dict(engine.tables())).full_hash() == engine.full_hash()


def test_the_visible_rows_are_those_of_a_look_at_each_row() -> None:
    """`visible` looks rows up by the user's roles; `sees` judges a row."""
    engine = with_two_administrators(int(Permission.ACCOUNTS))
    commands: list[AnyCommand] = [PutFirm(OPERATOR, f"firm-{firm}", firm) for firm in ("acme", "best", "cost")]
    commands += [PutCurrency(OPERATOR, "usd", "USD", 2), PutCurrency(OPERATOR, "btc", "BTC", 8)]
    commands.append(PutProduct(OPERATOR, "pair", "BTC-USD", "BTC", "USD", 1, 10**8, 10**8, 10**10, 0, 0))
    for number, firm in enumerate(("acme", "acme", "best", "cost", "")):
        name = f"a{number}"
        commands += [OpenAccount(OPERATOR, name, name), PutFeeOverride(OPERATOR, f"fee-{name}", name, "", 1, 2)]
        commands += [PutMember(OPERATOR, f"member-{name}", name, firm)] if firm else []
        commands += [
            PutRiskLimits(OPERATOR, f"risk-{name}-{each}", Scope.ACCOUNT, name, each, volume_max=9) for each in ("USD", "BTC")
        ]
    for scope, name in (
        (Scope.FIRM, "acme"),
        (Scope.FIRM, "cost"),
        (Scope.ACCOUNT, "a0"),
        (Scope.PRODUCT, "BTC-USD"),
        (Scope.VENUE, ""),
    ):
        commands.append(SetSwitches(OPERATOR, f"switch-{scope}-{name}", scope, name, 1))
    viewer, officer = Role.VIEWER, Role.RISK_OFFICER
    commands.append(user("tom", [Grant(viewer, Scope.FIRM, "acme"), Grant(officer, Scope.ACCOUNT, "a4")]))
    commands.append(
        user(
            "una",
            [Grant(viewer, Scope.ACCOUNT, "a0"), Grant(officer, Scope.PRODUCT, "BTC-USD"), Grant(officer, Scope.FIRM, "best")],
        )
    )
    commands += [key("bare"), user("nobody", [])]
    assert not [outcome for outcome in apply(engine, *commands) if isinstance(outcome, Rejected)]
    apply(engine, OpenAccount(access.sender_of_user("ada"), "open", "ann"))
    senders = [OPERATOR, access.sender_of_key("bare"), *map(access.sender_of_user, ("ada", "tom", "una", "nobody", "unknown"))]
    for table in (table.name for table in KEPT if table.name not in ("api_key", "timer", "mass_cancel")):
        for sender in senders:
            rows = [row for row in engine.records(table) if engine.sees(sender, table, row)]
            assert engine.visible(sender, table, 0, 1_000) == rows, (table, sender)
            assert engine.visible(sender, table, 1, 2) == rows[1:3]
    assert len(engine.visible(access.sender_of_user("tom"), "risk", 0, 9)) == 6
    apply(engine, user("fay", [Grant(Role.ADMINISTRATOR, Scope.FIRM, "acme"), Grant(viewer, Scope.FIRM, "best")]))
    apply(engine, *[key(f"k-{name}", permissions=1, owner=name) for name in ("a0", "a1", "a2", "a4")])
    for sender in [*senders, access.sender_of_user("fay")]:
        keys = [row for row in engine.api_keys() if engine.sees(sender, "api_key", row)]
        assert engine.visible_keys(sender, "", 100) == keys, sender
        assert engine.visible_keys(sender, "k-a0", 2) == [row for row in keys if row.key_id > "k-a0"][:2]
    assert [row.key_id for row in engine.visible_keys(access.sender_of_user("fay"), "", 9)] == ["k-a0", "k-a1"]


def test_commands_of_the_cluster_itself_need_no_consent() -> None:
    engine = with_two_administrators(int(Permission.ACCESS))
    assert isinstance(apply(engine, key("k-ada", "ada", ADMIN + 1))[0], Done)


def test_a_key_has_the_permissions_that_both_it_and_its_user_have() -> None:
    engine = with_two_administrators()
    view, trade = int(Permission.VIEW), int(Permission.TRADE)
    apply(engine, OpenAccount(OPERATOR, "ann", "ann"), OpenAccount(OPERATOR, "bob", "bob"))
    apply(engine, user("tom", [Grant(Role.TRADER, Scope.ACCOUNT, "ann"), Grant(Role.RISK_OFFICER, Scope.ACCOUNT, "bob")]))
    apply(engine, key("k-ann", "tom", view + trade, "ann"), key("k-bob", "tom", view + trade + ADMIN, "bob"))
    apply(engine, key("k-op", "tom", ADMIN + view + trade), key("k-view", "tom", view, "ann"))

    def permissions(key_id: str) -> int:
        row = engine.usable_key(key_id)
        return row.permissions if row is not None else 0

    risk = int(Permission.SWITCH + Permission.LIMIT)
    assert permissions("k-ann") == view + trade
    assert permissions("k-bob") == view + risk
    assert permissions("k-op") == view + trade + risk
    assert permissions("k-view") == view
    assert permissions("unknown") == 0
    put = engine.apply(Batch(engine.time + 1, [user("tom", [])]))
    assert sorted(put.keys_put) == ["k-ann", "k-bob", "k-op", "k-view"]
    assert [permissions(name) for name in ("k-ann", "k-bob", "k-op", "k-view")] == [0, 0, 0, 0]


def test_only_an_administrator_of_the_venue_operates_the_cluster() -> None:
    """A cluster is not divided into scopes, and a node checks the permission without a scope."""
    engine = with_two_administrators()
    apply(engine, PutFirm(OPERATOR, "acme", "acme"), user("fay", [Grant(Role.ADMINISTRATOR, Scope.FIRM, "acme")]))
    apply(engine, key("k-fay", "fay"))
    firm, venue = engine.usable_key("k-fay"), engine.usable_key("k-ada")
    assert firm is not None and venue is not None  # noqa: PT018
    assert firm.permissions & Permission.ACCESS
    assert not firm.permissions & Permission.CLUSTER
    assert venue.permissions & Permission.CLUSTER


def test_fees_are_shown_to_users_who_may_see_the_venue() -> None:
    """An account's own rates and its volume are visible to that account and to users who see the whole venue. The
    tables may have a row for each account.
    """
    engine = with_two_administrators()
    apply(engine, OpenAccount(OPERATOR, "ann", "ann"), OpenAccount(OPERATOR, "bob", "bob"))
    apply(engine, user("tom", [Grant(Role.VIEWER, Scope.ACCOUNT, "ann")]))
    for table, rows in (
        ("fee_override", [FeeOverrideRow(name, "", 1, 2) for name in ("ann", "bob")]),
        ("fee_volume", [FeeVolumeRow(name, "USD", 1, 5) for name in ("ann", "bob")]),
    ):
        assert [engine.sees("operator/tom", table, row) for row in rows] == [False, False]
        assert [engine.sees("operator/ada", table, row) for row in rows] == [True, True]
