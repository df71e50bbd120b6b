"""The attacks by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.attack import attacks
from tests.attack.target import Target

Run = Callable[[Target], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """An attack and how it is judged.

    Attributes:
        what: one line that says what the attacker does.
        run: attacks until it is cancelled, or for as long as it takes.
        prepare: makes what the attack needs, such as resting orders, before the control window.
        prepare_seconds: the time limit of that.
        growth_max: bytes by which a process of a node may grow during the attack, at its peak.
    """

    name: str
    what: str
    run: Run
    prepare: Run | None = None
    prepare_seconds: float = 120.0
    growth_max: int = 192 * 1024 * 1024


_attacks: dict[str, Attack] = {}


def attack(
    name: str,
    what: str,
    *,
    prepare: Run | None = None,
    prepare_seconds: float = 120.0,
    growth_max: int = 192 * 1024 * 1024,
) -> Callable[[Run], Run]:
    """Register the decorated coroutine function as an attack."""

    def register(run: Run) -> Run:
        assert name not in _attacks, f"two attacks are called {name}"
        _attacks[name] = Attack(name, what, run, prepare, prepare_seconds, growth_max)
        return run

    return register


def load_attacks() -> dict[str, Attack]:
    """Return all attacks by name, sorted."""
    for module in pkgutil.iter_modules(attacks.__path__):
        importlib.import_module(f"{attacks.__name__}.{module.name}")
    return dict(sorted(_attacks.items()))
