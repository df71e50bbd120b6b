"""The output for a person: tables on a terminal, plain lines elsewhere, and the same facts in both."""

from __future__ import annotations

import io

from rich.console import Console

from loadtest.view import NodeLine, Scene, TopOfBook, View, plain_line

NODES = [
    NodeLine("n1", "down"),
    NodeLine("n2", "leader", 3, 40, 39, 200, "ab" * 16),
    NodeLine("n3", "follower", 3, 38, 38, 190, "cd" * 16),
]
SCENE = Scene(NODES, [TopOfBook("BTC-USD", "59999.9", "60000.1")], 1500.0, 4000, 0.002, 0.02, "9 events")


def shown(terminal: bool) -> str:
    text = io.StringIO()
    with View(Console(file=text, force_terminal=terminal, width=100)) as view:
        view.scene = SCENE
        view.event("n1 was killed")
        view.refresh()
    return text.getvalue()


def test_a_scene_sums_up_its_nodes() -> None:
    assert (SCENE.leader, SCENE.term, SCENE.commit_index) == ("n2", 3, 40)
    assert (Scene().leader, Scene().term, Scene().commit_index) == ("", 0, 0)


def test_the_leader_of_the_latest_term_counts() -> None:
    assert Scene([NodeLine("n1", "leader", 2), NodeLine("n2", "leader", 3)]).leader == "n2"


def test_plain_lines_have_everything_and_no_control_characters() -> None:
    text = shown(terminal=False)
    assert "n1 was killed" in text
    for fact in ("leader n2", "term 3", "commit 40", "1,500 orders/s", "p50 2.0 ms", "p99 20.0 ms", "BTC-USD 59999.9/60000.1"):
        assert fact in text
    assert "\x1b" not in text


def test_the_terminal_shows_the_same_facts() -> None:
    text = shown(terminal=True)
    for fact in ("n1 was killed", "leader", "down", "1,500", "2.0 ms", "20.0 ms", "BTC-USD 59999.9 / 60000.1", "9 events"):
        assert fact in text


def test_nothing_is_printed_before_the_first_answer() -> None:
    text = io.StringIO()
    view = View(Console(file=text))
    view.refresh()
    assert text.getvalue() == ""
    assert "leader -" in plain_line(Scene())
