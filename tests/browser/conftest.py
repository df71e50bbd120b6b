"""A cluster with a market that trades, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.stage import Stage, staged

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Playwright, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu"]


def chromium() -> str:
    """The browser's path."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    return path


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Stage]:
    """Three nodes with products, accounts and orders that come all the time."""
    with staged(tmp_path_factory.mktemp("browser") / "cluster") as opened:
        yield opened


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """The driver of browsers. A process can have one at a time."""
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Debian's chromium; nothing is downloaded."""
    opened = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures go: with PICTURES=1 to those of the README, otherwise to a directory that pytest removes."""
    if os.environ.get("PICTURES"):
        return Path(__file__).parents[2] / "docs" / "images"
    return tmp_path_factory.mktemp("images")
