"""`docs/native.md` describes the messages as they are."""

from __future__ import annotations

from tests.native_reference import PAGE, written


def test_the_page_has_every_message_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "run python -m tests.native_reference to write it"
