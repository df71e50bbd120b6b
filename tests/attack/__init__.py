"""Attacks on a live cluster of three nodes, judged by their effect on an honest trader.

    make attack                                                 # all of them
    python -m tests.attack.run --only malformed-frames          # one; --list names them
    python -m tests.attack.run --only NAME --seconds 60

An attack is a coroutine in a module of `tests/attack/attacks/`, registered by name:

    @attack("idle-sessions", "a thousand sessions of one key that do nothing")
    async def idle_sessions(target: Target) -> None:
        ...        # until it is cancelled; it may report results with target.say()

It runs in a process of its own. `Target` has the addresses of the nodes and the attacker's keys. The harness measures the
honest trader's orders in a control window, then in an equally long window under attack, and judges (`verdict.py`).
"""
