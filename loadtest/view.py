"""The display of a running load test: a live table on a terminal, otherwise one line a second."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

EVENTS_SHOWN = 8
PLAIN_INTERVAL = 1.0


class NodeLine(msgspec.Struct):
    """The last status of a node. `role` is "down" if it does not answer."""

    node_id: str
    role: str
    term: int = 0
    commit_index: int = 0
    applied_index: int = 0
    sequence: int = 0
    state_hash: str = ""


class TopOfBook(msgspec.Struct):
    """Best bid and ask of a product as text."""

    product_id: str
    bid: str
    ask: str


class Scene(msgspec.Struct):
    """The contents of the view."""

    nodes: list[NodeLine] = []
    tops: list[TopOfBook] = []
    rate: float = 0.0
    acknowledged: int = 0
    p50: float = 0.0
    p99: float = 0.0
    feed: str = ""

    @property
    def leader(self) -> str:
        """The leader of the highest term, or ""."""
        leaders = [node for node in self.nodes if node.role == "leader"]
        return max(leaders, key=lambda node: node.term).node_id if leaders else ""

    @property
    def term(self) -> int:
        """The highest term of all nodes."""
        return max((node.term for node in self.nodes), default=0)

    @property
    def commit_index(self) -> int:
        """The highest commit index of all nodes."""
        return max((node.commit_index for node in self.nodes), default=0)


class View:
    """Shows a `Scene`, which the caller changes, and a list of events. Calling `refresh` often is cheap."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.scene = Scene()
        self.plain = not self.console.is_terminal
        self._begin = time.monotonic()
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._live = None if self.plain else Live(console=self.console, auto_refresh=False, transient=False)
        self._next_line = 0.0

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.update(self._render(), refresh=True)
            self._live.stop()

    def event(self, text: str) -> None:
        """Show an event."""
        line = f"{time.monotonic() - self._begin:5.1f} s  {text}"
        self._events.append(line)
        if self.plain:
            self.console.print(line, markup=False, soft_wrap=True)
        else:
            self.refresh()

    def refresh(self) -> None:
        """Show the present scene."""
        if self._live is not None:
            self._live.update(self._render(), refresh=True)
            return
        now = time.monotonic()
        if now >= self._next_line and self.scene.acknowledged:
            self._next_line = now + PLAIN_INTERVAL
            self.console.print(f"{now - self._begin:5.1f} s  {plain_line(self.scene)}", markup=False, soft_wrap=True)

    def _render(self) -> Group:
        """Return the whole view: nodes, figures, books and the latest events."""
        happened = Text("\n".join(self._events))
        return Group(
            nodes_table(self.scene),
            _figures(self.scene),
            _tops(self.scene),
            Panel(happened, title="what happened", title_align="left"),
        )


def plain_line(scene: Scene) -> str:
    """Return the scene as one line."""
    tops = "  ".join(f"{top.product_id} {top.bid}/{top.ask}" for top in scene.tops)
    return (
        f"leader {scene.leader or '-'}  term {scene.term}  commit {scene.commit_index}  {scene.rate:,.0f} orders/s  "
        f"p50 {scene.p50 * 1e3:.1f} ms  p99 {scene.p99 * 1e3:.1f} ms  {tops}"
    )


def nodes_table(scene: Scene) -> Table:
    """Return a table with a row for each node."""
    table = Table(expand=True)
    for name, justify in (("node", "left"), ("role", "left"), ("term", "right"), ("commit", "right"), ("applied", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    table.add_column("sequence", justify="right")
    table.add_column("state hash")
    styles = {"leader": "bold green", "down": "bold red", "candidate": "yellow"}
    for node in scene.nodes:
        figures = [
            str(value) if node.role != "down" else "-"
            for value in (node.term, node.commit_index, node.applied_index, node.sequence)
        ]
        role = Text(node.role, style=styles.get(node.role, ""))
        table.add_row(node.node_id, role, *figures, node.state_hash[:16] if node.role != "down" else "-")
    return table


def _figures(scene: Scene) -> Table:
    table = Table(expand=True)
    for name in ("orders/s", "latency p50", "latency p99", "answers", "feed"):
        table.add_column(name, no_wrap=True)
    times = (f"{scene.p50 * 1e3:.1f} ms", f"{scene.p99 * 1e3:.1f} ms")
    table.add_row(f"{scene.rate:,.0f}", *times, f"{scene.acknowledged:,}", scene.feed)
    return table


def _tops(scene: Scene) -> Text:
    return Text("   ".join(f"{top.product_id} {top.bid} / {top.ask}" for top in scene.tops), no_wrap=True)
