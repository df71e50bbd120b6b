"""The table of `docs/clients.md`: client, version, call and result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

BEGIN, END = "<!-- table: begin, written by make clients REPORT=1 -->", "<!-- table: end -->"


@dataclass
class Table:
    """Rows in the order of the calls."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, client: str, version: str, call: str, result: str) -> None:
        """Add a call and its result."""
        self.rows.append((client, version, call, result))

    def text(self) -> str:
        """Return the table as Markdown."""
        lines = ["| client | version | call | result |", "|---|---|---|---|"]
        lines += [f"| {client} | {version} | `{call}` | {result} |" for client, version, call, result in self.rows]
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Replace the table in a file."""
        before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, found, after = rest.partition(END)
        assert found, f"{path} has no {BEGIN} and {END}"
        path.write_text(f"{before}{BEGIN}\n\n{self.text()}\n\n{END}{after}", encoding="utf-8")
