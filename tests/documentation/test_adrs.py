"""Each decision has a number of its own, and links to decisions have a target."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
ADRS = sorted((DOCS / "adr").glob("[0-9]*.md"))


def test_each_number_is_used_once() -> None:
    numbers = Counter(path.name[:4] for path in ADRS)
    assert [number for number, count in numbers.items() if count > 1] == []


def test_a_title_begins_with_the_number() -> None:
    wrong = [path.name for path in ADRS if not path.read_text(encoding="utf-8").startswith(f"# {path.name[:4]}")]
    assert wrong == []


def test_links_between_pages_lead_to_files() -> None:
    pages = [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]
    broken = [
        f"{page.relative_to(DOCS.parent)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+\.(?:md|png|json|xml|yml))(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not target.startswith("http") and not (page.parent / target).exists()
    ]
    assert broken == []
