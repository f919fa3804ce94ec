"""Some hundred lives of a session. Longer runs: `python -m tests.simulation --seeds 100000 --jobs 2`."""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import failure_of
from tests.simulation.recipe import Recipe

BLOCK = 50


@pytest.mark.parametrize("start", range(0, 800, BLOCK))
def test_every_promise_is_kept(start):
    failures = [failure for seed in range(start, start + BLOCK) if (failure := failure_of(Recipe(seed)))]
    assert not failures, failures[0]
