"""Prints results: a table or a line for a person, JSON for a script."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import click
import msgspec
from rich.console import Console, Group
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from node.gateway.errors import detail_with
from statemachine.events import Rejected


class Declined(click.ClickException):
    """The command line refuses what the exchange would do, because it is probably not intended. Exit code 1."""


class WaitsForConsent(click.ClickException):
    """Commands were not applied: they are proposals now. Exit code 1."""


class Rejection(click.ClickException):
    """The exchange rejected a command. Exit code 1.

    `expected`: the valid values, in place of the engine's text. `number`: writes an amount in smallest
    units.
    """

    def __init__(self, outcome: Rejected, expected: str = "", number: Callable[[int], str] | None = None) -> None:
        parts = [word(outcome.reason).replace("_", " ")]
        if outcome.field:
            parts.append(f"field {outcome.field}")
        if expected or outcome.detail:
            parts.append(expected or (detail_with(outcome, number) if number is not None else outcome.detail))
        super().__init__("rejected: " + ": ".join(parts))
        self.outcome = outcome


def word(value: IntEnum) -> str:
    """Return the API's word for a value: its name in lower case."""
    return value.name.lower()


def plain(value: object) -> object:
    """Convert a value for JSON: structs become objects, enumerations words, bytes hexadecimal."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, IntEnum):
        return word(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(plain(value)), indent=2))


def instant(nanoseconds: int) -> str:
    """Return a time of the exchange in UTC."""
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: "42 s", "3 min 5 s", "2 h 10 min", "12 d 4 h"."""
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


class ProgressBar:
    """The progress of a task, shown on the terminal; silent without a terminal for it.

    Args:
        bar: the bars of `rich`, None to show nothing.
        task: the task's bar.
    """

    def __init__(self, bar: RichProgress | None = None, task: TaskID | None = None) -> None:
        self._bar = bar
        self._task = task
        self._stage = ""

    def step(self, what: str = "", count: float = 1) -> None:
        """Add `count` to the steps done; `what` is done next."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, description=what or None)

    def at(self, done: float, total: float | None = None) -> None:
        """Set the steps done, and `total` if it has only now become known."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def stage(self, what: str, done: int = 0, total: int = 0) -> None:
        """Set the stage of the task, the steps done in it, and all its steps (0: unknown). Each stage has a bar of its
        own.
        """
        if self._bar is None or self._task is None:
            return
        if what != self._stage:
            self._bar.remove_task(self._task)
            self._task, self._stage = self._bar.add_task(what, total=total or None, completed=done), what
        self._bar.update(self._task, completed=done, total=total or None)


def _is_interactive(console: Console) -> bool:
    """Return whether a person sees stderr: it is a terminal, not that of a CI run, and the command does not print JSON."""
    context = click.get_current_context(silent=True)
    if context is not None and context.params.get("as_json"):
        return False
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    # rich takes a pipe for a terminal where FORCE_COLOR is set.
    return sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal


@contextlib.contextmanager
def progress(what: str, total: float | None = None) -> Iterator[ProgressBar]:
    """Show a progress bar on stderr for work that may take more than two seconds, and nothing without a terminal, in
    CI, or with `--json`. `total`: the number of steps, None if it is not known (yet).
    """
    console = plain_console(stderr=True)
    if not _is_interactive(console):
        yield ProgressBar()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    # What the command prints meanwhile stands above the bar. In a file or a pipe it must stay there.
    to_terminal = sys.stdout.isatty()
    with RichProgress(*columns, console=console, transient=True, redirect_stdout=to_terminal) as bar:
        yield ProgressBar(bar, bar.add_task(what, total=total))


def plain_console(**options: Any) -> Console:
    """Return a console that prints text as it is. Names, notes and paths come from users: `[/]` or `:cat:` in them is
    neither markup nor the code of an emoji.
    """
    return Console(highlight=False, markup=False, emoji=False, **options)


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """Return a text with its control characters as escapes. A note of another user could otherwise move the cursor, rename the
    window, or hide a line of an administrator's terminal.
    """
    return text.translate(_CONTROLS)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str = "", right: Sequence[str] = ()) -> Table:
    """Make a table; the columns named in `right` are numbers."""
    made = Table(title=title or None, title_justify="left")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(visible(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def show(content: Table | Text | Group | str) -> None:
    """Print for a person. If stdout is not a terminal, tables are as wide as they need to be."""
    console = plain_console()
    if not console.is_terminal:
        console = plain_console(width=200)
    console.print(content)
