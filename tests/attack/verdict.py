"""The effect of an attack on all others."""

from __future__ import annotations

import msgspec

from tests.attack.honest import Window

P99_FACTOR = 2.0
"""The honest trader's p99 under attack, as a multiple of that in the control window."""

P99_FLOOR = 0.25
"""Seconds of p99 that are all right in any case: a machine that other work shares has outliers of that size without any
attack.
"""

MEGABYTE = 1024 * 1024


class Verdict(msgspec.Struct):
    """The verdict on one attack. `faults` is empty if it did no harm."""

    name: str
    control: Window
    attacked: Window
    elections: int
    growth: dict[str, int]
    output: list[str]
    faults: list[str]

    @property
    def holds(self) -> bool:
        """Whether all others were served as without the attack."""
        return not self.faults


def judge(
    name: str,
    control: Window,
    attacked: Window,
    *,
    elections: int,
    growth: dict[str, int],
    gone: list[str],
    growth_max: int,
    output: list[str],
) -> Verdict:
    """Compare the windows. `gone` are processes that have ended. `growth` is in bytes by process."""
    faults = [f"{what} has ended" for what in gone]
    allowed = max(P99_FACTOR * control.p99, P99_FLOOR)
    if not control.latencies or control.failures:
        faults.append(f"the control window cannot be compared: {control.failures or 'no order was taken'}")
    if attacked.p99 > allowed:
        faults.append(f"p99 {attacked.p99 * 1000:.0f} ms; {control.p99 * 1000:.0f} ms without, {allowed * 1000:.0f} ms allowed")
    faults += [f"{count} x {failure}" for failure, count in attacked.failures.items()]
    if not attacked.latencies:
        faults.append("no order was taken")
    if elections:
        faults.append(f"{elections} elections")
    faults += [
        f"{what} grew by {size / MEGABYTE:.0f} MB; {growth_max / MEGABYTE:.0f} are allowed"
        for what, size in growth.items()
        if size > growth_max
    ]
    return Verdict(name, control, attacked, elections, growth, output, faults)
