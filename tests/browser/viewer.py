"""A browser's page with what the tests do on it, and what it must never do: errors in its console, requests to anybody
but the cluster.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from loadtest.market import Trader
from node.keys.credentials import Credentials

AXE = Path(__file__).parent / "vendor" / "axe-core-4.14.1" / "axe.min.js"
SECONDS = 30.0
POLL_MS = 50
LOST = re.compile(
    r"net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|SOCKET_NOT_CONNECTED|INCOMPLETE_CHUNKED_ENCODING)"
)
"""What the browser itself writes about a node that was killed; a page cannot keep it from that."""

REFUSED = re.compile(r"status of 40[0-9]")
"""And what it writes about an answer that refuses an order."""


class Viewer:
    """One page. `allowed` are patterns of console errors that a test provokes."""

    def __init__(self, page: Page, urls: list[str]) -> None:
        self.page = page
        self.allowed: list[re.Pattern[str]] = []
        self.faults: list[str] = []
        self._urls = urls
        page.set_default_timeout(SECONDS * 1_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.on("request", self._requested)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def _requested(self, request: Request) -> None:
        known = [*self._urls, *(url.replace("http", "ws", 1) for url in self._urls), "data:"]
        if not any(request.url.startswith(url) for url in known):
            self.faults.append(f"request to {request.url}")

    def check(self) -> None:
        """Fail on faults that no test provoked."""
        left = [fault for fault in self.faults if not any(pattern.search(fault) for pattern in self.allowed)]
        assert not left, left

    def open(self, node_url: str, view: str) -> None:
        """Open the page of a node and wait until its feed is live."""
        self.page.goto(f"{node_url}/ui/#{view}")
        expect(self.page.locator("#counter")).to_have_attribute("data-state", "live", timeout=SECONDS * 1_000)

    def use_key(self, key: Trader | Credentials) -> None:
        """Enter an API key."""
        page = self.page
        page.click("#key")
        page.fill("input[name=id]", key.key_id)
        page.fill("input[name=secret]", key.secret)
        page.fill("input[name=passphrase]", key.passphrase)
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#key")).to_contain_text("Forget the key")

    def counter(self) -> dict[str, Any]:
        """Return what the counter of sequences shows."""
        found: dict[str, Any] = self.page.evaluate("({...document.getElementById('counter').dataset})")
        return {name: int(value) if value.isdigit() else value for name, value in found.items()}

    def until(self, condition: str) -> None:
        """Wait until an expression holds. Playwright's own waiting evaluates text inside the page, which the page's
        policy forbids.
        """
        end = time.monotonic() + SECONDS
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"{condition} did not come true; the counter shows {self.counter()}"
            self.page.wait_for_timeout(POLL_MS)

    def wait_seen(self, more: int) -> None:
        """Wait until so many more events were seen."""
        until = self.counter()["seen"] + more
        self.until(f"Number(document.getElementById('counter').dataset.seen) >= {until}")

    def wait_drawn(self) -> None:
        """Wait until the chart has bars and the book has prices."""
        self.until("Number(document.querySelector('.chart').dataset.bars) >= 1")
        self.until("document.querySelectorAll('.level.bid:not(.empty)').length >= 1")

    def violations(self) -> list[str]:
        """Return what axe-core finds wrong. The debugger runs its script, because the page's policy would not."""
        self.page.evaluate(AXE.read_text())
        rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        found = self.page.evaluate(f"axe.run(document, {{runOnly: {{type: 'tag', values: {json.dumps(rules)}}}}})")
        return [
            f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
            for one in found["violations"]
            for node in one["nodes"]
        ]


@contextmanager
def viewing(
    browser: Browser, urls: list[str], *, width: int = 1_440, height: int = 900, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Viewer]:
    """Open a page of that size. At the end, check that it has been free of faults."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    try:
        viewer = Viewer(context.new_page(), urls)
        yield viewer
        viewer.check()
    finally:
        context.close()
