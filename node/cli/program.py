"""The program: its groups, and how errors end it."""

from __future__ import annotations

import signal

import click

from cluster.errors import ClusterError
from node.cli.accounts import account, deposit, key, withdraw
from node.cli.clusters import cluster
from node.cli.history import history
from node.cli.markets import book, currency, product
from node.cli.migrations import abi, migrate, rollback
from node.cli.nodes import init, node, version
from node.cli.orders import order
from node.cli.records import audit
from node.cli.replays import replay
from node.cli.snapshots import backup, snapshot
from node.cli.tables import export_state, import_state
from node.cli.txlogs import txlog
from node.errors import QuorumbookError
from snapshots.errors import SnapshotError
from statemachine.errors import StateMachineError


class Program(click.Group):
    """A group that turns what the world can do wrong into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. Raises `click.ClickException` for every error of ours that is not a bug."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (QuorumbookError, StateMachineError, SnapshotError, ClusterError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}") from error
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """A fault-tolerant matching engine: an exchange's order book, replicated by Raft on three or five nodes.

    Begin with: quorumbook init cluster && quorumbook cluster up
    """


for command in (
    init,
    node,
    cluster,
    order,
    book,
    account,
    deposit,
    withdraw,
    key,
    product,
    currency,
    replay,
    audit,
    history,
    export_state,
    import_state,
    txlog,
    snapshot,
    backup,
    version,
    abi,
    migrate,
    rollback,
):
    main.add_command(command)
