"""People use the page: they trade, watch an auction open, and see the leader die."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from node.keys.credentials import Credentials
from statemachine.types import ProductStatus
from tests.browser.stage import PRODUCT, QUIET, Stage
from tests.browser.viewer import LOST, REFUSED, SECONDS, Viewer, viewing

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

MEASURED = re.compile(r"fsync p50 / p99[0-9.]+ [mµ]?s / ")
Scheme = Literal["light", "dark"]


@pytest.fixture
def viewer(browser: Browser, stage: Stage) -> Iterator[Viewer]:
    """Open a page of a usual size."""
    with viewing(browser, list(stage.urls.values())) as opened:
        yield opened


def first_url(stage: Stage) -> str:
    return next(iter(stage.urls.values()))


def operator(stage: Stage) -> Credentials:
    return stage.scenario.access.admin


def fill_order(page: Page, side: str, price: str, size: str) -> None:
    page.locator(f".sides .segment.{side}").click()
    page.fill(".ticket input[name=price]", price)
    page.fill(".ticket input[name=size]", size)
    page.locator(".ticket button[type=submit]").click()


def test_an_order_is_placed_and_cancelled(viewer: Viewer, stage: Stage) -> None:
    page = viewer.page
    viewer.open(first_url(stage), f"market/{PRODUCT}")
    viewer.use_key(stage.person)
    fill_order(page, "buy", "50000", "0.5")
    expect(page.locator(".ticket .outcome")).to_contain_text("Buy 0.5 at 50,000: on the book")
    row = page.locator("tr[data-order]")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("50,000.00")
    (order,) = stage.open_orders()
    assert order.size == 50_000_000
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_have_count(0)
    assert stage.open_orders() == []


def test_a_reject_is_shown_in_words_and_its_field_is_marked(viewer: Viewer, stage: Stage) -> None:
    viewer.allowed.append(REFUSED)
    page = viewer.page
    viewer.open(first_url(stage), f"market/{PRODUCT}")
    viewer.use_key(stage.person)
    fill_order(page, "buy", "50000.001", "0.5")
    expect(page.locator(".ticket .outcome.refused")).to_contain_text("Refused: Price too precise")
    expect(page.locator(".ticket input[name=price]")).to_have_attribute("aria-invalid", "true")
    fill_order(page, "buy", "50000", "9000000")
    expect(page.locator(".ticket .outcome.refused")).to_contain_text("Refused: ")
    assert stage.open_orders() == []


@pytest.mark.parametrize("kind", ["market", "stop-limit", "stop-market"])
def test_every_kind_of_order_is_taken(viewer: Viewer, stage: Stage, kind: str) -> None:
    page = viewer.page
    viewer.open(first_url(stage), f"market/{PRODUCT}")
    viewer.use_key(stage.person)
    page.select_option(".ticket select[name=kind]", kind)
    page.locator(".sides .segment.sell").click()
    if kind != "market":
        page.fill(".ticket input[name=stop_price]", "30000")
    if kind == "stop-limit":
        page.fill(".ticket input[name=price]", "29000")
    page.fill(".ticket input[name=size]", "0.001")
    page.locator(".ticket button[type=submit]").click()
    expect(page.locator(".ticket .outcome.accepted")).to_contain_text("filled" if kind == "market" else "accepted, waiting")
    if kind != "market":
        page.get_by_role("button", name="Cancel all").click()
        expect(page.locator("tr[data-order]")).to_have_count(0)


def offers(viewer: Viewer, stage: Stage, method: str, path: str) -> bool:
    """Return whether this exchange has a call."""
    return bool(
        viewer.page.evaluate(f"fetch('/openapi.json').then(r => r.json()).then(d => Boolean(d.paths['{path}']?.{method}))")
    )


def test_an_order_is_amended(viewer: Viewer, stage: Stage) -> None:
    page = viewer.page
    viewer.open(first_url(stage), f"market/{PRODUCT}")
    if not offers(viewer, stage, "put", "/orders/{id}"):
        pytest.skip("this exchange does not amend orders")
    viewer.use_key(stage.person)
    fill_order(page, "buy", "50000", "0.5")
    row = page.locator("tr[data-order]")
    row.get_by_role("button", name="Amend").click()
    page.fill("dialog input[name=size]", "0.4")
    page.fill("dialog input[name=price]", "50001")
    page.get_by_role("button", name="Amend the order").click()
    expect(row).to_contain_text("50,001.00")
    (order,) = stage.open_orders()
    assert (order.price, order.size) == (5_000_100_000_000, 40_000_000)
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_have_count(0)


def test_the_kill_switch_cancels_and_refuses_until_it_is_released(viewer: Viewer, stage: Stage, browser: Browser) -> None:
    viewer.allowed.append(REFUSED)
    page = viewer.page
    viewer.open(first_url(stage), f"market/{QUIET}")
    if not offers(viewer, stage, "put", "/admin/switches"):
        pytest.skip("this exchange has no kill switch")
    viewer.use_key(stage.person)
    fill_order(page, "buy", "500", "3")
    expect(page.locator("tr[data-order]")).to_have_count(1)
    with viewing(browser, list(stage.urls.values())) as other:
        other.open(first_url(stage), "cluster")
        other.use_key(operator(stage))
        emergency = other.page.get_by_role("group", name="Emergency")
        emergency.get_by_label("For", exact=True).select_option("account")
        emergency.get_by_label("Id").fill(stage.person.account_id)
        emergency.get_by_label("Why, for people").fill("a drill")
        other.page.click("#kill")
        expect(other.page.locator("dialog")).to_contain_text(
            f"Every open order of account {stage.person.account_id} is cancelled"
        )
        other.page.locator("dialog .danger").click()
        expect(other.page.locator(".operator-panel .outcome")).to_contain_text("The kill switch of")
        expect(page.locator("tr[data-order]")).to_have_count(0)
        fill_order(page, "buy", "500", "3")
        expect(page.locator(".ticket .outcome.refused")).to_contain_text("kill switch")
        expect(other.page.locator(".controls-panel tbody")).to_contain_text(f"Account {stage.person.account_id}")
        expect(other.page.locator(".controls-panel tbody")).to_contain_text("kill switch (a drill)")
        other.page.click("#release")
        other.page.locator("dialog").get_by_role("button", name="Release the switch").click()
        released = f"The kill switch of account {stage.person.account_id} is released"
        expect(other.page.locator(".operator-panel .outcome")).to_contain_text(released)
        emergency.get_by_label("Switch", exact=True).select_option("buy_off")
        other.page.click("#kill")
        expect(other.page.locator("dialog")).to_contain_text("New buy orders are refused")
        other.page.locator("dialog .danger").click()
        expect(other.page.locator(".controls-panel tbody")).to_contain_text("no buy orders")
        fill_order(page, "buy", "500", "3")
        expect(page.locator(".ticket .outcome.refused")).to_contain_text("Refused")
        other.page.click("#release")
        other.page.locator("dialog").get_by_role("button", name="Release the switch").click()
        expect(other.page.locator(".controls-panel .none")).to_be_visible()


def test_a_command_waits_until_another_user_consents(viewer: Viewer, stage: Stage, browser: Browser) -> None:
    """Olga halts a product, and Oscar approves that. She asks to resume it, which he rejects, and withdraws another
    request.
    """
    viewer.allowed.append(REFUSED)
    with stage.four_eyes() as (olga, oscar), viewing(browser, list(stage.urls.values())) as other:
        for opened, key in ((viewer, olga), (other, oscar)):
            opened.open(first_url(stage), "cluster")
            opened.use_key(key)
        page = viewer.page
        panel, row = page.locator(".access-panel"), page.locator("tr[data-proposal]")
        trading = page.get_by_role("group", name="Trading")
        option = trading.get_by_label("Product").locator(f"option[value={QUIET}]")
        theirs = other.page.locator("tr[data-proposal]")
        expect(panel).to_contain_text("No command waits for consent")
        expect(panel.get_by_role("table", name="Users")).to_contain_text("market operator of the venue")

        def propose(action: str) -> None:
            trading.get_by_label("Product").select_option(QUIET)
            trading.get_by_role("button", name=action, exact=True).click()
            page.locator("dialog").get_by_role("button", name=f"{action} {QUIET}").click()
            waits = "Nothing is changed yet: the command waits for another user's consent"
            expect(page.locator(".operator-panel .outcome")).to_contain_text(waits)
            expect(row).to_have_count(1)
            expect(theirs).to_have_count(1)

        def decide(who: Page, action: str) -> None:
            who.locator("tr[data-proposal]").get_by_role("button", name=action).click()
            who.locator("dialog").get_by_role("button", name=f"{action} proposal").click()

        expect(option).to_have_text(f"{QUIET} (online)")
        propose("Halt")
        expect(theirs).to_contain_text("Put Product")
        expect(theirs).to_contain_text("olga")
        expect(option).to_have_text(f"{QUIET} (online)")
        decide(page, "Approve")
        expect(page.locator("dialog [role=alert]")).to_contain_text("the proposer may only withdraw", ignore_case=True)
        page.keyboard.press("Escape")
        decide(other.page, "Approve")
        expect(option).to_have_text(f"{QUIET} (offline)")
        expect(row).to_have_count(0)
        propose("Resume")
        decide(other.page, "Reject")
        expect(row).to_have_count(0)
        propose("Cancel only")
        decide(page, "Withdraw")
        expect(theirs).to_have_count(0)
        expect(option).to_have_text(f"{QUIET} (offline)")
        propose("Resume")
        decide(other.page, "Approve")
        expect(option).to_have_text(f"{QUIET} (online)")
        assert viewer.violations() == []


def test_orders_with_options_have_words_of_their_own(viewer: Viewer, stage: Stage) -> None:
    page = viewer.page
    viewer.open(first_url(stage), f"market/{QUIET}")
    viewer.use_key(stage.person)
    ticket, accepted = page.locator(".ticket"), page.locator(".ticket .outcome.accepted")

    def choose(kind: str, side: str, **fields: str) -> None:
        ticket.locator("select[name=kind]").select_option(kind)
        page.locator(f".sides .segment.{side}").click()
        for name, value in fields.items():
            ticket.locator(f"input[name={name}]").fill(value)

    def send(*words: str) -> None:
        ticket.locator("button[type=submit]").click()
        for each in words:
            expect(accepted).to_contain_text(each)

    choose("iceberg", "buy", price="500", size="30", display_size="3")
    send("Buy 30 at 500: on the book")
    expect(page.locator("tr[data-order]")).to_contain_text("iceberg, shows 3")
    choose("trailing", "sell", stop_price="400", trail="20", size="1")
    send("accepted, waiting")
    expect(page.locator("tr[data-order]").first).to_contain_text("trails by 20")
    choose("exits", "buy", price="501", size="1", take_profit_price="700", stop_loss_price="300")
    ticket.locator("select[name=time_in_force]").select_option("GFD")
    send("Buy 1 at 501: on the book")
    expect(page.locator("tr[data-order]").first).to_contain_text("takes profit at 700")
    choose("pair", "sell", price="800", size="1", stop_price="390")
    send("at 800: on the book", "One cancels the other")
    expect(page.locator("tr[data-order]")).to_have_count(5)
    choose("limit", "buy", price="499", size="1")
    ticket.locator("select[name=time_in_force]").select_option("GTD")
    ticket.locator("input[name=expire_time]").fill("2030-01-01T00:00:00")
    assert page.evaluate("document.querySelector('.ticket input[name=cancel_after]')") is None
    expect(ticket.locator("select[name=cancel_after]")).to_be_hidden()
    page.get_by_role("button", name="Cancel all").click()
    expect(page.locator("tr[data-order]")).to_have_count(0)


def test_keys_are_kept_nowhere(viewer: Viewer, stage: Stage) -> None:
    page = viewer.page
    viewer.open(first_url(stage), f"market/{PRODUCT}")
    viewer.use_key(stage.person)
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href, document.body.outerHTML])"
    )
    assert stage.person.secret not in kept
    assert stage.person.passphrase not in kept
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    page.reload()
    expect(page.locator("#key")).to_have_text("Use an API key")


def test_a_wrong_key_is_refused_in_the_dialog(viewer: Viewer, stage: Stage) -> None:
    viewer.allowed.append(REFUSED)
    page = viewer.page
    viewer.open(first_url(stage), "market")
    page.click("#key")
    page.fill("input[name=id]", stage.person.key_id)
    page.fill("input[name=secret]", "d3Jvbmc=")
    page.fill("input[name=passphrase]", "wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("dialog [role=alert]")).to_contain_text("Invalid signature")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_an_auction_is_watched_as_it_opens(viewer: Viewer, stage: Stage, browser: Browser) -> None:
    page = viewer.page
    stage.put_status(QUIET, ProductStatus.AUCTION)
    viewer.open(first_url(stage), f"market/{QUIET}")
    expect(page.locator("#product-status")).to_have_text("Auction")
    viewer.use_key(stage.person)
    fill_order(page, "buy", "580", "10")
    expect(page.locator(".ticket .outcome.accepted")).to_contain_text("accepted, waiting")
    stage.sell(QUIET, 570 * 10**8, 4)
    panel = page.locator(".auction-panel")
    expect(panel).to_have_attribute("data-state", "collection")
    expect(panel).to_contain_text("Indicative size")
    expect(panel.locator("dd").nth(1)).to_have_text("4", timeout=SECONDS * 1_000)
    expect(panel).to_contain_text("6 AAPL more to buy")
    with viewing(browser, list(stage.urls.values())) as other:
        other.open(first_url(stage), "cluster")
        other.use_key(operator(stage))
        other.page.get_by_role("group", name="Trading").get_by_label("Product").select_option(QUIET)
        other.page.get_by_role("button", name="Resume").click()
        dialog = other.page.locator("dialog")
        expect(dialog).to_contain_text(f"{QUIET} gets the status")
        expect(dialog).to_contain_text("opens now, at one price")
        dialog.get_by_role("button", name=f"Resume {QUIET}").click()
        expect(other.page.locator(".operator-panel .outcome")).to_contain_text("Done")
    expect(page.locator("#product-status")).to_have_text("Online")
    expect(panel).to_have_attribute("data-state", "complete")
    expect(panel).to_contain_text("Opening price")
    page.get_by_role("tab", name="Fills").click()
    expect(page.get_by_role("tabpanel", name="Fills").locator("tbody tr")).to_have_count(1)
    page.get_by_role("tab", name="Open orders").click()
    page.get_by_role("button", name="Cancel all").click()
    expect(page.locator("tr[data-order]")).to_have_count(0)


def test_an_operator_hands_leadership_over(viewer: Viewer, stage: Stage) -> None:
    page, before = viewer.page, stage.leader()
    viewer.open(first_url(stage), "cluster")
    viewer.use_key(operator(stage))
    page.click("#hand-over")
    expect(page.locator("dialog")).to_contain_text("becomes a follower")
    page.locator("dialog").get_by_role("button", name="Hand over leadership").click()
    expect(page.locator(".operator-panel .outcome")).to_contain_text("leads now")
    assert stage.leader() != before
    expect(page.locator(".changes li").first).to_contain_text(f"after {before}")


def test_the_leader_dies_and_no_event_is_missing(viewer: Viewer, stage: Stage, pictures: Path) -> None:
    """The node that is killed is the one that serves the page."""
    viewer.allowed.append(LOST)
    page, leader = viewer.page, stage.leader()
    viewer.open(stage.urls[leader], f"market/{PRODUCT}")
    viewer.use_key(stage.person)
    viewer.wait_drawn()
    viewer.wait_seen(10)
    assert viewer.counter()["node"] == leader
    killed = stage.kill_leader()
    assert killed == leader
    try:
        viewer.until(f"document.getElementById('counter').dataset.node !== '{leader}'")
        viewer.wait_seen(60)
        found = viewer.counter()
        assert (found["gaps"], found["moves"], found["state"]) == (0, 1, "live")
        fill_order(page, "buy", "50000", "0.25")
        expect(page.locator(".ticket .outcome.accepted")).to_contain_text("on the book")
        page.screenshot(path=pictures / "failover.png")
        page.get_by_role("button", name="Cancel all").click()
        expect(page.locator("tr[data-order]")).to_have_count(0)
        page.get_by_role("link", name="Cluster").click()
        expect(page.locator(f"[data-node={leader}]")).to_have_attribute("data-role", "unreachable")
        expect(page.locator(".changes li").first).to_contain_text(f"after {leader}")
        expect(page.locator(".node.leader")).to_contain_text(MEASURED)
        page.screenshot(path=pictures / "failover-cluster.png")
    finally:
        stage.bring_back(killed)
    expect(page.locator(f"[data-node={leader}]")).not_to_have_attribute("data-role", "unreachable")
    assert viewer.counter()["gaps"] == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["market", "cluster"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1_440, 900), (2_560, 1_440)])
def test_the_page_fits_the_window_and_is_accessible(
    browser: Browser, stage: Stage, pictures: Path, width: int, height: int, view: str, scheme: Scheme
) -> None:
    """The page does not scroll sideways, and axe-core finds no fault in it. This test makes the pictures of the README."""
    with viewing(browser, list(stage.urls.values()), width=width, height=height, scheme=scheme) as viewer:
        viewer.open(first_url(stage), view if view == "cluster" else f"market/{PRODUCT}")
        viewer.use_key(operator(stage) if view == "cluster" else stage.person)
        if view == "market":
            viewer.wait_drawn()
        else:
            expect(viewer.page.locator(".node.leader")).to_contain_text(MEASURED)
        viewer.wait_seen(5)
        assert viewer.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert viewer.violations() == []
        if width == 1_440 or (width == 360 and view == "market" and scheme == "light"):
            viewer.page.screenshot(path=pictures / f"{view}-{scheme}{'-small' if width == 360 else ''}.png")


def test_the_keyboard_alone_is_enough(viewer: Viewer, stage: Stage) -> None:
    page = viewer.page
    viewer.open(first_url(stage), f"market/{PRODUCT}")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    page.locator("#key").focus()
    page.keyboard.press("Enter")
    for text in (stage.person.key_id, stage.person.secret, stage.person.passphrase):
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#key")).to_contain_text("Forget the key")
    skip.focus()
    page.keyboard.press("Enter")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "price":
            break
    page.keyboard.type("50000")
    page.keyboard.press("Tab")
    page.keyboard.type("0.1")
    page.keyboard.press("Enter")
    expect(page.locator(".ticket .outcome.accepted")).to_contain_text("on the book")
    cancel = page.locator("tr[data-order] button", has_text="Cancel")
    cancel.focus()
    page.keyboard.press("Enter")
    expect(page.locator("tr[data-order]")).to_have_count(0)
    page.get_by_role("tab", name="Open orders").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Fills")).to_be_focused()
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
