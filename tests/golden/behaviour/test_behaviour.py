"""The rules number counts behaviour: under one number the same entries give the same bytes for ever, and a new number says that they do not."""

from __future__ import annotations

import pytest

from snapshots.levels import states
from snapshots.levels.level import OWN, SUPPORTED, by_abi
from statemachine.rules import RULES
from tests.golden.behaviour.corpus import Corpus, digests, recorded

CORPORA = recorded()


def named(corpus: Corpus) -> str:
    return f"rules-{corpus.rules}"


def test_every_released_level_has_its_corpus() -> None:
    released = {level.rules for level in SUPPORTED if level is not OWN}
    assert released <= {corpus.rules for corpus in CORPORA}
    assert max(corpus.rules for corpus in CORPORA) <= RULES


@pytest.mark.parametrize("corpus", [each for each in CORPORA if by_abi(each.abi)], ids=named)
def test_the_core_of_a_level_does_what_was_recorded(corpus: Corpus) -> None:
    level = states.level_with(corpus.abi)
    assert level.rules == corpus.rules
    assert digests(states.empty(level), corpus.entries) == corpus.digests


def test_the_number_moves_with_the_behaviour_and_only_with_it() -> None:
    """Behaviour of a released number changed: raise `RULES` in `statemachine/rules.py`. The number was raised, and the corpus shows no difference:
    give it back, or add to the corpus what is different."""
    newest = CORPORA[-1]
    commands = [states.commands_of(newest.abi, entry) for entry in newest.entries]
    present, former = states.empty(OWN), states.empty(states.level_with(newest.abi))
    same = all(
        present.apply(batch).outcomes == former.apply_entry(entry).outcomes
        for batch, entry in zip(commands, newest.entries, strict=True)
    )
    assert same == (newest.rules == RULES)


def test_the_corpus_reaches_most_of_the_core() -> None:
    """What it reaches and what not: `python -m tests.golden.behaviour.corpus reach`, with QUORUMBOOK_CORE=plain."""
    newest = CORPORA[-1]
    assert len(newest.entries) > 500
    assert len(set(newest.digests)) == len(newest.digests)
