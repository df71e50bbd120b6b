"""`demo`: the demonstration, out of an installed package as well."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import click

MODULE = "loadtest.demo"
"""It reaches a cluster over the network only and stands above this package, so it is started and not imported."""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the cluster up, and say how to trade on it.")
@click.option(
    "--flow",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Trade the recorded order flow in this file (csv, csv.gz).",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of the traders' orders.")
@click.option("--seconds", type=click.FloatRange(min=2), help="How long they trade.")
def demo(keep: bool, flow: Path | None, seed: int | None, seconds: float | None) -> None:
    """Start three nodes on this machine, trade, kill the leader, and check that nothing was lost, doubled or reordered.

    Exit code 0 only if every check holds. Needs nothing but this package.
    """
    if importlib.util.find_spec(MODULE) is None:
        raise click.ClickException("this installation has no load tests; the package from the wheel or the checkout has them")
    words = ["--keep"] if keep else []
    words += ["--flow", str(flow)] if flow is not None else []
    words += ["--seed", str(seed)] if seed is not None else []
    words += ["--seconds", str(seconds)] if seconds is not None else []
    os.execv(sys.executable, [sys.executable, "-m", MODULE, *words])
