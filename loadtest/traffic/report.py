"""The report of a load test: a page with plots, tables as CSV, and lines for a terminal.

The page is one file without scripts; the plots are SVG. Locust writes its own page beside it.
"""

from __future__ import annotations

import csv
import html
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtest.traffic.plots import COLOURS, Curve, Mark, PlotTimes, plot
from loadtest.traffic.timeline import BIN_S, AnswerGap, Bin, joined, quantile
from node.records.audit import AuditCheck

RESULT_FILE = "result.json"
TIMELINE_FILE = "timeline.csv"
REPORT_FILE = "report.html"

POINTS_MAX = 100
"""Points of a curve."""

GAP_BEFORE_S, GAP_AFTER_S = 0.2, 1.0
"""Seconds before and after a mark in which a gap that belongs to the mark begins."""

STYLE = """
:root { color-scheme: light dark; --line: #8886; --kill: #c0392b; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.grid { stroke: var(--line); } .gap { fill: var(--kill); opacity: .25; } .mark { stroke: var(--kill); stroke-dasharray: 4 3; }
.verdict { font-weight: 600; } .bad { color: var(--kill); } .key { display: inline-block; margin-right: 1.2rem; }
.key i { display: inline-block; width: 1.2em; height: .25em; vertical-align: middle; margin-right: .4em; }
"""


class LoadResult(msgspec.Struct, kw_only=True):
    """A load test in figures. `gaps`: the longest times without an answer, longest first. `limit`: what
    the load generator reached against an exchange that answers at once, in requests a second; 0 if not measured.
    `cpu_s`: CPU seconds of the generator. `checked`: orders that were looked for at the end.
    """

    bins: list[Bin]
    requests: int
    failures: int
    gaps: list[AnswerGap]
    checked: int
    faults: list[str]
    cpu_s: float = 0.0
    limit: float = 0.0
    limit_p99_s: float = 0.0
    title: str = ""
    marks: list[Mark] = []
    checks: list[AuditCheck] = []

    @property
    def holds(self) -> bool:
        """Whether no fault was found."""
        return not self.faults and all(check.holds for check in self.checks)

    def gap_at(self, mark: Mark) -> AnswerGap:
        """Return the longest time without an answer that began with a mark or a little later."""
        near = [gap for gap in self.gaps if -GAP_BEFORE_S <= gap.begin_s - mark.at_s <= GAP_AFTER_S]
        return near[0] if near else AnswerGap(0.0, mark.at_s)

    def shown_gaps(self) -> list[AnswerGap]:
        """Return the longest gap, and those of the marks."""
        return list(dict.fromkeys([*self.gaps[:1], *(gap for mark in self.marks if (gap := self.gap_at(mark)).seconds)]))

    @property
    def seconds(self) -> float:
        """From the first answer to the last one, in whole bins."""
        return (self.bins[-1].number - self.bins[0].number + 1) * BIN_S if self.bins else 0.0

    @property
    def commands(self) -> list[Bin]:
        """The bins of commands, without reads and feeds."""
        return [one for one in self.bins if one.commands]

    @property
    def rate(self) -> float:
        """Answers to commands a second."""
        return sum(one.answers for one in self.commands) / self.seconds if self.bins else 0.0


class ProtocolLine(msgspec.Struct, frozen=True):
    """A line of the table by protocol. Latencies in seconds."""

    protocol: str
    answers: int
    failures: int
    rate: float
    p50_s: float
    p99_s: float
    slowest_s: float


def by_protocol(result: LoadResult) -> list[ProtocolLine]:
    """Return the commands by protocol, all commands, reads and feeds."""
    if not result.bins:
        return []
    names = sorted({(not one.commands, one.protocol) for one in result.bins})
    groups = {name: [one for one in result.bins if one.protocol == name] for _, name in names}
    groups["all commands"] = result.commands
    return [
        ProtocolLine(
            name,
            answers := sum(one.answers for one in bins),
            sum(one.failures for one in bins),
            answers / result.seconds,
            quantile(bins, 0.5),
            quantile(bins, 0.99),
            max((one.slowest_s for one in bins), default=0.0),
        )
        for name, bins in groups.items()
    ]


def protocol_lines(result: LoadResult) -> list[str]:
    """Return the result as lines for a terminal."""
    lines = [f"{'':12} {'answers':>9} {'a second':>9} {'failures':>9} {'p50 ms':>8} {'p99 ms':>8} {'slowest ms':>11}"]
    lines += [
        f"{line.protocol:12} {line.answers:9,} {line.rate:9,.0f} {line.failures:9,} {line.p50_s * 1e3:8.1f} "
        f"{line.p99_s * 1e3:8.1f} {line.slowest_s * 1e3:11.1f}"
        for line in by_protocol(result)
    ]
    lines += gap_lines(result)
    lines.append(f"{result.checked} of the last acknowledged orders looked for at the end")
    return lines


def gap_lines(result: LoadResult) -> list[str]:
    """Return the lines about the gaps of the marks, and about the longest gap of all."""
    lines = [f"{mark.text}: {result.gap_at(mark).seconds:.2f} s without an answer" for mark in result.marks]
    longest = f"{result.gaps[0].seconds:.2f} s (from {_clock(result.gaps[0].begin_s)})" if result.gaps else "0.00 s"
    return [*lines, f"longest time without an answer {longest}"]


def limit_line(result: LoadResult) -> str:
    """Return a line about the limit of the generator."""
    if not result.limit:
        return "The limit of the load generator was not measured"
    share = result.rate / result.limit
    return (
        f"The load generator itself: at most {result.limit:,.0f} requests/s on this machine, against an exchange that answers at "
        f"once (p99 {result.limit_p99_s * 1e3:.1f} ms); this test used {share:.0%} of that"
    )


def write(result: LoadResult, directory: Path) -> None:
    """Write the report, the table over time, and the result itself, into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / RESULT_FILE).write_bytes(msgspec.json.encode(result))
    (directory / REPORT_FILE).write_text(page(result), encoding="utf-8")
    with (directory / TIMELINE_FILE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["time", "protocol", "answers", "failures", "p50_ms", "p99_ms", "slowest_ms"])
        for one in result.bins:
            figures = [f"{1e3 * seconds:.3f}" for seconds in (quantile([one], 0.5), quantile([one], 0.99), one.slowest_s)]
            table.writerow([f"{one.number * BIN_S:.2f}", one.protocol, one.answers, one.failures, *figures])


def read(directory: Path) -> LoadResult:
    """Read the result that `write` wrote. Raises OSError, msgspec.DecodeError."""
    return msgspec.json.decode((directory / RESULT_FILE).read_bytes(), type=LoadResult)


def page(result: LoadResult) -> str:
    """Return the report as HTML."""
    verdict = "holds" if result.holds else "FAILS"
    state = "verdict" if result.holds else "verdict bad"
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Load test of Quorumbook</title>',
        f"<style>{STYLE}</style><h1>Load test of Quorumbook</h1><p>{html.escape(result.title)}</p>",
        f"<p>{result.rate:,.0f} commands a second over {result.seconds:.0f} s.",
        f'<span class="{state}">The verdict {verdict}.</span></p>',
        f"<p>{html.escape(limit_line(result))}.</p>",
        _protocol_table(result),
    ]
    if result.commands:
        width_s, groups = joined(result.commands, POINTS_MAX)
        span = PlotTimes(result.commands[0].number * BIN_S, width_s, result.marks, result.shown_gaps())
        parts += [
            "<h2>Commands answered a second</h2>",
            _keys(sorted({one.protocol for one in result.commands})),
            plot(span, _rates(groups, width_s), logarithmic=False),
            "<h2>Latency of commands, ms</h2>",
            _keys(["p50", "p99", "slowest"]),
            plot(span, _latencies(groups), logarithmic=True),
        ]
        parts.append(f"<p>{html.escape('; '.join(gap_lines(result))).capitalize()}.</p>")
    parts += [
        _verdict_table(result),
        '<p><a href="locust.html">Locust\'s own report</a>, <a href="timeline.csv">timeline.csv</a></p></html>',
    ]
    return "\n".join(parts)


def _rates(groups: Sequence[Sequence[Bin]], width_s: float) -> list[Curve]:
    names = sorted({one.protocol for group in groups for one in group})
    return [(name, [sum(one.answers for one in group if one.protocol == name) / width_s for group in groups]) for name in names]


def _latencies(groups: Sequence[Sequence[Bin]]) -> list[Curve]:
    """Return the curves of latency over time, in milliseconds."""
    return [
        ("p50", [quantile(group, 0.5) * 1e3 for group in groups]),
        ("p99", [quantile(group, 0.99) * 1e3 for group in groups]),
        ("slowest", [max((one.slowest_s for one in group), default=0.0) * 1e3 for group in groups]),
    ]


def _keys(names: Sequence[str]) -> str:
    keys = (
        f'<span class="key"><i style="background:{COLOURS.get(name, "#555")}"></i>{html.escape(name)}</span>' for name in names
    )
    return f"<p>{''.join(keys)}</p>"


def _protocol_table(result: LoadResult) -> str:
    """Return the HTML table with a row for each protocol."""
    head = "".join(f'<th class="n">{name}</th>' for name in ("answers", "a second", "failures", "p50 ms", "p99 ms", "slowest ms"))
    rows = []
    for line in by_protocol(result):
        figures = (
            f"{line.answers:,}",
            f"{line.rate:,.0f}",
            f"{line.failures:,}",
            *(f"{1e3 * seconds:,.1f}" for seconds in (line.p50_s, line.p99_s, line.slowest_s)),
        )
        cells = "".join(f'<td class="n">{text}</td>' for text in figures)
        rows.append(f"<tr><td>{html.escape(line.protocol)}</td>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"


def _verdict_table(result: LoadResult) -> str:
    """Return the HTML table of faults and checks, or ""."""
    rows = [f'<tr><td class="bad">FAILS</td><td>{html.escape(fault)}</td><td></td></tr>' for fault in result.faults]
    rows += [
        f'<tr><td class="{"" if check.holds else "bad"}">{"holds" if check.holds else "FAILS"}</td>'
        f"<td>{html.escape(check.claim)}</td><td>{html.escape(check.detail)}</td></tr>"
        for check in result.checks
    ]
    return f"<h2>Verdict</h2><table>{''.join(rows)}</table>" if rows else ""


def _clock(at_s: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(at_s)) + "Z"
