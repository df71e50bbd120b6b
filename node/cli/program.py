"""The program: its commands, each read when it is asked for, and how errors end it."""

from __future__ import annotations

import importlib
import signal

import click

from cluster.errors import ClusterError
from node.errors import QuorumbookError
from snapshots.errors import SnapshotError
from statemachine.errors import StateMachineError

COMMANDS: dict[str, tuple[str, str]] = {
    "init": (
        "nodes.init",
        "Make a cluster in DIRECTORY: keys, certificates, a configuration and a data directory for each node.",
    ),
    "node": ("nodes.node", "One node: start it in the foreground, stop it in order."),
    "cluster": ("clusters.cluster", "The nodes of a cluster on this machine, in the background, and who belongs to it."),
    "order": ("orders.order", "Orders: place, cancel, list."),
    "book": ("markets.book", "The order book of PRODUCT."),
    "account": (
        "accounts.account",
        "Accounts: `account NAME` shows what it has, `account open NAME` adds it, `account transfer` moves money.",
    ),
    "deposit": ("accounts.deposit", "Credit AMOUNT of CURRENCY to ACCOUNT."),
    "withdraw": ("accounts.withdraw", "Debit AMOUNT of CURRENCY from ACCOUNT's available balance."),
    "key": ("keys.key", "API keys: put, list, revoke, reseal."),
    "product": ("markets.product", "Products: put, status, list."),
    "currency": ("markets.currency", "Currencies: put, list."),
    "replay": (
        "replays.replay",
        "Send the recorded order flow OPS (csv, csv.gz) through the cluster, over failovers, and compare its executions.",
    ),
    "audit": ("records.audit", "Read the nodes' logs, apply every command again, and compare with what clients and nodes say."),
    "history": ("history.history", "The market database that a node keeps where history.enabled is true."),
    "export": ("tables.export_state", "Write the whole state of a node into DIR, a TSV file a table."),
    "import": ("tables.import_state", "Let a new cluster begin with the state in the TSV files of DIR."),
    "txlog": ("txlogs.txlog", "Transaction logs."),
    "snapshot": ("snapshots.snapshot", "The snapshots of nodes."),
    "backup": ("snapshots.backup", "Have a node take a snapshot, and copy it to DIRECTORY, while the cluster runs."),
    "version": (
        "nodes.version",
        "The version and commit of the software, and the ABI: the checksum of everything that is stored or sent.",
    ),
    "abi": ("migrations.abi", "The ABI: the checksum of everything that is stored or sent, and what it is made of."),
    "migrate": ("migrations.migrate", "Data that another version left: a start migrates it by itself."),
    "rollback": (
        "migrations.rollback",
        "Return to the data from before the latest migration; then start the version that wrote it.",
    ),
}
"""Where each command is, in this package, and what the list of commands says of it: so that `--help`, and each command, reads little."""


class Program(click.Group):
    """A group that turns what the world can do wrong into one line on stderr and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # the signature is click's, here and below
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of this name, None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(".")
        command = getattr(importlib.import_module(f"node.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of commands in `--help`, written without reading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

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
