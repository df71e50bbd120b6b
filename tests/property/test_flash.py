"""For a public workload the exchange reports what a plain price-time book does, message by message. `make oracle` takes
the whole workload.
"""

from __future__ import annotations

import pytest

from loadtest.flash import FlashMessage, read, reports, workload

needs_workload = pytest.mark.skipif(not workload().exists(), reason=f"no {workload()}; QUORUMBOOK_DATA may name the directory")


@needs_workload
def test_the_first_messages_of_the_public_workload_give_the_expected_reports() -> None:
    messages = read(workload(), 15_000)
    assert len(messages) == 15_000
    ours, rulers = reports(messages)
    assert ours == rulers


def test_each_kind_of_message_gives_the_expected_reports() -> None:
    messages = [
        FlashMessage(0, 0, 0, 5, 1, 1, 100),
        FlashMessage(0, 1, 0, 9, 2, 2, 101),
        FlashMessage(0, 0, 1, 12, 3, 3, 101),
        FlashMessage(2, 0, 0, 7, 4, 1, 99),
        FlashMessage(2, 0, 0, 7, 5, 9, 99),
        FlashMessage(1, 0, 0, 0, 6, 9, 0),
        FlashMessage(0, 1, 0, 3, 7, 2, 99),
        FlashMessage(1, 0, 0, 0, 8, 1, 0),
        FlashMessage(0, 0, 0, 1, 9, 1, 98),
    ]
    ours, rulers = reports(messages)
    assert ours == rulers
