"""`replay`: a recorded order flow through a running cluster."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from node.cli.output import print_json
from node.cli.session import Session, run
from node.cli.target import Target, cluster_option, json_option
from node.records.replay import ReplayPlan, ReplayReport
from node.records.replay import replay as replay_recording

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("ops", type=FILE)
@click.option("--trades", type=FILE, help="The executions of the time, to compare with.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many operations.")
@click.option(
    "--run-id", default="", help="Name of the run, part of its product's and accounts' names. Default: the first that is free."
)
@click.option("--chunk", type=click.IntRange(1, 1000), default=500, show_default=True, help="Commands under way at once.")
@cluster_option
@json_option
def replay(target: Target, as_json: bool, ops: Path, trades: Path | None, limit: int | None, run_id: str, chunk: int) -> None:
    """Send the recorded order flow OPS (csv, csv.gz) through the cluster, over failovers, and compare its executions.

    Exit code 1 if they are not the recorded ones.
    """
    plan = ReplayPlan(ops, trades, limit or 0, run_id, chunk)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=as_json or not console.is_terminal) as bar:
        task = bar.add_task("replay")

        async def work(session: Session) -> ReplayReport:
            return await replay_recording(session.client, plan, lambda done, total: bar.update(task, completed=done, total=total))

        report = run(target, work)
    if as_json:
        print_json(report)
    else:
        click.echo(describe(report))
    if not report.perfect:
        raise click.exceptions.Exit(1)


def describe(report: ReplayReport) -> str:
    """The report in a few lines."""
    rate = f"{report.commands:,} commands in {report.seconds:.1f} s ({report.commands_per_second:,.0f}/s) on {report.product_id}"
    lines = [f"{rate}, {report.rejected:,} rejected, longest wait for an answer {report.longest_pause:.2f} s"]
    if report.expected is None or report.matched is None:
        lines.append(f"{report.executed:,} executions")
    else:
        lines.append(f"{report.matched:,} of {report.expected:,} executions as recorded")
        if report.executed != report.expected:
            lines.append(f"{report.executed:,} executions happened")
        if report.first_difference is not None:
            lines.append(f"the first difference is execution {report.first_difference + 1:,}")
    return "\n".join(lines)
