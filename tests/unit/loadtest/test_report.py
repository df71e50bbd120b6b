"""The report: figures, plots with the kill and the gap, tables as CSV, and escaped text."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from loadtest.traffic.plots import Mark, PlotTimes, plot
from loadtest.traffic.report import (
    REPORT_FILE,
    TIMELINE_FILE,
    LoadResult,
    by_protocol,
    limit_line,
    page,
    protocol_lines,
    read,
    write,
)
from loadtest.traffic.timeline import AnswerGap, Timeline
from node.records.audit import AuditCheck


def result(**changes: object) -> LoadResult:
    """Return a test of ten seconds without answers in the fifth second, when a leader was killed."""
    timeline = Timeline()
    for number in range(1000):
        at = 1000.0 + number / 100
        if not 1004.0 <= at < 1005.0:
            timeline.note(at, "HTTP", 0.01)
            timeline.note(at, "native", 0.002)
            timeline.note(at, "feed", 0.001, command=False)
    made = LoadResult(
        bins=timeline.bins,
        requests=2700,
        failures=0,
        gaps=timeline.gaps(),
        checked=200,
        faults=[],
        limit=1000.0,
        marks=[Mark(1004.0, "n1 killed")],
        checks=[AuditCheck("a <claim>", True, "figures")],
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_figures_are_summed_up_by_protocol() -> None:
    lines = {line.protocol: line for line in by_protocol(result())}
    assert list(lines) == ["HTTP", "native", "feed", "all commands"]
    assert lines["all commands"].answers == 1800
    assert lines["HTTP"].rate == pytest.approx(90, rel=0.05)
    assert lines["native"].p50_s == pytest.approx(0.002, rel=0.1)
    assert result().rate == pytest.approx(180, rel=0.05), "without the feed"


def test_the_terminal_says_the_gap_and_the_limit() -> None:
    text = "\n".join(protocol_lines(result()))
    assert "n1 killed: 1.00 s without an answer" in text
    assert "longest time without an answer 1.00 s (from 00:16:44Z)" in text
    assert "at most 1,000 requests/s" in limit_line(result())
    assert "used 18%" in limit_line(result())
    assert "not measured" in limit_line(result(limit=0.0))


def test_the_page_has_plots_with_the_kill_and_the_gap() -> None:
    text = page(result())
    assert text.count("<svg") == 2
    assert text.count('class="gap"') == 2
    assert text.count(">n1 killed<") == 2
    assert "a &lt;claim&gt;" in text
    assert "The verdict holds." in text
    assert "<script" not in text
    for part in text.split("<svg")[1:]:
        ET.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>")


def test_a_fault_is_on_the_page() -> None:
    bad = result(faults=["order <1> is missing"])
    assert not bad.holds
    assert "The verdict FAILS." in page(bad)
    assert "order &lt;1&gt; is missing" in page(bad)
    assert not result(checks=[AuditCheck("claim", False, "")]).holds


def test_the_gap_of_a_kill_is_not_the_longest_one_elsewhere() -> None:
    found = result(gaps=[AnswerGap(3.0, 1008.0), AnswerGap(0.5, 1004.1), AnswerGap(0.4, 1004.9)])
    assert found.gap_at(found.marks[0]) == AnswerGap(0.5, 1004.1)
    assert page(found).count('class="gap"') == 4
    assert result(gaps=[]).shown_gaps() == []


def test_a_test_without_answers_has_a_page() -> None:
    empty = result(bins=[], requests=0, gaps=[], faults=["nothing was sent"])
    assert "nothing was sent" in page(empty)
    assert protocol_lines(empty)


def test_a_curve_is_broken_where_nothing_was_answered() -> None:
    svg = plot(PlotTimes(0.0, 1.0, [], []), [("p50", [1.0, 10.0, 0.0, 100.0])], logarithmic=True)
    assert svg.count("<polyline") == 2
    assert plot(PlotTimes(0.0, 1.0, [], []), [("HTTP", [1.0, 0.0, 3.0])], logarithmic=False).count("<polyline") == 1


def test_every_file_of_the_report_is_written(tmp_path: Path) -> None:
    write(result(), tmp_path)
    assert read(tmp_path) == result()
    assert (tmp_path / REPORT_FILE).read_text(encoding="utf-8") == page(result())
    with (tmp_path / TIMELINE_FILE).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["answers"]) for row in rows) == 2700
    assert {row["protocol"] for row in rows} == {"HTTP", "native", "feed"}
