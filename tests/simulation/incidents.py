"""The faults of a run as a list: noted as they happen, replayed from the list, and made shorter while a violation
stays.

A run without a list draws its faults from the seed. A run with one draws them all the same, so that everything else
falls as before, but carries out only what is in the list: with the whole list it is the same run, byte for byte; with a
part of it, another one, as reproducible as that.

In text an incident is its step, its kind and what it needs, and a list has one a line or is separated by semicolons:

    412 kill n1; 430 start n1; 500 stall n1 n2 0.75
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec


class Incident(msgspec.Struct, frozen=True):
    """One fault. `step` is that of the world; `args` are names of nodes, and numbers as text."""

    step: int
    kind: str
    args: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((str(self.step), self.kind, *self.args))


def parse(text: str) -> list[Incident]:
    """The incidents in a text.

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
    """What goes wrong in one run. `happened` is what did.

    Args:
        given: the only incidents that may happen; None for whatever is drawn.
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
        """The next step of the world."""
        self._step += 1
        self._operations.clear()

    def drawn(self, kind: str, *args: str) -> Incident | None:
        """A fault was drawn in this step: the incident to carry out, or None if the list does not have it."""
        incident = Incident(self._step, kind, args)
        if self._due is not None:
            due = self._due.get(self._step, [])
            if incident not in due:
                return None
            due.remove(incident)
        self.happened.append(incident)
        return incident

    def rest(self) -> list[Incident]:
        """What the list has for this step and nobody drew, to be carried out as well. What disks do is told by
        `operation`.
        """
        if self._due is None:
            return []
        rest = [incident for incident in self._due.get(self._step, ()) if not incident.kind.startswith("disk-")]
        self.happened.extend(rest)
        return rest

    def operation(self, node: str, kind: str, drawn: bool) -> bool:
        """Whether a disk operation of a node goes wrong, in the way `kind` (which begins with "disk-"), as was drawn or
        is in the list.
        """
        number = self._operations[node] = self._operations.get(node, 0) + 1
        if self._due is None:
            if drawn:
                self.happened.append(Incident(self._step, kind, (node, str(number))))
            return drawn
        due = self._due.get(self._step)
        return bool(due) and self.drawn(kind, node, str(number)) is not None


def shrink(incidents: Sequence[Incident], fails: Callable[[list[Incident]], bool], *, runs_max: int = 200) -> list[Incident]:
    """A shorter list with which the run still fails (Zeller and Hildebrandt's ddmin): no single one of it can go, if
    the runs suffice.

    Args:
        fails: runs the world with a list; true when the violation is there.
        runs_max: how often it may.
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
