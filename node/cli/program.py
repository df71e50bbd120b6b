"""The program: its commands, which are imported when needed, and how errors end it.

Exit codes: 0 done; 1 rejected by the exchange, or not possible at present; 2 a wrong command line;
`exit_codes.UNAVAILABLE` nothing was applied, because no leader or no node answered; `exit_codes.UNKNOWN` it is not
known yet whether the command was applied.
"""

from __future__ import annotations

import importlib
import signal

import click
from click.exceptions import NoSuchCommand
from click.shell_completion import get_completion_class

from cluster.errors import ClusterError
from node import exit_codes
from node.errors import ConnectionLost, QuorumbookError, RequestFailed
from snapshots.errors import SnapshotError
from statemachine.errors import StateMachineError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "clusters.demo",
        "Start three nodes on this machine, trade, kill the leader, and check that nothing was lost, doubled or reordered.",
    ),
    "init": (
        "nodes.init",
        "Make a cluster in DIRECTORY: keys, certificates, a configuration and a data directory for each node.",
    ),
    "node": ("nodes.node", "One node: check its configuration, start it in the foreground, stop it gracefully."),
    "cluster": ("clusters.cluster", "The nodes of a cluster on this machine, in the background, and the members of the cluster."),
    "order": ("orders.order", "Orders: place, cancel, list."),
    "ticker": ("markets.ticker", "Show the last trade of each PRODUCT (default: all), and its best prices."),
    "trades": ("markets.trades", "Show the latest trades of PRODUCT, newest first, as far as the node has them."),
    "book": ("markets.book", "Show the order book of PRODUCT."),
    "account": (
        "accounts.account",
        "Accounts: `account NAME` shows its balances, `account open NAME` adds it, `account transfer` moves money.",
    ),
    "deposit": ("accounts.deposit", "Credit AMOUNT of CURRENCY to ACCOUNT."),
    "withdraw": ("accounts.withdraw", "Debit AMOUNT of CURRENCY from ACCOUNT's available balance."),
    "key": ("keys.key", "API keys: put, list, revoke, reseal."),
    "product": ("markets.product", "Products: put, set, status, list."),
    "currency": ("markets.currency", "Currencies: put, list."),
    "kill-switch": (
        "controls.kill_switch",
        "The kill switch and the trading switches of the venue, a firm, an account or a product.",
    ),
    "limits": ("controls.limits", "Price collars and order limits of products."),
    "risk": ("controls.risk", "Risk limits of accounts and firms."),
    "fees": ("accounts.fees", "Fee tiers by 30-day volume, the rates of single accounts, and what an account pays."),
    "user": ("users.user", "Users and their roles."),
    "access": ("users.access", "The operator's key of the configuration file, and which commands need a second user's consent."),
    "proposal": ("users.proposal", "Commands that wait for the consent of another user."),
    "firm": ("controls.firm", "Firms, to which accounts belong."),
    "calendar": ("controls.calendar", "Trading calendars."),
    "trade": ("controls.trade", "Trades: bust one, or correct its price."),
    "replay": (
        "records.replay",
        "Send the recorded order flow OPS (csv, csv.gz) through the cluster, over failovers, and compare its executions.",
    ),
    "doctor": ("diagnosis.doctor", "Look for faults of the nodes on this machine, whether they run or not, and say what to do."),
    "check": (
        "diagnosis.check",
        "Check the health of the cluster: ask every node over the network, and run the named checks, or all.",
    ),
    "bundle": (
        "diagnosis.bundle",
        "Collect the status, settings and logs of all nodes into one archive, without secrets, with a list of its contents.",
    ),
    "top": ("diagnosis.top", "Show nodes and products live, until Ctrl-C."),
    "bench": (
        "diagnosis.bench",
        "Measure the cluster as it is: orders a second, and the 99th percentile of the latency of one order.",
    ),
    "config": ("configs.config", "Configurations: check them, show the settings in effect."),
    "audit": (
        "records.audit",
        "Read the nodes' logs, apply every command again, and compare with what clients and nodes report.",
    ),
    "history": ("history.history", "The market database of a node, if history.enabled is true."),
    "export": ("records.export_state", "Write the whole state of a node into DIR, a TSV file for each table."),
    "import": ("records.import_state", "Begin a new cluster, which has never run, with the state in the TSV files of DIR."),
    "txlog": ("txlogs.txlog", "Transaction logs: of a node of the cluster, or from a FILE that `txlog export` wrote."),
    "snapshot": ("snapshots.snapshot", "The snapshots of nodes."),
    "backup": ("snapshots.backup", "Make a node take a snapshot, and copy it to DIRECTORY, while the cluster runs."),
    "pki": ("pki.pki", "Certificates: show how long they are valid, renew them, change the authority."),
    "completion": ("program.completion", "Print the script that completes this command line in SHELL."),
    "help": ("program.help_", "Show help on a command: help cluster up."),
    "version": (
        "nodes.version",
        "Show the version, the commit, the ABI (the checksum of everything that is stored or sent), and what runs compiled.",
    ),
    "abi": ("migrations.abi", "The ABI: the checksum of everything that is stored or sent, and what it is made of."),
    "migrate": ("migrations.migrate", "Data of another version: a start migrates it automatically."),
    "rollback": (
        "migrations.rollback",
        "Return to the data from before the latest migration; then start the version that wrote it.",
    ),
}
"""The module of each command in this package, and its summary, so that `--help` and each command import little."""

INSIDE = {
    "status": "cluster status",
    "up": "cluster up",
    "down": "cluster down",
    "members": "cluster members",
    "start": "node start",
    "stop": "node stop",
    "place": "order place",
    "cancel": "order cancel",
    "orders": "order list",
    "accounts": "key list",
    "products": "product list",
    "currencies": "currency list",
    "keys": "key list",
    "snapshots": "snapshot list",
    "restore": "snapshot restore",
    "transfer": "account transfer",
    "balance": "account",
    "logs": "txlog show",
}
"""Names that users try at the top level, and the commands that they mean."""


class Commands(click.Group):
    """A group whose list of commands is wrapped and not cut off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands in `--help`: the first sentence of each."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(limit=1_000))
            for name, command in found
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class Program(Commands):
    """A group that turns every foreseeable error into one line on stderr and an exit code for its kind."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # the signature is click's, here and below
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command with this name, None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(".")
        command = getattr(importlib.import_module(f"node.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands in `--help` without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant.

        Raises:
            click.UsageError: there is no such command; the message names similar ones.
        """
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            raise (
                NoSuchCommand(name, possibilities=[*COMMANDS, *INSIDE], ctx=ctx)
                if name not in INSIDE
                else click.UsageError(f"No such command {name!r}. Did you mean '{INSIDE[name]}'?", ctx)
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command.

        Raises:
            click.ClickException: an error occurred that is not a bug.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ConnectionLost, RequestFailed) as error:
            raise _kind(error)(str(error)) from error
        except (QuorumbookError, StateMachineError, SnapshotError, ClusterError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{place}{error.strerror or error}") from error
        except UnicodeEncodeError as error:
            raise click.UsageError(f"An argument or a name is not UTF-8: {error.object!r}.", ctx) from error
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)


class _Unavailable(click.ClickException):
    """Nothing was applied; a later attempt may succeed."""

    exit_code = exit_codes.UNAVAILABLE


class _Unknown(click.ClickException):
    """It is not known whether the command was applied."""

    exit_code = exit_codes.UNKNOWN


def _kind(error: ConnectionLost | RequestFailed) -> type[click.ClickException]:
    """Return the kind of failure for a script: repeat (nothing was applied), ask again with the same id, or neither."""
    if isinstance(error, ConnectionLost):
        return _Unavailable
    match error.code.name:
        case "NO_LEADER" | "NOT_LEADER" | "STOPPING" | "OVERLOADED" | "BUSY":
            return _Unavailable
        case "OUTCOME_UNKNOWN":
            return _Unknown
    return click.ClickException


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        command = main.get_command(ctx, "version")
        assert command is not None
        ctx.invoke(command, as_json=False)
        ctx.exit()


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Same as the command `version`."
)
def main() -> None:
    """A fault-tolerant matching engine: an exchange's order book, replicated by Raft on three or five nodes.

    Begin with: quorumbook init exchange && quorumbook cluster up

    Commands work on the cluster in ./exchange unless --cluster or QUORUMBOOK_CLUSTER names another directory, or a key
    file that says where the nodes are. Exit codes: 1 refused, 2 wrong command line, 69 no leader answered and nothing
    was applied, 75 outcome unknown.
    """


SHELLS = ("bash", "zsh", "fish")


@click.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def help_(context: click.Context, words: tuple[str, ...]) -> None:
    """Show help on a command: help cluster up."""
    place = context.find_root()
    for word in words:
        group = place.command
        command = group.get_command(place, word) if isinstance(group, click.Group) else None
        if command is None:
            raise click.UsageError(f"No such command {' '.join(words)!r}.", place)
        place = click.Context(command, info_name=word, parent=place)
    click.echo(place.get_help())


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes this command line in SHELL.

    For example: quorumbook completion bash > ~/.local/share/bash-completion/completions/quorumbook
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(context.find_root().command, {}, "quorumbook", "_QUORUMBOOK_COMPLETE").source())
