"""The page works over HTTPS with the nodes' certificates: it trades and survives a failover. The browser trusts the
keys of this cluster's nodes and no other invalid certificate, as a machine does that has the cluster's `ca.pem` among
its authorities.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Error, Playwright, expect

from tests.browser.conftest import FLAGS, chromium
from tests.browser.stage import PRODUCT, Stage, staged
from tests.browser.test_page import fill_order
from tests.browser.viewer import LOST, viewing

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def key_hashes(stage: Stage) -> str:
    """Return the hashes of the nodes' public keys in the form of the browser's option."""
    found = []
    for path in sorted(stage.ground.directory.glob("*/node.pem")):
        key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
        encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        found.append(base64.b64encode(hashlib.sha256(encoded).digest()).decode())
    assert len(found) == 3
    return ",".join(found)


def test_over_https_the_page_trades_and_follows_the_leaders_death(tmp_path: Path, playwright: Playwright) -> None:
    with staged(tmp_path / "cluster", https=True) as stage:
        assert all(url.startswith("https://") for url in stage.urls.values())
        a_stranger_is_warned(playwright, next(iter(stage.urls.values())))
        flags = [*FLAGS, f"--ignore-certificate-errors-spki-list={key_hashes(stage)}"]
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        try:
            with viewing(browser, list(stage.urls.values())) as viewer:
                viewer.allowed.append(LOST)
                page, leader = viewer.page, stage.leader()
                viewer.open(stage.urls[leader], f"market/{PRODUCT}")
                assert page.evaluate("isSecureContext")
                viewer.use_key(stage.person)
                viewer.wait_drawn()
                viewer.wait_seen(10)
                fill_order(page, "buy", "50000", "0.5")
                expect(page.locator(".ticket .outcome.accepted")).to_contain_text("on the book")
                stage.kill(leader)
                viewer.until(f"document.getElementById('counter').dataset.node !== '{leader}'")
                viewer.wait_seen(40)
                found = viewer.counter()
                assert (found["gaps"], found["moves"], found["state"]) == (0, 1, "live")
                page.get_by_role("button", name="Cancel all").click()
                expect(page.locator("tr[data-order]")).to_have_count(0)
        finally:
            browser.close()


def a_stranger_is_warned(playwright: Playwright, url: str) -> None:
    """Check that a browser that does not know the authority shows nothing of the page."""
    browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
    try:
        with pytest.raises(Error, match="ERR_CERT_AUTHORITY_INVALID"):
            browser.new_page().goto(f"{url}/ui/")
    finally:
        browser.close()
