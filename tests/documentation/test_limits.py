"""docs/limits.md says of the exchange's bounds what `statemachine.limits` enforces."""

from __future__ import annotations

import re
from pathlib import Path

from statemachine import limits

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"
TABLE = {
    "open orders of an account": [limits.OPEN_ORDERS_PER_ACCOUNT],
    "finished orders of an account that can be read without a history": [limits.DONE_ORDERS_PER_ACCOUNT],
    "trailing stops of a product": [limits.TRAILING_PER_PRODUCT],
    "slices of an iceberg": [limits.DISPLAYS_PER_ORDER],
    "timers of `CancelAllAfter` of an account, one for each session tag": [limits.CANCEL_AFTERS_PER_ACCOUNT],
    "unfinished `CancelAll`s of an account": [limits.MASS_CANCELS_PER_ACCOUNT],
    "fee tiers of a currency or a product": [limits.FEE_TIERS_MAX],
    "rows of each kind": [limits.VENUE_ROWS_MAX],
    "accounts of a firm": [limits.MEMBERS_PER_FIRM],
    "calendars": [limits.CALENDARS_MAX, limits.CALENDAR_PHASES_MAX, limits.CALENDAR_DAYS_MAX],
    "users": [limits.USERS_MAX, limits.GRANTS_PER_USER, limits.KEYS_PER_USER],
    "networks of a key": [limits.ADDRESSES_MAX],
    "proposals that wait for consent": [
        limits.PROPOSALS_MAX,
        limits.PROPOSALS_PER_SENDER,
        limits.PROPOSAL_BYTES_MAX // 1024,
    ],
}
"""The rows of the table, by how they begin, and their numbers."""

SENTENCES = {
    f"never exceeds {limits.WORK_PER_ENTRY + limits.MAKERS_PER_ORDER:,} units",
    f"At most {limits.TIMERS_PER_ENTRY} timers",
    f"Above {limits.RISK_LOOKS_MAX:,} open orders the exchange always rejects it",
    f"{limits.STREAMS_PER_ACCOUNT} of an account, {limits.STREAMS_ACTIVE} of them active",
    f"{limits.STREAMS} in the cluster",
}


def test_the_documented_bounds_are_those_that_are_enforced() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("## What the exchange stores")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE))
    assert rows.pop("bound") == "value"
    told = {}
    for label, numbers in rows.items():
        begins = label if label in TABLE else re.split("[:;]", label)[0]
        told[begins] = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", numbers)]
    assert told == TABLE
    flat = " ".join(text.split())
    assert [sentence for sentence in SENTENCES if sentence not in flat] == []
