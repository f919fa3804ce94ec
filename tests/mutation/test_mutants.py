"""The list of planted bugs is kept in step with the code, and the tool that plants them works."""

from __future__ import annotations

import pytest

from tests.mutation.mutants import MUTANTS
from tests.mutation.plantation import ROOT, Plantation, place_of

BY_WORDS = {mutant.breaks: mutant for mutant in MUTANTS}


@pytest.mark.parametrize("words", BY_WORDS)
def test_a_bug_can_still_be_planted(words):
    assert place_of(BY_WORDS[words], ROOT).is_relative_to(ROOT)


@pytest.mark.parametrize("word", ["plain offset", "hidden confirm"])
def test_a_planted_bug_is_noticed(word, tmp_path):
    mutant = next(mutant for words, mutant in BY_WORDS.items() if word in words)
    killer, _ = Plantation(tmp_path, seeds=0).killer_of(mutant)
    assert killer.startswith("session/")
