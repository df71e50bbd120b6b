"""The faults of a run as a list: recorded as they happen, replayed from the list, and reduced while a violation
remains.

A run without a list draws its faults from the seed. A run with a list draws them as well, so that all other draws stay
the same, but carries out only the faults in the list. With the whole list it is the same run, byte for byte. With a
part of it, it is another run, and as reproducible.

The text of an incident is its step, its kind and its arguments. A list has one a line, or is separated by semicolons:

    412 kill n1; 430 start n1; 500 stall n1 n2 0.75
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec


class Incident(msgspec.Struct, frozen=True):
    """One fault. `step` is that of the world. `args` are names of nodes, and numbers as text."""

    step: int
    kind: str
    args: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((str(self.step), self.kind, *self.args))


def parse(text: str) -> list[Incident]:
    """Return the incidents in a text.

    Raises:
        ValueError: a part does not begin with a step and a kind.
    """
    found = []
    for part in text.replace("\n", ";").split(";"):
        words = part.split()
        if words:
            if len(words) < 2 or not words[0].isdecimal():
                raise ValueError(f"{part.strip()!r}: expected a step, a kind and what it needs, such as '412 kill n1'")
            found.append(Incident(int(words[0]), words[1], tuple(words[2:])))
    return found


class Script:
    """The faults of one run. `happened` are those that happened.

    Args:
        given: the only incidents that may happen; None for all that are drawn.
    """

    def __init__(self, given: Iterable[Incident] | None) -> None:
        self.happened: list[Incident] = []
        self._step = 0
        self._operations: dict[str, int] = {}
        self._due: dict[int, list[Incident]] | None = None
        if given is not None:
            self._due = {}
            for incident in given:
                self._due.setdefault(incident.step, []).append(incident)

    def begin_step(self) -> None:
        """Begin the world's next step."""
        self._step += 1
        self._operations.clear()

    def drawn(self, kind: str, *args: str) -> Incident | None:
        """Record that a fault was drawn in this step. Returns the incident to carry out, or None if the list does not
        have it.
        """
        incident = Incident(self._step, kind, args)
        if self._due is not None:
            due = self._due.get(self._step, [])
            if incident not in due:
                return None
            due.remove(incident)
        self.happened.append(incident)
        return incident

    def rest(self) -> list[Incident]:
        """Return the listed incidents of this step that chance did not draw. They are carried out too. `operation`
        handles those of disks.
        """
        if self._due is None:
            return []
        rest = [incident for incident in self._due.get(self._step, ()) if not incident.kind.startswith("disk-")]
        self.happened.extend(rest)
        return rest

    def operation(self, node: str, kind: str, drawn: bool) -> bool:
        """Return whether a disk operation of a node fails in the way `kind` (which begins with "disk-"), as drawn or as
        in the list.
        """
        number = self._operations[node] = self._operations.get(node, 0) + 1
        if self._due is None:
            if drawn:
                self.happened.append(Incident(self._step, kind, (node, str(number))))
            return drawn
        due = self._due.get(self._step)
        return bool(due) and self.drawn(kind, node, str(number)) is not None


def shrink(incidents: Sequence[Incident], fails: Callable[[list[Incident]], bool], *, runs_max: int = 200) -> list[Incident]:
    """Return a shorter list with which the run still fails (ddmin of Zeller and Hildebrandt).

    None of its incidents can be left out, unless `runs_max` ends the search before.

    Args:
        fails: runs the world with a list; true if the violation occurs.
        runs_max: the number of runs.
    """
    kept = list(incidents)
    parts, runs = 2, 0
    while len(kept) >= 1 and runs < runs_max:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            without = kept[:start] + kept[start + size :]
            runs += 1
            if fails(without):
                kept, parts = without, max(parts - 1, 2)
                break
            if runs >= runs_max:
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(kept))
    return kept
