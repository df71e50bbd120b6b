"""Prints results: a table or a line for a person, JSON for a script."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum

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

    `expected`: what would have been right, in place of the engine's words. `number`: writes an amount in smallest
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


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show on the terminal that work is in progress which may take seconds. Prints nothing if stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(f"{what} ..."):
        yield


class ProgressBar:
    """The progress of a task, shown on the terminal; silent if stderr is not a terminal.

    Args:
        bar: the bars of `rich`, None to show nothing.
        task: the task's bar.
    """

    def __init__(self, bar: RichProgress | None = None, task: TaskID | None = None) -> None:
        self._bar = bar
        self._task = task

    def step(self, what: str = "", count: float = 1) -> None:
        """Add `count` to the steps done; `what` is done next."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, description=what or None)

    def at(self, done: float, total: float | None = None) -> None:
        """Set the steps done, and `total` if it has only now become known."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def progress(what: str, total: float | None) -> Iterator[ProgressBar]:
    """Show a progress bar on stderr for work that may take more than two seconds. `total`: the number of steps, None if
    it is not known yet.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressBar()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=console, transient=True) as bar:
        yield ProgressBar(bar, bar.add_task(what, total=total))


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str = "", right: Sequence[str] = ()) -> Table:
    """Make a table; the columns named in `right` are numbers."""
    made = Table(title=title or None, title_justify="left")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def show(content: Table | Text | Group | str) -> None:
    """Print for a person. If stdout is not a terminal, tables are as wide as they need to be."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(content)
