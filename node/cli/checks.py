"""`check`: the cluster as a monitoring system asks for it."""

from __future__ import annotations

import asyncio

import click

from node.cli import session
from node.cli.output import print_json
from node.cli.target import Target, cluster_option, json_option
from node.diagnosis.findings import Finding, Level, worst
from node.diagnosis.health import LIMITS, Limits, checks, examine, observe

NAMES = list(checks())


def _explained() -> str:
    """The checks and their thresholds, for `--help`."""
    lines = []
    for name, (limits, meaning) in LIMITS.items():
        side = "below" if limits.falling else "above"
        lines.append(f"{name}: {meaning}; warning {side} {limits.warning:g}, critical {side} {limits.critical:g}")
    return "\n".join(lines)


@click.command(
    epilog="\b\nThresholds:\n" + _explained(),
    help="""Is the cluster well? Asks every node over the network and makes the checks that are named, or all.

    \b
    Checks: leader, nodes, states, lag, fsync, commit, disk, certificates, clock, history, snapshot.

    The output is one line with performance data, as Nagios plugins print it. Exit code: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (also where no cluster
    or key is found).""",
)
@click.argument("names", metavar="[CHECK]...", type=click.Choice(NAMES), nargs=-1)
@click.option("--warning", type=float, help="The threshold of the one CHECK that is named.")
@click.option("--critical", type=float, help="The threshold of the one CHECK that is named.")
@click.option(
    "--interval",
    type=click.FloatRange(0, 60),
    default=1.0,
    show_default=True,
    help="Seconds over which durations are measured.",
)
@click.option("-v", "--verbose", is_flag=True, help="A line for each finding behind the first one.")
@cluster_option
@json_option
def check(
    target: Target,
    names: tuple[str, ...],
    warning: float | None,
    critical: float | None,
    interval: float,
    verbose: bool,
    as_json: bool,
) -> None:
    chosen = list(dict.fromkeys(names)) or NAMES
    limits = _limits(chosen, warning, critical)
    try:
        access = session.reach(target)
        seen = asyncio.run(observe(access.addresses, access.tls(), access.credentials, interval))
    except Exception as error:  # noqa: BLE001 - whatever it is, a monitoring system must not take it for a warning
        click.echo(f"UNKNOWN - {error}")
        raise click.exceptions.Exit(Level.UNKNOWN) from None
    findings = examine(seen, chosen, limits)
    level = worst(findings)
    if as_json:
        print_json({"level": level, "findings": findings})
    else:
        click.echo(line(level, findings))
        for finding in findings if verbose else ():
            click.echo(f"{finding.level.name} {_about(finding)}{': ' + finding.advice if finding.advice else ''}")
    raise click.exceptions.Exit(level)


def _limits(chosen: list[str], warning: float | None, critical: float | None) -> dict[str, Limits]:
    """The thresholds, with those that were given in the place of the usual ones."""
    found = {name: limits for name, (limits, _) in LIMITS.items()}
    if warning is None and critical is None:
        return found
    if len(chosen) != 1 or chosen[0] not in LIMITS:
        raise click.UsageError(f"--warning and --critical belong to one CHECK with a threshold: {', '.join(LIMITS)}.")
    usual = found[chosen[0]]
    given = Limits(usual.warning if warning is None else warning, usual.critical if critical is None else critical, usual.falling)
    if (given.warning < given.critical) if given.falling else (given.warning > given.critical):
        order = "at most" if given.falling else "at least"
        raise click.UsageError(f"--critical: expected {order} the warning's {given.warning:g}, not {given.critical:g}.")
    return {**found, chosen[0]: given}


def line(level: Level, findings: list[Finding]) -> str:
    """One line for Nagios: the level, what is wrong or else what was looked at, and the figures."""
    bad = [finding for finding in findings if finding.level]
    text = "; ".join(_about(finding) for finding in sorted(bad, key=lambda finding: -finding.level))
    if not bad:
        text = _about(findings[0]) if len(findings) == 1 else f"{len(findings)} findings, nothing wrong"
    figures = " ".join(
        f"'{'_'.join(filter(None, (finding.check, finding.node_id, name)))}'={value:g}"
        for finding in findings
        for name, value in finding.figures.items()
    )
    return f"{level.name} - {text.replace('|', '/')}" + (f" | {figures}" if figures else "")


def _about(finding: Finding) -> str:
    return " ".join(filter(None, (finding.check, f"of {finding.node_id}:" if finding.node_id else "-", finding.text)))
