"""`help` and `completion`: the command line about itself."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("help")
@click.argument("words", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def help_(context: click.Context, words: tuple[str, ...]) -> None:
    """Help on a command: help cluster up."""
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
