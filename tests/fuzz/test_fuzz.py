"""A few hundred sessions among liars. Longer runs: `python -m tests.fuzz --minutes 60`."""

from __future__ import annotations

import pytest

from tests.fuzz.life import failure_of

BLOCK = 25


@pytest.mark.parametrize("start", range(0, 200, BLOCK))
def test_no_liar_gets_the_engine_out_of_order(start):
    failures = [failure for seed in range(start, start + BLOCK) if (failure := failure_of(seed))]
    assert not failures, failures[0]
